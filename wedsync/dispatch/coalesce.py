"""Signals that are told apart by a subject: one in flight for each, a few a second, and nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from wedsync.kit.temporal import AWAY

#: Signals about one subject are at least this far apart; those that come between become one.
SIGNAL_INTERVAL_SECONDS = 0.25
#: Connecting included: a signal never holds its subject's place for longer.
_SIGNAL_TIMEOUT_SECONDS = 10.0


class Coalescer:
    """Sends the process's signals. One that does not reach Temporal is reported and given up: a sweep repeats it."""

    def __init__(
        self,
        send: Callable[[str], Awaitable[None]],
        missed: Callable[[str, BaseException], None],
        interval_seconds: Callable[[str], float],
    ) -> None:
        self._send = send
        self._missed = missed
        self._interval_seconds = interval_seconds
        self._wanted: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}

    def want(self, subject: str) -> None:
        """Have the subject signalled soon; returns at once."""
        self._wanted.add(subject)
        if subject not in self._running:
            self._running[subject] = asyncio.create_task(self._run(subject), name=f"signal-{subject}")

    async def close(self) -> None:
        """Wait for the signals that are under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, subject: str) -> None:
        try:
            while subject in self._wanted:
                self._wanted.discard(subject)
                await self._signal(subject)
                await asyncio.sleep(self._interval_seconds(subject))
        finally:
            del self._running[subject]

    async def _signal(self, subject: str) -> None:
        try:
            async with asyncio.timeout(_SIGNAL_TIMEOUT_SECONDS):
                await self._send(subject)
        except AWAY as error:
            self._missed(subject, error)
