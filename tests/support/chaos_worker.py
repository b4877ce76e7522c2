"""Runs the worker as a program that tests kill: `python -m tests.support.chaos_worker`.

It loads everything once, and has a child of its own serve for each line on its standard input: the next worker is there
as soon as one was killed. Children's ids are said on the descriptor `CHAOS_SAYS`. All end with whoever holds the other
end of its standard input. `CHAOS_TIMEOUT_SECONDS` shortens every vendor's HTTP
timeout, `CHAOS_SETTLING_SECONDS` the time until an absence counts and `CHAOS_OPEN_SECONDS` how long a circuit stays
open at first (and four times that at the most); unset, each is production's.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client, Plugin

from tests.support import chaos_points
from wedsync import runtime
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.weddings import saga
from wedsync.kit import logs, temporal
from wedsync.kit.settings import Settings
from wedsync.pipeline.admission import AdmissionController
from wedsync.vendors.registry import load_registry
from workers import main as main_program

_LOOK_SECONDS = 0.2
_SAYS = int(os.environ.get("CHAOS_SAYS", "1"))


def _shorten() -> None:
    timeout, settling = os.environ.get("CHAOS_TIMEOUT_SECONDS"), os.environ.get("CHAOS_SETTLING_SECONDS")
    is_open_for = os.environ.get("CHAOS_OPEN_SECONDS")
    if timeout:
        manifests = load_registry().manifests
        for name, manifest in list(manifests.items()):
            manifests[name] = manifest.model_copy(update={"timeout_seconds": float(timeout)})
    if is_open_for:
        seconds = float(is_open_for)
        quick = CircuitPolicy(open_seconds=seconds, open_cap_seconds=4 * seconds, ramp_step_seconds=seconds)
        setattr(runtime, "AdmissionController", functools.partial(AdmissionController, policy=quick))  # noqa: B010 - a stand-in
    if settling:
        saga.SETTLING_SECONDS = float(settling)


def _ask_at_points() -> None:
    async def connected(settings: Settings, *, plugins: Sequence[Plugin] = (), **options: Any) -> Client:
        return await temporal.connect(settings, plugins=[*plugins, *chaos_points.plugins()], **options)

    setattr(main_program, "connect", connected)  # noqa: B010 - a stand-in


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)


def _serve(parent: int) -> None:
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    asyncio.run(main_program.run(Settings()))


def main() -> None:
    """Load everything, then have a child serve for each line, and say its process id."""
    logs.setup(Settings(), "worker")
    _shorten()
    _ask_at_points()
    # Nobody waits for the dead.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    nursery = os.getpid()
    for _ in iter(sys.stdin.buffer.readline, b""):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(nursery)
            os._exit(0)
        os.write(_SAYS, b"%d\n" % child)


if __name__ == "__main__":
    main()
