"""Follow a wedding: its events as they come, or one transaction until it has settled."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any, Literal

from wedsync.store.db.listener import Notices
from wedsync.store.db.session import Database
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_transaction import TemporalUrl, TransactionView, read_transaction
from wedsync.usecases.weddings.read_wedding import View

#: Read again without a notification, in case the listening connection is down.
_POLL_SECONDS = 5.0
_BATCH = 500


class WeddingEvent(View):
    """One event: the new state of a step, a transaction or the wedding itself."""

    #: 1, 2, 3, ... within the wedding.
    id: int
    type: Literal["step", "transaction", "wedding"]
    data: dict[str, Any]


async def follow_events(
    db: Database, notices: Notices, organization_id: str, wedding_id: str, after: int, *, heartbeat_seconds: float
) -> AsyncGenerator[WeddingEvent | None]:
    """Yield the wedding's events with ids above `after`, for ever; None after each `heartbeat_seconds` of silence.

    Ends when the process is about to end. Raises StoreUnavailable.
    """
    with notices.waiting(wedding_id) as waiter:
        silent_until = time.monotonic() + heartbeat_seconds
        while not waiter.is_closing:
            async with db.tenant(organization_id) as conn:
                rows = await store.read_events(conn, wedding_id, after, _BATCH)
            for row in rows:
                after = row.id
                yield WeddingEvent(id=row.id, type=row.type, data=row.data)
            if rows:
                silent_until = time.monotonic() + heartbeat_seconds
            if len(rows) == _BATCH:
                continue
            await waiter.wait(min(_POLL_SECONDS, max(0.0, silent_until - time.monotonic())))
            if time.monotonic() >= silent_until:
                yield None
                silent_until = time.monotonic() + heartbeat_seconds


async def until_settled(
    db: Database,
    notices: Notices,
    organization_id: str,
    view: TransactionView,
    temporal_url: TemporalUrl,
    *,
    seconds: float,
) -> TransactionView:
    """Return the transaction once nothing more of it happens at once, or as it is after `seconds`."""
    deadline = time.monotonic() + seconds
    with notices.waiting(view.wedding_id) as waiter:
        while True:
            async with db.tenant(organization_id) as conn:
                view = await read_transaction(conn, view.wedding_id, view.id, temporal_url)
            left = deadline - time.monotonic()
            if view.is_settled or left <= 0 or waiter.is_closing:
                return view
            await waiter.wait(min(left, _POLL_SECONDS))
