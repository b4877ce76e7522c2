"""The loop of a workflow that has the timers of a row: act on what is due, wait until the next thing is, act again."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

from temporalio import workflow

from workflows import options

R = TypeVar("R")

#: Continue as new after so many wakes: about 2,000 history events.
WAKES_PER_RUN = 200
_SHORTEST = timedelta(milliseconds=50)


class Rest(NamedTuple):
    """How long to wait for the next wake, and for what."""

    duration: timedelta
    why: str


class ReconcileLoop(Generic[R]):
    """Wakes and waits in turns. The row is the truth; a killed worker loses nothing, since timers are durable."""

    def __init__(self) -> None:
        #: Somebody changed the row since the last wake.
        self.is_woken = False

    def wake(self) -> None:
        """Note that somebody changed the row."""
        self.is_woken = True

    async def run(
        self,
        act: Callable[[], Awaitable[R]],
        rest: Callable[[R], Rest | None],
        continued: Callable[[int], object],
        *,
        wakes: int = 0,
    ) -> tuple[R, int]:
        """Run until an act leaves nothing to wait for; returns that act's result and how many wakes there were.

        `wakes` were in earlier runs; `continued` gives the input of the next run by their number.
        """
        before = wakes
        while True:
            self.is_woken = False
            result = await act()
            wakes += 1
            pause = rest(result)
            if pause is None:
                return result, wakes
            if not self.is_woken:
                await self._wait(pause)
            if wakes - before >= WAKES_PER_RUN:
                workflow.continue_as_new(continued(wakes))

    async def _wait(self, pause: Rest) -> None:
        duration = min(max(pause.duration, _SHORTEST), options.LONGEST_TIMER)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self.is_woken, timeout=duration, timeout_summary=pause.why)
