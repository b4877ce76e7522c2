"""Write received events: one transaction for all that wait at the same moment, so that a burst costs few of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.inbox.messages import Lane
from wedsync.domain.inbox.triage import NewRow
from wedsync.kit.clock import utc_now
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox

#: A database that has not answered by then counts as down: sources wait some 10 s for their answer.
STORE_TIMEOUT_SECONDS = 5.0
#: The most that waits and is under way for the database, in messages and in bytes; what comes beyond is refused.
MOST_HELD = 10_000
MOST_HELD_BYTES = 64 * 1024 * 1024
#: The most messages of one transaction.
_MOST = 100
#: Transactions under way at once: while they run, what comes waits and goes together.
_WRITERS = 3
#: What a row takes beside its body.
_ROW_BYTES = 1024

Rows = Sequence[tuple[str, NewRow]]
Lanes = dict[tuple[str, str], Lane]


@dataclass(eq=False, slots=True)
class _Message:
    """One request's events, and who waits for their record."""

    rows: Rows
    done: asyncio.Future[Lanes]
    size_bytes: int


class Recorder:
    """Writes the process's events. A message is on disk when `record` returns."""

    def __init__(
        self,
        db: Database,
        timeout_seconds: float = STORE_TIMEOUT_SECONDS,
        *,
        most_held: int = MOST_HELD,
        most_held_bytes: int = MOST_HELD_BYTES,
    ) -> None:
        self._db = db
        self._timeout_seconds = timeout_seconds
        self._most_held = most_held
        self._most_held_bytes = most_held_bytes
        #: In the order in which they came.
        self._waiting: dict[_Message, None] = {}
        self._held = 0
        self._held_bytes = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def record(self, rows: Rows) -> Lanes:
        """Record a message; return the lane of each event that is new, by source and event id.

        Raises StoreUnavailable: at once when too much waits for the database, else `timeout_seconds` after the call.
        """
        message = self._hold(rows)
        if len(self._writers) < _WRITERS:
            writer = asyncio.create_task(self._write_all(), name="record-inbox")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await message.done
        except TimeoutError as error:
            # The source sends it again; what is under way by now may still be recorded, and is known then.
            if message in self._waiting:
                del self._waiting[message]
                self._let_go([message])
            raise StoreUnavailable("the database does not answer", reason="timeout") from error

    def _hold(self, rows: Rows) -> _Message:
        size_bytes = sum(2 * len(row.sealed_body) + _ROW_BYTES for _, row in rows)
        too_much = self._held_bytes + size_bytes > self._most_held_bytes
        if self._held >= self._most_held or (self._held and too_much):
            raise StoreUnavailable("too many events wait for the database", reason="full")
        message = _Message(rows, asyncio.get_running_loop().create_future(), size_bytes)
        self._waiting[message] = None
        self._held += 1
        self._held_bytes += size_bytes
        return message

    def _let_go(self, messages: Sequence[_Message]) -> None:
        self._held -= len(messages)
        self._held_bytes -= sum(message.size_bytes for message in messages)

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writers, return_exceptions=True)

    async def _write_all(self) -> None:
        while self._waiting:
            batch = list(itertools.islice(self._waiting, _MOST))
            for message in batch:
                del self._waiting[message]
            try:
                await self._write_batch(batch)
            finally:
                self._let_go(batch)

    async def _write_batch(self, batch: Sequence[_Message]) -> None:
        # Record the event of a caller that went away all the same: nobody may have told it otherwise.
        try:
            lanes = await self._write([row for message in batch for row in message.rows], utc_now())
        except StoreUnavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - one message's fault must not be the others'
            if len(batch) == 1:
                _fail(batch, error)
            else:
                await self._write_each(batch)
        else:
            _answer(batch, lanes)

    async def _write_each(self, batch: Sequence[_Message]) -> None:
        for one in batch:
            try:
                _answer([one], await self._write(one.rows, utc_now()))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
                _fail([one], error)

    async def _write(self, rows: Rows, now: datetime) -> Lanes:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._db.system() as connection:
                return await inbox.record_all(connection, rows, now)
        except TimeoutError as error:
            raise StoreUnavailable("the database does not answer", reason="timeout") from error


def _answer(batch: Sequence[_Message], lanes: Lanes) -> None:
    for message in batch:
        # The first message of a batch that brings an event has recorded it; the others bring it again.
        keys = ((source, row.event.event_id) for source, row in message.rows)
        own = {key: lanes.pop(key) for key in keys if key in lanes}
        if not message.done.done():
            message.done.set_result(own)


def _fail(batch: Sequence[_Message], error: Exception) -> None:
    for message in batch:
        if not message.done.done():
            message.done.set_exception(error)
