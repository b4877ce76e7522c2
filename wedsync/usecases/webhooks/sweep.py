"""Finds recorded events that nobody was told of, and those whose retrying nobody has in hand."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.webhooks.messages import LANES, SweptInbox
from wedsync.store import inbox, sources
from wedsync.store.session import Database
from wedsync.usecases.webhooks.retry import start_retry
from wedsync.usecases.webhooks.tell import ClientProvider, tell_drain, tell_reconcile

#: A row that has been due for so long was missed by the tells, or put off until now.
GRACE = timedelta(seconds=10)
#: A retry that has been due for so long is nobody's: its workflow was never started, or is gone.
RETRY_GRACE = timedelta(minutes=2)
#: Lists of registered sources that one sweep has looked at.
_MOST_LOOKS = 50


async def sweep_inbox(db: Database, client_provider: ClientProvider, now: datetime) -> SweptInbox:
    """Tell the drains of lanes with rows that have been due for `GRACE`: untold, put off, or young and unclaimed.

    Rows that rest unclaimed and whose object a step has come to hold are made due, and told of, too.

    Registered sources whose lists are due are looked at.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as connection:
        due = await inbox.rearm(connection, now) | set(await inbox.overdue_lanes(connection, now - GRACE))
        lanes = tuple(lane for lane in LANES if lane in due)
        retries = await inbox.overdue_retries(connection, now - RETRY_GRACE)
        unlisted = await sources.due_to_reconcile(connection, now, _MOST_LOOKS)
    if lanes or retries or unlisted:
        client = await client_provider()
        for lane in lanes:
            await tell_drain(client, lane)
        for retry in retries:
            await start_retry(client, retry)
        for source in unlisted:
            await tell_reconcile(client, source)
    return SweptInbox(told=lanes, retried=len(retries))
