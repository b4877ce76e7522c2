"""Report on subscriptions themselves: as events, which are kept whoever wants them, and by operators' channels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.webhooks.outgoing import notices
from wedsync.domain.webhooks.outgoing.catalogue import EndpointData, FailedDeliveryData
from wedsync.domain.webhooks.outgoing.endpoint import Attempt, EndpointState
from wedsync.domain.webhooks.outgoing.happenings import Happening
from wedsync.domain.webhooks.outgoing.notices import EndpointNews
from wedsync.store import deliveries as store
from wedsync.store import notifications, outbox
from wedsync.store.deliveries import Claimed


async def announce_endpoint(
    conn: AsyncConnection, kind: EndpointNews, state: EndpointState, now: datetime, percent: int | None = None
) -> None:
    """Report an endpoint's state; the subscription's own copy waits until the endpoint is well. In `system()`."""
    data = EndpointData(
        id=state.id,
        url=state.url,
        status=state.status,
        reason=state.reason,
        percent=percent,
        failing_since=state.failing_since,
        parked=(await store.backlog(conn, state.id, now)).waiting,
    )
    happening = Happening(type=kind, data=data.model_dump(mode="json"))
    await outbox.announce(conn, state.organization_id, [happening], now, keep=True)
    await notifications.announce(conn, notices.of_endpoint(kind, data, now), state.organization_id)


async def announce_failed(
    conn: AsyncConnection, state: EndpointState, given_up: Sequence[tuple[Claimed, Attempt]], now: datetime
) -> None:
    """Report deliveries to one endpoint that were given up. In `system()`."""
    told = [
        FailedDeliveryData(
            id=claimed.id,
            subscription_id=state.id,
            event_id=claimed.event.id,
            event_type=claimed.event.type,
            wedding_id=claimed.event.wedding_id,
            attempts=claimed.tries + 1,
            last_status=attempt.status,
            error=attempt.error,
        )
        for claimed, attempt in given_up
        if claimed.event.type not in notices.UNTOLD
    ]
    if not told:
        return
    news = [Happening(type="delivery.failed", data=data.model_dump(mode="json")) for data in told]
    await outbox.announce(conn, state.organization_id, news, now, keep=True)
    await notifications.announce(conn, notices.of_failed_delivery(told[0], now), state.organization_id)
