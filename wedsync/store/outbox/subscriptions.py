"""Subscriptions and deliveries as their organization sees and changes them. All within `tenant()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.db.session import published
from wedsync.store.outbox.events import NEWS
from wedsync.store.outbox.tables import deliveries, delivery_attempts, outgoing_events, webhook_subscriptions

_OPEN = ("pending", "retrying")


async def add(conn: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Insert a subscription."""
    await conn.execute(insert(webhook_subscriptions).values(dict(values)))


async def find(conn: AsyncConnection, subscription_id: str, *, lock: bool = False) -> Any | None:
    """Find a subscription's row; None when there is none, or it was deleted."""
    query = select(webhook_subscriptions).where(
        webhook_subscriptions.c.id == subscription_id, webhook_subscriptions.c.status != "deleted"
    )
    if lock:
        query = query.with_for_update(key_share=True)
    return (await conn.execute(query)).first()


async def count(conn: AsyncConnection, organization_id: str) -> int:
    """Count the organization's subscriptions."""
    query = select(func.count()).where(
        webhook_subscriptions.c.organization_id == organization_id, webhook_subscriptions.c.status != "deleted"
    )
    return int((await conn.execute(query)).scalar_one())


async def page(conn: AsyncConnection, organization_id: str, limit: int, before: str | None) -> list[Any]:
    """Read up to `limit` subscriptions, newest first, with ids below `before`."""
    query = select(webhook_subscriptions).where(
        webhook_subscriptions.c.organization_id == organization_id, webhook_subscriptions.c.status != "deleted"
    )
    if before is not None:
        query = query.where(webhook_subscriptions.c.id < before)
    return list((await conn.execute(query.order_by(webhook_subscriptions.c.id.desc()).limit(limit))).all())


async def change(conn: AsyncConnection, subscription_id: str, values: Mapping[str, Any], now: datetime) -> None:
    """Write a subscription's columns."""
    await conn.execute(
        update(webhook_subscriptions)
        .where(webhook_subscriptions.c.id == subscription_id)
        .values({**values, "updated_at": now})
    )


async def give_up(conn: AsyncConnection, subscription_id: str, reason: str) -> None:
    """End every open delivery of a subscription as failed."""
    await conn.execute(
        update(deliveries)
        .where(deliveries.c.subscription_id == subscription_id, deliveries.c.status.in_(_OPEN))
        .values(status="failed", last_error=reason, leased_until=None)
    )


async def make_due(conn: AsyncConnection, subscription_id: str, now: datetime) -> None:
    """Make what waits for a subscription due at once."""
    await conn.execute(
        update(deliveries)
        .where(deliveries.c.subscription_id == subscription_id, deliveries.c.status == "retrying")
        .values(due_at=now)
    )


def _deliveries() -> Select[Any]:
    event = outgoing_events.c
    return select(deliveries, event.type, event.data, event.sequence, event.occurred_at, event.useful_until).join_from(
        deliveries, outgoing_events, deliveries.c.event_id == event.id
    )


async def page_deliveries(
    conn: AsyncConnection,
    organization_id: str,
    limit: int,
    before: str | None,
    *,
    subscription_id: str | None = None,
    status: str | None = None,
    wedding_id: str | None = None,
) -> list[Any]:
    """Read up to `limit` deliveries, newest first, with ids below `before`."""
    query = _deliveries().where(deliveries.c.organization_id == organization_id)
    wanted = {"subscription_id": subscription_id, "status": status, "wedding_id": wedding_id}
    for name, value in wanted.items():
        if value is not None:
            query = query.where(deliveries.c[name] == value)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    return list((await conn.execute(query.order_by(deliveries.c.id.desc()).limit(limit))).all())


async def page_operational_events(
    conn: AsyncConnection, organization_id: str, subscription_id: str, limit: int, before: str | None
) -> list[Any]:
    """Read up to `limit` events about a subscription itself, newest first, with ids below `before`."""
    event = outgoing_events.c
    query = select(event.id, event.type, event.occurred_at, event.data).where(
        event.organization_id == organization_id,
        event.wedding_id.is_(None),
        or_(
            and_(event.type.like("endpoint.%"), event.data["id"].astext == subscription_id),
            and_(event.type == "delivery.failed", event.data["subscription_id"].astext == subscription_id),
        ),
    )
    if before is not None:
        query = query.where(event.id < before)
    return list((await conn.execute(query.order_by(event.id.desc()).limit(limit))).all())


async def find_delivery(conn: AsyncConnection, delivery_id: str) -> Any | None:
    """Find one delivery with its event; None when there is none."""
    return (await conn.execute(_deliveries().where(deliveries.c.id == delivery_id))).first()


async def attempts(conn: AsyncConnection, delivery_id: str) -> list[Any]:
    """List every attempt at a delivery, oldest first."""
    query = select(delivery_attempts).where(delivery_attempts.c.delivery_id == delivery_id)
    return list((await conn.execute(query.order_by(delivery_attempts.c.number))).all())


_REPLAY = text("""
WITH chosen AS (
  SELECT d.id FROM deliveries d JOIN outgoing_events e ON e.id = d.event_id
  WHERE d.subscription_id = :subscription_id AND d.status = ANY (:statuses)
    AND (CAST(:ids AS text[]) IS NULL OR d.id = ANY (:ids))
    AND (CAST(:types AS text[]) IS NULL OR e.type = ANY (:types))
    AND (CAST(:since AS timestamptz) IS NULL OR e.occurred_at >= :since)
    AND (CAST(:until AS timestamptz) IS NULL OR e.occurred_at < :until)
  ORDER BY d.number LIMIT :most FOR UPDATE OF d
)
UPDATE deliveries d SET status = 'pending', tries = 0, due_at = :now, leased_until = NULL, delivered_at = NULL
FROM chosen c WHERE d.id = c.id
""")


async def replay(
    conn: AsyncConnection,
    subscription_id: str,
    *,
    statuses: Sequence[str],
    most: int,
    now: datetime,
    ids: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Make deliveries of a subscription due again, the oldest first; returns how many."""
    values = {
        "subscription_id": subscription_id,
        "statuses": list(statuses),
        "most": most,
        "now": now,
        "ids": None if ids is None else list(ids),
        "types": None if types is None else list(types),
        "since": since,
        "until": until,
    }
    changed = (await conn.execute(_REPLAY, values)).rowcount
    if changed:
        published(conn, NEWS)
    return changed
