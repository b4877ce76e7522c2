"""Four verbs of the embedded stack: run in the foreground, start in the background, stop, show."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Set
from pathlib import Path

from wedsync.domain.errors import Conflict
from wedsync.kit import logs
from wedsync.kit.settings import Settings
from wedsync.local import processes
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.local.processes import Child, identify
from wedsync.local.ready import NotStarted
from wedsync.local.state import RunInfo, StateDir, already_running
from wedsync.local.supervisor import OnProgress, Supervisor, end_leftovers

_DETACHED_SECONDS = 180.0
_DOWN_SECONDS = 60.0
#: The command line's exit code for a conflict.
_CONFLICT_EXIT = 6
_HANDED_DOWN = {"api_port", "sandbox_port", "log_level"}


async def start(
    settings: Settings, *, only: Set[str] | None = None, on_progress: OnProgress | None = None
) -> tuple[RunInfo, Supervisor]:
    """Start the stack within this process's care; `await supervisor.stop()` ends it.

    `only` names the wanted parts of `postgres temporal sandbox worker api`; a Postgres or Temporal that is configured
    (`WEDSYNC_DATABASE_URL`, `TEMPORAL_ADDRESS`) is never embedded. Raises Conflict when a stack runs in the same state
    folder or a port is taken, else NotStarted, StoreUnavailable or TemporalUnreachable with the end of a log.
    """
    supervisor = Supervisor(settings, only=only, on_progress=on_progress)
    return await supervisor.start(), supervisor


async def run_until_stopped(
    settings: Settings,
    on_ready: Callable[[RunInfo], None] | None = None,
    *,
    only: Set[str] | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second SIGINT ends the programs at once. Raises as `start`."""
    logs.setup(settings, "up")
    stopped = asyncio.Event()
    supervisor = Supervisor(settings, only=only, on_progress=on_progress)

    def request_stop() -> None:
        if stopped.is_set():
            supervisor.kill()
        stopped.set()

    loop = asyncio.get_running_loop()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in handled:
        loop.add_signal_handler(number, request_stop)
    try:
        starting = asyncio.create_task(supervisor.start())
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not starting.done():
            # `start` ends what it has started.
            starting.cancel()
            await asyncio.wait({starting})
            return
        run = starting.result()
        try:
            if on_ready is not None:
                on_ready(run)
            await supervisor.watch(stopped)
        finally:
            await supervisor.stop()
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def start_detached(settings: Settings) -> RunInfo:
    """Start `wedsync up` in a session of its own and return when it is ready; its output is in `logs/up.log`.

    The settings reach it by this process's environment, with the state folder and ports of `settings`. Raises
    Conflict when a stack runs already, NotStarted with the end of the log; nothing that it started runs on then, nor
    when it is cancelled.
    """
    state = StateDir(settings.state_dir)
    if state.is_locked():
        raise already_running(state.path)
    state.remove_run()
    environment = {**os.environ, "WEDSYNC_STATE_DIR": str(state.path)}
    for name in _HANDED_DOWN & settings.model_fields_set:
        environment[f"WEDSYNC_{name.upper()}"] = str(getattr(settings, name))
    up = Child("up", [sys.executable, "-m", "wedsync", "up"], log=state.logs / "up.log", env=environment)
    up.spawn()
    try:
        run = await _until_ready(state, up)
    except BaseException:
        # Whoever asked, by ^C too, has nothing else to end it by: `up` may not have written its files yet.
        _give_up(state, up)
        raise
    up.let_go()
    return run


async def _until_ready(state: StateDir, up: Child) -> RunInfo:
    deadline = time.monotonic() + _DETACHED_SECONDS
    while (run := _ready_run(state, up)) is None:
        if not up.alive:
            kind = Conflict if up.exit_code == _CONFLICT_EXIT else NotStarted
            raise kind(f"`wedsync up` ended while it started:\n{up.log_tail()}")
        if time.monotonic() > deadline:
            raise NotStarted(f"`wedsync up` was not ready within {_DETACHED_SECONDS:.0f} s:\n{up.log_tail()}")
        await asyncio.sleep(0.1)
    return run


def _give_up(state: StateDir, up: Child) -> None:
    """End `up` and what it has started; another's stack in the folder goes on."""
    up.stop(_DOWN_SECONDS)
    supervision = state.read_supervision()
    if supervision is not None and supervision.supervisor.pid == up.pid:
        end_leftovers(state)


def _ready_run(state: StateDir, up: Child) -> RunInfo | None:
    supervision = state.read_supervision()
    if supervision is None or supervision.supervisor.pid != up.pid:
        return None
    return state.read_run()


async def stop(settings: Settings) -> bool:
    """End the stack of the state folder, whoever started it; True when something was running."""
    return await asyncio.to_thread(stop_folder, settings.state_dir)


def stop_folder(state_dir: Path) -> bool:
    """Stop the stack of a state folder. Processes are known by pid and start time: a stale file ends nobody else's."""
    state = StateDir(state_dir)
    supervision = state.read_supervision()
    was_running = False
    if supervision is not None and state.is_locked() and identify(os.getpid()) != supervision.supervisor:
        was_running = processes.is_alive(supervision.supervisor)
        processes.end(supervision.supervisor, grace_seconds=_DOWN_SECONDS)
    # What is left when the supervisor was killed, now or earlier.
    was_running = end_leftovers(state) or was_running
    state.remove_run()
    return was_running


def forget(state_dir: Path) -> None:
    """Stop the stack and delete its state folder, with the data that Postgres keeps elsewhere when run by root."""
    stop_folder(state_dir)
    state = StateDir(state_dir)
    if (state.path / "postgres").is_dir():
        EmbeddedPostgres(state.path / "postgres").destroy()
    shutil.rmtree(state.path, ignore_errors=True)


def read_run(state_dir: Path) -> RunInfo | None:
    """Return where everything is, when a stack is ready in this state folder."""
    state = StateDir(state_dir)
    return state.read_run() if state.is_locked() else None


__all__ = [
    "RunInfo",
    "Supervisor",
    "forget",
    "read_run",
    "run_until_stopped",
    "start",
    "start_detached",
    "stop",
    "stop_folder",
]
