"""Finds recorded events that nobody was told of."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.webhooks.messages import SweptInbox
from wedsync.store import inbox
from wedsync.store.session import Database
from wedsync.usecases.webhooks.tell import ClientProvider, tell_drain

#: A row that has been due for so long was missed by the tells, or put off until now.
GRACE = timedelta(seconds=10)


async def sweep_inbox(db: Database, client_provider: ClientProvider, now: datetime) -> SweptInbox:
    """Tell the drains of lanes with rows that have been due for `GRACE`: untold, put off, or young and unclaimed.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as connection:
        lanes = await inbox.overdue_lanes(connection, now - GRACE)
    if lanes:
        client = await client_provider()
        for lane in lanes:
            await tell_drain(client, lane)
    return SweptInbox(told=lanes)
