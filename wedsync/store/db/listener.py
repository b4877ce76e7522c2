"""One listening connection for a whole process: wakes everyone who waits for a change of a wedding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from wedsync.store.db.session import Database


class NoticeWaiter:
    """Somebody who waits for a change."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._event = asyncio.Event()

    @property
    def is_closing(self) -> bool:
        """Note that the process is about to end: no more changes will come."""
        return self._notices.is_closing

    def wake(self) -> None:
        """Note that a change came."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change since the last call; False when none came for so long."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Notices:
    """A process's listener on one NOTIFY channel, whose payloads are ids."""

    def __init__(self, db: Database, channel: str) -> None:
        self._db = db
        self._channel = channel
        self._waiters: dict[str, set[NoticeWaiter]] = {}
        self._task: asyncio.Task[None] | None = None
        self.is_closing = False

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen(), name=f"listen-{self._channel}")

    @contextlib.contextmanager
    def waiting(self, subject: str) -> Iterator[NoticeWaiter]:
        """Hear of `subject` within the block: read first, then wait, so that nothing is missed."""
        waiter = NoticeWaiter(self)
        self._waiters.setdefault(subject, set()).add(waiter)
        try:
            yield waiter
        finally:
            self._waiters[subject].discard(waiter)
            if not self._waiters[subject]:
                del self._waiters[subject]

    def release(self) -> None:
        """Wake all for good: the process is about to end."""
        self.is_closing = True
        self._wake_all()

    async def close(self) -> None:
        """Stop listening."""
        self.release()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        async for subject in self._db.listen(self._channel):
            if subject:
                for waiter in tuple(self._waiters.get(subject, ())):
                    waiter.wake()
            else:
                # Connected anew: notifications in between are lost.
                self._wake_all()

    def _wake_all(self) -> None:
        for waiters in tuple(self._waiters.values()):
            for waiter in tuple(waiters):
                waiter.wake()
