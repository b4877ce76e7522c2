from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc
from wedsync.kit.memory import freeze_memory
kept = [[n] for n in range(1000)]
freeze_memory()
assert gc.isenabled()
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
"""


def test_what_is_loaded_is_not_gone_through_again_and_collecting_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"]
