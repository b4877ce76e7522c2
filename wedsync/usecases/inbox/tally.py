"""Count in batches what statistics need and no row shows: refusals, duplicates, what was dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import datetime

from wedsync.domain.errors import StoreUnavailable
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.store.db.session import Database
from wedsync.store.inbox import sources

#: A flood of refusals is written so often, whatever its size.
INTERVAL_SECONDS = 2.0
#: A database that has not answered by then counts as down.
_TIMEOUT_SECONDS = 5.0

_log = logs.get(__name__)


class Tally:
    """Keeps the process's counts; those of the last seconds are lost when it is killed."""

    def __init__(self, db: Database, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._db = db
        self._interval_seconds = interval_seconds
        self._counts: Counter[tuple[str | None, str, str, datetime]] = Counter()
        self._writer: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()

    def add(self, organization_id: str | None, source: str, reason: str) -> None:
        """Count one; returns at once."""
        hour = utc_now().replace(minute=0, second=0, microsecond=0)
        self._counts[organization_id, source, reason, hour] += 1
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_soon(), name="webhook-tally")

    async def close(self) -> None:
        """Write what is left."""
        # Never cancelled: a connection that is being opened then would be left open.
        self._is_closing.set()
        if self._writer is not None:
            await self._writer
        await self.flush()

    async def flush(self) -> None:
        """Write what was counted; what can't be written now is kept."""
        counted, self._counts = self._counts, Counter()
        if not counted:
            return
        rows = [
            {"organization_id": organization_id, "source": source, "reason": reason, "hour": hour, "count": count}
            for (organization_id, source, reason, hour), count in counted.items()
        ]
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), self._db.system() as conn:
                await sources.add_counts(conn, rows)
        except (StoreUnavailable, TimeoutError) as error:
            self._counts.update(counted)
            _log.warning("webhook_counts_kept", reason=type(error).__name__)

    async def _write_soon(self) -> None:
        while not self._is_closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_closing.wait(), self._interval_seconds)
            await self.flush()
            if not self._counts:
                return
