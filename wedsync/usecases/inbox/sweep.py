"""Find recorded events that were not dispatched, and those whose retry has no workflow."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.dispatch.inbox import signal_drain, start_reconcile
from wedsync.domain.inbox.messages import LANES, SweptInbox
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox import sources
from wedsync.usecases.inbox.retry import start_retry

#: The dispatches missed a row that has been due for so long, or it was put off until now.
GRACE = timedelta(seconds=10)
#: No workflow has a retry that has been due for so long: it was never started, or is gone.
RETRY_GRACE = timedelta(minutes=2)
#: The most registered sources whose lists one sweep has read by their workflows.
_MOST_RECONCILES = 50


async def sweep_inbox(db: Database, client_provider: ClientProvider, now: datetime) -> SweptInbox:
    """Dispatch the drains of lanes with rows that have been due for `GRACE`: missed, put off, or young and unclaimed.

    Rows that rest unclaimed and whose object a step now holds are made due and dispatched, too.

    Has lists of registered sources read that are due.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as connection:
        due = await inbox.make_due(connection, now) | set(await inbox.overdue_lanes(connection, now - GRACE))
        lanes = tuple(lane for lane in LANES if lane in due)
        retries = await inbox.overdue_retries(connection, now - RETRY_GRACE)
        unlisted = await sources.due_to_reconcile(connection, now, _MOST_RECONCILES)
    if lanes or retries or unlisted:
        client = await client_provider()
        for lane in lanes:
            await signal_drain(client, lane)
        for retry in retries:
            await start_retry(client, retry)
        for source in unlisted:
            await start_reconcile(client, source)
    return SweptInbox(signalled=lanes, retried=len(retries))
