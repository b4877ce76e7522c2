"""The main job as a newcomer runs it: every program a process of its own, nothing but the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A state folder of its own and free ports; whatever a failed demo left running is ended."""
    values = {**os.environ, "WEDSYNC_STATE_DIR": str(tmp_path / "state"), "WEDSYNC_API_PORT": "0"}
    # A file of choices, even an empty one, would mean that a server stands ready elsewhere.
    values.pop("TEMPORAL_CONFIG_FILE", None)
    yield values
    subprocess.run([sys.executable, "-m", "wedsync", "down"], cwd=ROOT, env=values, check=False, capture_output=True)


def test_the_demo_ends_three_weddings_as_they_should(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wedsync", "--json", "demo"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    assert [scene["ok"] for scene in told["scenes"]] == [True, True, True], told
    assert not (Path(environment["WEDSYNC_STATE_DIR"]) / "run.json").exists()
