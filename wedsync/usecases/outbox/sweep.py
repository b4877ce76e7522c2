"""Find deliveries and endpoints that were not dispatched."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.dispatch.outbox import signal_outbox, signal_subscription
from wedsync.domain.outbox.messages import SweptOutbox
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.store.outbox import deliveries as store

#: The dispatches missed what has been due for so long.
GRACE = timedelta(seconds=10)
_MOST_SUBSCRIPTIONS = 500


async def sweep_outbox(db: Database, client_provider: ClientProvider, now: datetime) -> SweptOutbox:
    """Dispatch the sender and endpoints' workflows again for what has been due for `GRACE`.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as conn:
        is_missed = await store.is_anything_missed(conn, now - GRACE)
        forgotten = await store.forgotten_subscriptions(conn, now - GRACE, _MOST_SUBSCRIPTIONS)
    if is_missed or forgotten:
        client = await client_provider()
        if is_missed:
            await signal_outbox(client)
        for subscription_id in forgotten:
            await signal_subscription(client, subscription_id)
    return SweptOutbox(is_drained=is_missed, subscriptions=len(forgotten))
