"""Show subscriptions and deliveries, and why one of them failed."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import decode_cursor, encode_cursor
from wedsync.domain.errors import NotFound
from wedsync.domain.outbox.signing import Event, Payload, body_of
from wedsync.store.outbox import subscriptions as store
from wedsync.usecases.outbox.subscribe import ID, row_of
from wedsync.usecases.outbox.views import (
    AttemptView,
    DeliveryDetail,
    DeliveryPage,
    DeliveryView,
    OperationalEvent,
    OperationalEventPage,
    SubscriptionPage,
    delivery_values,
    subscription_view,
)


async def list_subscriptions(
    conn: AsyncConnection, organization_id: str, limit: int, cursor: str | None
) -> SubscriptionPage:
    """Read one page; raises InvalidInput(reason="invalid_cursor")."""
    rows = await store.page(conn, organization_id, limit + 1, decode_cursor(cursor) if cursor else None)
    shown = rows[:limit]
    return SubscriptionPage(
        data=tuple(subscription_view(row) for row in shown),
        next_cursor=encode_cursor(shown[-1].id) if len(rows) > limit else None,
    )


async def list_deliveries(
    conn: AsyncConnection, organization_id: str, limit: int, cursor: str | None, **wanted: str | None
) -> DeliveryPage:
    """Read one page of those with the `subscription_id`, `status` and `wedding_id`; raises InvalidInput."""
    before = decode_cursor(cursor) if cursor else None
    rows = await store.page_deliveries(conn, organization_id, limit + 1, before, **wanted)
    shown = rows[:limit]
    return DeliveryPage(
        data=tuple(DeliveryView(**delivery_values(row)) for row in shown),
        next_cursor=encode_cursor(shown[-1].id) if len(rows) > limit else None,
    )


async def list_operational_events(
    conn: AsyncConnection, subscription_id: str, limit: int, cursor: str | None
) -> OperationalEventPage:
    """Read one page of what happened to a subscription, whoever was notified of it; raises NotFound, InvalidInput."""
    organization_id = (await row_of(conn, subscription_id)).organization_id
    before = decode_cursor(cursor) if cursor else None
    rows = await store.page_operational_events(conn, organization_id, subscription_id, limit + 1, before)
    shown = rows[:limit]
    return OperationalEventPage(
        data=tuple(
            OperationalEvent(id=row.id, type=row.type, occurred_at=row.occurred_at, data=row.data) for row in shown
        ),
        next_cursor=encode_cursor(shown[-1].id) if len(rows) > limit else None,
    )


async def delivery_row(conn: AsyncConnection, delivery_id: str) -> Any:
    """Read a delivery's row; raises NotFound."""
    row = await store.find_delivery(conn, delivery_id) if ID.fullmatch(delivery_id) else None
    if row is None:
        raise NotFound("no such delivery")
    return row


async def show_delivery(conn: AsyncConnection, delivery_id: str) -> DeliveryView:
    """Read a delivery as it is now; raises NotFound."""
    return DeliveryView(**delivery_values(await delivery_row(conn, delivery_id)))


async def read_delivery(conn: AsyncConnection, delivery_id: str) -> DeliveryDetail:
    """Read a delivery with everything that is known of it; raises NotFound."""
    row = await delivery_row(conn, delivery_id)
    subscription = await store.find(conn, row.subscription_id)
    made = [
        AttemptView.model_validate({name: getattr(attempt, name) for name in AttemptView.model_fields})
        for attempt in await store.attempts(conn, delivery_id)
    ]
    event = Event(
        id=row.event_id,
        type=row.type,
        data=row.data,
        occurred_at=row.occurred_at,
        organization_id=row.organization_id,
        wedding_id=row.wedding_id,
        sequence=row.sequence,
    )
    payload: Payload = subscription.payload if subscription else "full"
    version = subscription.api_version if subscription else ""
    return DeliveryDetail(
        **delivery_values(row),
        url=subscription.url if subscription else "",
        body=json.loads(body_of(event, payload, version)),
        attempts_made=tuple(made),
        why=_why(row, subscription),
    )


def _why(row: Any, subscription: Any | None) -> str:
    """Say what keeps a delivery from being made."""
    if row.status == "delivered":
        return ""
    if subscription is None:
        return "the subscription was deleted"
    last = f"the last attempt: {row.last_error}" if row.last_error else "it was not tried yet"
    if row.status == "failed":
        return f"given up after {row.attempts} attempts; {last}"
    if subscription.status in ("paused", "disabled"):
        reason = f" ({subscription.reason})" if subscription.reason else ""
        return f"parked: the subscription is {subscription.status}{reason}; {last}"
    if subscription.status == "failing":
        return f"parked: the endpoint fails since {subscription.failing_since:%Y-%m-%d %H:%M} UTC; {last}"
    return f"waits to be sent; {last}"
