"""Find deliveries and endpoints that were not dispatched."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.webhooks.outgoing.messages import SweptOutbox
from wedsync.store import deliveries as store
from wedsync.store.session import Database
from wedsync.usecases.webhooks.outgoing.tell import ClientProvider, tell_endpoint, tell_outbox

#: The dispatches missed what has been due for so long.
GRACE = timedelta(seconds=10)
_MOST_ENDPOINTS = 500


async def sweep_outbox(db: Database, client_provider: ClientProvider, now: datetime) -> SweptOutbox:
    """Dispatch the sender and endpoints' workflows again for what has been due for `GRACE`.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as conn:
        is_missed = await store.is_anything_missed(conn, now - GRACE)
        forgotten = await store.forgotten_endpoints(conn, now - GRACE, _MOST_ENDPOINTS)
    if is_missed or forgotten:
        client = await client_provider()
        if is_missed:
            await tell_outbox(client)
        for endpoint_id in forgotten:
            await tell_endpoint(client, endpoint_id)
    return SweptOutbox(is_drained=is_missed, endpoints=len(forgotten))
