"""Private files, remembered ports, processes known by more than their pid."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wedsync.local import ports, processes
from wedsync.local.files import write_private
from wedsync.local.ports import PortRegistry
from wedsync.local.processes import Child, Identity


def test_a_private_file_is_replaced_whole_and_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_ports_stay_the_same_while_they_are_free(tmp_path: Path) -> None:
    first = PortRegistry(tmp_path / "ports.json").acquire("api")
    assert PortRegistry(tmp_path / "ports.json").acquire("api", ports.free_port()) == first
    with socket.socket() as taken:
        taken.bind((ports.HOST, first))
        taken.listen()
        assert PortRegistry(tmp_path / "ports.json").acquire("api") != first


def test_two_names_never_share_a_port(tmp_path: Path) -> None:
    wanted = ports.free_port()
    registry = PortRegistry(tmp_path / "ports.json")
    assert registry.acquire("api", wanted) == wanted
    assert registry.acquire("sandbox", wanted) != wanted


def test_two_stacks_that_start_at_once_choose_different_ports(tmp_path: Path) -> None:
    wanted = PortRegistry(tmp_path / "ours.json").acquire("temporal")
    code = f"from wedsync.local.ports import *; print(PortRegistry(Path('theirs.json')).acquire('temporal', {wanted}))"
    argv = [sys.executable, "-c", code]
    theirs = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert ports.is_free(wanted)
    assert int(theirs.stdout) != wanted


def test_a_spoilt_port_book_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("[1, 2")
    assert PortRegistry(tmp_path / "ports.json").acquire("api") > 0


def _sleeper(tmp_path: Path, code: str = "import time; time.sleep(60)") -> Child:
    child = Child("sleeper", [sys.executable, "-c", code], log=tmp_path / "sleeper.log")
    child.spawn()
    return child


def test_a_reused_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    child = _sleeper(tmp_path)
    try:
        real = child.identity()
        assert real is not None
        assert processes.is_alive(real)
        stranger = Identity(pid=real.pid, started="long ago")
        assert not processes.is_alive(stranger)
        processes.end(stranger, grace_seconds=0)
        assert child.alive
        for _ in range(1000):
            # Between fork and exec a process has no command line of its own.
            if "time.sleep(60)" in processes.command_line(real.pid):
                break
            time.sleep(0.01)
        assert "time.sleep(60)" in processes.command_line(real.pid)
    finally:
        child.kill()
    assert not processes.is_alive(real)
    assert processes.command_line(real.pid) == ""


def test_a_child_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = _sleeper(tmp_path, code)
    while "deaf" not in child.log_tail():
        assert child.alive
    identity = child.identity()
    assert identity is not None
    child.stop(grace_seconds=0.2)
    assert child.exit_code == -9
    assert not processes.is_alive(identity)


def test_a_zombie_counts_as_gone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    identity = processes.identify(process.pid)
    assert identity is not None
    assert processes.wait_gone(identity, 10.0)
    process.wait()
