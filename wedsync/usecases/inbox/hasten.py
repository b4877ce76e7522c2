"""Put a wedding's waiting events ahead once its day has come: newer ones are critical as they are recorded."""

from __future__ import annotations

from wedsync.dispatch.inbox import signal_drain
from wedsync.kit import logs
from wedsync.kit.temporal import AWAY, ClientProvider
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox

_log = logs.get(__name__)


async def hasten_inbox(db: Database, client_provider: ClientProvider, wedding_id: str) -> int:
    """Make the waiting events of a wedding in wedding-day mode critical and dispatch their drain; return their count.

    Does nothing for a wedding in another mode. Raises StoreUnavailable; the sweep repeats a dispatch that fails.
    """
    async with db.system() as connection:
        raised = await inbox.raise_waiting(connection, wedding_id)
    if raised:
        _log.info("webhooks_hastened", wedding_id=wedding_id, rows=raised)
        try:
            await signal_drain(await client_provider(), "critical")
        except AWAY as error:
            _log.warning("webhook_drain_untold", lane="critical", error=type(error).__name__)
    return raised
