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
from wedsync.local.processes import wait_until

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


def test_up_runs_everything_until_down_and_keeps_the_weddings(folder: Path) -> None:
    first = _wedsync(folder, "up", "--detach", "--json")
    assert first.returncode == 0, first.stderr
    run = stack.read_run(folder)
    assert run is not None
    assert set(run.pids) == {"api", "worker", "sandbox", "temporal", "postgres"}
    assert (folder / "run.json").stat().st_mode & 0o777 == 0o600
    assert _get(f"{run.api_url}/api/v1/weddings", run.api_key)["data"] == []
    assert _get(run.temporal_ui_url)

    second = _wedsync(folder, "up", "--json")
    assert second.returncode == 6, second.stdout
    assert json.loads(second.stdout)["error"]["code"] == "conflict"

    os.kill(run.pids["worker"], signal.SIGKILL)
    assert wait_until(lambda: (now := stack.read_run(folder)) and now.pids["worker"] != run.pids["worker"], 2.0)
    again = stack.read_run(folder)
    assert again is not None
    assert {**again.pids, "worker": 0} == {**run.pids, "worker": 0}

    assert _wedsync(folder, "down", "--json").returncode == 0
    assert not (folder / "run.json").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in again.pids.values())


def test_up_in_the_foreground_ends_at_sigterm_and_starts_again_at_the_same_addresses(folder: Path) -> None:
    runs: list[Any] = []
    for _ in range(2):
        argv = [sys.executable, "-m", "wedsync", "up"]
        up = subprocess.Popen(argv, env=_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert wait_until(lambda up=up: stack.read_run(folder) or up.poll() is not None, _READY_SECONDS)  # type: ignore[misc]
            runs.append(stack.read_run(folder))
            up.send_signal(signal.SIGTERM)
            output = up.communicate(timeout=60)[0]
        finally:
            up.kill()
            up.wait()
        assert up.returncode == 0, output.decode()
        assert not (folder / "run.json").exists()
    first, second = (run.model_dump(exclude={"pids"}) for run in runs)
    assert first == second


def test_a_killed_up_is_cleaned_away_by_down(folder: Path) -> None:
    assert _wedsync(folder, "up", "--detach").returncode == 0
    run = stack.read_run(folder)
    supervision = json.loads((folder / "supervisor.json").read_text())
    assert run is not None
    os.kill(supervision["supervisor"]["pid"], signal.SIGKILL)
    assert _wedsync(folder, "down").returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in run.pids.values())
    assert not (folder / "run.json").exists()
