"""Report on subscriptions themselves: as events, which are kept whoever wants them, and by operators' channels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.outbox import notices
from wedsync.domain.outbox.catalogue import EndpointData, FailedDeliveryData
from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.notices import SubscriptionNotice
from wedsync.domain.outbox.subscription import DeliveryAttempt, SubscriptionState
from wedsync.store.incidents import notifications
from wedsync.store.outbox import deliveries as store
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox.deliveries import Claimed


async def announce_subscription(
    conn: AsyncConnection, kind: SubscriptionNotice, state: SubscriptionState, now: datetime, percent: int | None = None
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
    event = DomainEvent(type=kind, data=data.model_dump(mode="json"))
    await outbox.announce(conn, state.organization_id, [event], now, keep=True)
    await notifications.announce(conn, notices.of_subscription(kind, data, now), state.organization_id)


async def announce_failed(
    conn: AsyncConnection, state: SubscriptionState, given_up: Sequence[tuple[Claimed, DeliveryAttempt]], now: datetime
) -> None:
    """Report deliveries to one endpoint that were given up. In `system()`."""
    failures = [
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
        if claimed.event.type not in notices.NOT_NOTIFIED
    ]
    if not failures:
        return
    events = [DomainEvent(type="delivery.failed", data=data.model_dump(mode="json")) for data in failures]
    await outbox.announce(conn, state.organization_id, events, now, keep=True)
    await notifications.announce(conn, notices.of_failed_delivery(failures[0], now), state.organization_id)
