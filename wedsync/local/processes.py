"""Starts and ends child processes, known by pid and start time, so that a reused pid is never taken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

_POLL_SECONDS = 0.05


class Identity(BaseModel):
    """One process: its pid and when it started, as the system writes it."""

    model_config = ConfigDict(frozen=True)
    pid: int
    started: str


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process; None when there is none (a zombie counts as none)."""
    started = _started_by_proc(pid) if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    return Identity(pid=pid, started=started) if started else None


def _started_by_proc(pid: int) -> str | None:
    # proc(5): the command's name may hold spaces and parentheses; field 3 is the state, field 22 the start time.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _started_by_ps(pid: int) -> str | None:
    return _ps(pid, "lstart=") or None


def _ps(pid: int, column: str) -> str:
    argv = ["ps", "-o", column, "-p", str(pid)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def command_line(pid: int) -> str:
    """Return the arguments that a process was started with, joined by spaces; empty when there is none."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    return _ps(pid, "command=")


def is_alive(process: Identity) -> bool:
    """Tell whether exactly this process still runs."""
    return identify(process.pid) == process


def send(process: Identity, number: signal.Signals) -> None:
    """Signal exactly this process; nothing happens when it is gone."""
    if is_alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def wait_until(probe: Callable[[], object], seconds: float) -> bool:
    """Tell whether `probe` returns true within `seconds`; it is called 20 times a second."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def wait_gone(process: Identity, seconds: float) -> bool:
    """Tell whether the process is gone within `seconds`."""
    return wait_until(lambda: not is_alive(process), seconds)


def end(process: Identity, *, grace_seconds: float, first: signal.Signals = signal.SIGTERM) -> None:
    """End a process: `first`, then SIGKILL after `grace_seconds`."""
    send(process, first)
    if not wait_gone(process, grace_seconds):
        send(process, signal.SIGKILL)
        wait_gone(process, 5.0)


class Child:
    """A child process of ours, in a session of its own (a ^C of the terminal reaches only us), its output in a log."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        group: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._user = user
        self._group = group
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        #: By `time.monotonic()`.
        self.spawned_at = 0.0

    def spawn(self) -> None:
        """Start it; append its output to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        drop: dict[str, Any] = (
            {} if self._user is None else {"user": self._user, "group": self._group, "extra_groups": []}
        )
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                **drop,
            )
        self.spawned_at = time.monotonic()

    @property
    def pid(self) -> int:
        """Return its pid; 0 when it was never started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Tell whether it runs (and reap it when not)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def let_go(self) -> None:
        """Forget it: it outlives this program."""
        if self._process is not None:
            # Else Python warns of a child that still runs.
            self._process.returncode = 0
            self._process = None

    def identity(self) -> Identity | None:
        """Return its identity while it runs."""
        return identify(self.pid) if self.alive else None

    def stop(self, grace_seconds: float) -> None:
        """End it gracefully, by SIGKILL after `grace_seconds`; returns when it is gone."""
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16_384))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""
