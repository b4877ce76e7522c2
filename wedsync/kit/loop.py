"""Run the event loop of the programs that serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def run(program: Coroutine[Any, Any, None]) -> None:
    """Run a program to its end: on uvloop where it is installed, on asyncio's own loop elsewhere (Windows, PyPy)."""
    with asyncio.Runner(loop_factory=factory()) as runner:
        runner.run(program)


def factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the loop; None: asyncio's own way."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
