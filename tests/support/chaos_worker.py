"""The worker as a program that tests kill: `python -m tests.support.chaos_worker`.

It loads everything, then waits for a line on its standard input before it serves, so that a spare one can stand ready.
It ends with whoever holds the other end of its standard input. `CHAOS_TIMEOUT_SECONDS` shortens every vendor's HTTP
timeout and `CHAOS_SETTLING_SECONDS` the time until an absence counts; unset, both are production's.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from wedsync.domain.weddings import saga
from wedsync.kit import logs
from wedsync.kit.settings import Settings
from wedsync.usecases.routing.registry import load_registry
from workers.main import run


def _shorten() -> None:
    timeout, settling = os.environ.get("CHAOS_TIMEOUT_SECONDS"), os.environ.get("CHAOS_SETTLING_SECONDS")
    if timeout:
        manifests = load_registry().manifests
        for name, manifest in list(manifests.items()):
            manifests[name] = manifest.model_copy(update={"timeout_seconds": float(timeout)})
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
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
