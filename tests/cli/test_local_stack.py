"""A stack for one command: what it did not start, it does not stop."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wedsync.local import processes
from wedsync.local.state import StateDir, Supervision


@pytest.fixture
def another_supervisor(nowhere):
    """Somebody else's `wedsync up` that is not ready yet: it holds the folder and has no run.json."""
    state = StateDir(nowhere)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock = state.lock()
    state.write_supervision(Supervision(supervisor=processes.identify(child.pid), children={}))
    yield child
    lock.release()
    child.kill()
    child.wait()


def test_a_stack_that_another_command_is_starting_is_left_alone(wedsync, another_supervisor):
    ran = wedsync("demo", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (6, "conflict")
    assert "wedsync runs already" in ran.json["error"]["detail"]
    assert another_supervisor.poll() is None
