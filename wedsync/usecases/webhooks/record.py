"""Writes received events: one transaction for all that wait at the same moment, so that a burst costs few of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.webhooks.inbox import NewRow
from wedsync.domain.webhooks.messages import Lane
from wedsync.kit.clock import utc_now
from wedsync.store import inbox
from wedsync.store.session import Database

#: A database that has not answered by then counts as down: sources wait some 10 s for their answer.
STORE_TIMEOUT_SECONDS = 5.0
#: The most messages of one transaction.
_MOST = 100
#: Transactions under way at once: while they run, what comes waits and goes together.
_WRITERS = 3

Rows = Sequence[tuple[str, NewRow]]
Lanes = dict[tuple[str, str], Lane]


class Recorder:
    """The process's writer of events. A message is on disk when `record` returns."""

    def __init__(self, db: Database, timeout_seconds: float = STORE_TIMEOUT_SECONDS) -> None:
        self._db = db
        self._timeout_seconds = timeout_seconds
        self._waiting: list[tuple[Rows, asyncio.Future[Lanes]]] = []
        self._writers: set[asyncio.Task[None]] = set()

    async def record(self, rows: Rows) -> Lanes:
        """The lane of each event that is new, by source and event id. Raises StoreUnavailable."""
        done: asyncio.Future[Lanes] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if len(self._writers) < _WRITERS:
            writer = asyncio.create_task(self._write_all(), name="record-inbox")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await done

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writers, return_exceptions=True)

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            # A caller that went away has its event recorded all the same: it may have been told so by nobody.
            try:
                lanes = await self._write([row for rows, _ in batch for row in rows], utc_now())
            except StoreUnavailable as error:
                _fail(batch, error)
            except Exception as error:  # noqa: BLE001 - one message's fault must not be the others'
                if len(batch) == 1:
                    _fail(batch, error)
                else:
                    await self._write_each(batch)
            else:
                _answer(batch, lanes)

    async def _write_each(self, batch: Sequence[tuple[Rows, asyncio.Future[Lanes]]]) -> None:
        for one in batch:
            try:
                _answer([one], await self._write(one[0], utc_now()))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
                _fail([one], error)

    async def _write(self, rows: Rows, now: datetime) -> Lanes:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._db.system() as connection:
                return await inbox.record_all(connection, rows, now)
        except TimeoutError as error:
            raise StoreUnavailable("the database does not answer", reason="timeout") from error


def _answer(batch: Sequence[tuple[Rows, asyncio.Future[Lanes]]], lanes: Lanes) -> None:
    for rows, done in batch:
        # The first message of a batch that brings an event has recorded it; the others bring it again.
        own = {key: lanes.pop(key) for source, row in rows if (key := (source, row.event.event_id)) in lanes}
        if not done.done():
            done.set_result(own)


def _fail(batch: Sequence[tuple[Rows, asyncio.Future[Lanes]]], error: Exception) -> None:
    for _, done in batch:
        if not done.done():
            done.set_exception(error)
