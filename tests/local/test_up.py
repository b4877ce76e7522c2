"""`wedsync up` and `down` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from wedsync.local import stack
from wedsync.local.processes import identify, wait_until

_READY_SECONDS = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    stack.forget(tmp_path / "state")


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TEMPORAL_CONFIG_FILE"}
    return {**kept, "WEDSYNC_STATE_DIR": str(folder), "WEDSYNC_API_PORT": "0"}


def _wedsync(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "wedsync", *words]
    return subprocess.run(argv, env=_environment(folder), capture_output=True, text=True, timeout=180, check=False)


def _get(url: str, key: str = "") -> Any:
    request = Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    with urlopen(request, timeout=10) as answer:  # noqa: S310
        return json.load(answer) if "json" in answer.headers["Content-Type"] else answer.read()


def _all_gone(run: stack.RunInfo) -> bool:
    return not any(identify(pid) for pid in run.pids.values())


@pytest.fixture
def run(folder: Path) -> stack.RunInfo:
    """A stack started in the background."""
    first = _wedsync(folder, "up", "--detach", "--json")
    assert first.returncode == 0, first.stderr
    found = stack.read_run(folder)
    assert found is not None
    return found


def test_the_stack_serves_restarts_its_worker_and_is_cleaned_away_after_a_crash(
    folder: Path, run: stack.RunInfo
) -> None:
    assert set(run.pids) == {"api", "worker", "sandbox", "temporal", "postgres"}
    assert (folder / "run.json").stat().st_mode & 0o777 == 0o600
    assert _get(f"{run.api_url}/api/v1/weddings", run.api_key)["data"] == []
    assert b"<html" in _get(run.temporal_ui_url)

    second = _wedsync(folder, "up", "--json")
    assert second.returncode == 6, second.stdout
    assert "end it with `wedsync down`" in second.stderr + second.stdout
    assert json.loads(second.stdout)["error"]["code"] == "conflict"

    os.kill(run.pids["worker"], signal.SIGKILL)
    assert wait_until(lambda: (now := stack.read_run(folder)) and now.pids["worker"] != run.pids["worker"], 2.0)
    again = stack.read_run(folder)
    assert again is not None
    assert {**again.pids, "worker": 0} == {**run.pids, "worker": 0}

    # Nobody is left to end the programs: `down` does.
    os.kill(json.loads((folder / "supervisor.json").read_text())["supervisor"]["pid"], signal.SIGKILL)
    down = _wedsync(folder, "down", "--json")
    assert down.returncode == 0, down.stderr
    assert _all_gone(again)
    assert not (folder / "run.json").exists()

    # The next one finds its addresses and data again, and ends as it is told.
    argv = [sys.executable, "-m", "wedsync", "up"]
    up = subprocess.Popen(argv, env=_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert wait_until(lambda: stack.read_run(folder) or up.poll() is not None, _READY_SECONDS)
        third = stack.read_run(folder)
        up.send_signal(signal.SIGTERM)
        output = up.communicate(timeout=60)[0].decode()
    finally:
        up.kill()
        up.wait()
    assert up.returncode == 0, output
    assert third is not None, output
    assert third.model_dump(exclude={"pids"}) == run.model_dump(exclude={"pids"})
    assert _all_gone(third)
    assert not (folder / "run.json").exists()


def test_down_ends_what_up_started_in_the_background(folder: Path, run: stack.RunInfo) -> None:
    supervisor = json.loads((folder / "supervisor.json").read_text())["supervisor"]["pid"]
    down = _wedsync(folder, "down", "--json")
    assert (down.returncode, json.loads(down.stdout)) == (0, {"stopped": True})
    assert _all_gone(run)
    assert identify(supervisor) is None
    assert not (folder / "run.json").exists()
