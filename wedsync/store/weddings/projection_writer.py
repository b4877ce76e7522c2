"""One writer of projections for the process: callers that come together share a commit."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.weddings.projection import ProjectionWrite, Written
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection

_LOCK_NOT_AVAILABLE = "55P03"


class _Waiting(NamedTuple):
    write: ProjectionWrite
    done: asyncio.Future[Written]


class ProjectionWriter:
    """Group commit: while one commit is under way, later callers wait for the next one, which takes them all.

    Nobody waits for a timer: a lone caller's write begins at once.
    """

    def __init__(self, db: Database, *, most_in_commit: int = 100) -> None:
        self._db = db
        self._most = most_in_commit
        self._queue: deque[_Waiting] = deque()
        self._drain: asyncio.Task[None] | None = None

    async def write(self, write: ProjectionWrite) -> Written:
        """Write and return once it is committed. A fault of another caller's write does no harm to this one.

        A cancelled caller's write may be committed all the same. Raises StoreUnavailable, also when somebody holds the
        wedding's rows for too long, and the database's own error for a row at fault.
        """
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._drain is None:
            # In a context of its own: it works for all, not in the first caller's trace.
            self._drain = asyncio.create_task(self._write_all(), context=contextvars.Context())
        return await waiting.done

    async def close(self) -> None:
        """Return once all submitted writes are done, or have failed."""
        while self._drain is not None:
            await asyncio.wait([self._drain])

    async def _write_all(self) -> None:
        try:
            while self._queue:
                taken = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                await self._write_group([waiting for waiting in taken if not waiting.done.done()])
        finally:
            self._drain = None

    async def _write_group(self, group: Sequence[_Waiting]) -> StoreUnavailable | None:
        """Write for all of a group, or answer each with its error; returns why the database could not be reached."""
        try:
            found = await self._commit([waiting.write for waiting in group])
        except StoreUnavailable as error:
            _fail(group, error)
            return error
        except Exception as error:  # noqa: BLE001 - each caller is told of it
            if len(group) > 1:
                return await self._write_each(group)
            _fail(group, _held(error) or error)
        else:
            for waiting, written in zip(group, found, strict=True):
                if not waiting.done.done():
                    waiting.done.set_result(written)
        return None

    async def _write_each(self, group: Sequence[_Waiting]) -> StoreUnavailable | None:
        """Find the one at fault: try each alone, in its turn; none need find again that the database is gone."""
        for place, waiting in enumerate(group):
            gone = await self._write_group([waiting])
            if gone is not None:
                _fail(group[place + 1 :], gone)
                return gone
        return None

    async def _commit(self, writes: Sequence[ProjectionWrite]) -> list[Written]:
        if not writes:
            return []
        async with self._db.unbound() as conn:
            return await projection.apply_writes(conn, writes)


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)


def _held(error: Exception) -> StoreUnavailable | None:
    """Return StoreUnavailable for rows that somebody holds for too long: the writer may retry, as with no database."""
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return StoreUnavailable("the wedding's rows are held by somebody", reason="locked")
    return None
