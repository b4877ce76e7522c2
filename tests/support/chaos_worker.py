"""Runs the worker as a program that tests kill: `python -m tests.support.chaos_worker`.

It loads everything, then waits for a line on its standard input before it serves, so that a spare one can stand ready.
It ends with whoever holds the other end of its standard input. `CHAOS_TIMEOUT_SECONDS` shortens every vendor's HTTP
timeout and `CHAOS_SETTLING_SECONDS` the time until an absence counts; unset, both are production's. A shortened run
doesn't wait for circuits that stay open longer with each trip, either.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading

from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.weddings import saga
from wedsync.kit import logs
from wedsync.kit.settings import Settings
from wedsync.usecases.routing.registry import load_registry
from wedsync.usecases.routing.switchboard import Switchboard
from workers import main as main_program


def _shorten() -> None:
    timeout, settling = os.environ.get("CHAOS_TIMEOUT_SECONDS"), os.environ.get("CHAOS_SETTLING_SECONDS")
    if timeout:
        manifests = load_registry().manifests
        for name, manifest in list(manifests.items()):
            manifests[name] = manifest.model_copy(update={"timeout_seconds": float(timeout)})
        quick = CircuitPolicy(open_seconds=2, open_cap_seconds=8, ramp_step_seconds=2)
        setattr(main_program, "Switchboard", functools.partial(Switchboard, policy=quick))  # noqa: B010 - a stand-in
    if settling:
        saga.SETTLING_SECONDS = float(settling)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Stand by, then serve."""
    settings = Settings()
    logs.setup(settings, "worker")
    _shorten()
    if not sys.stdin.buffer.readline():
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(main_program.run(settings))


if __name__ == "__main__":
    main()
