"""Record events for subscribers, and their deliveries, in the transaction of the change that they report.

`publish` and `announce` run inside the writer's session; the rest inside `system()`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.outbox.catalogue import CeremonyTime
from wedsync.domain.outbox.domain_events import Change, DomainEvent, WeddingFacts, domain_events
from wedsync.domain.outbox.fan_out import Subscriber, fan_out
from wedsync.kit.ids import new_id
from wedsync.store.db.session import published

#: The subject of a committed transaction with new deliveries: `Database.when_committed`.
NEWS = "outbox"

_CHANGES = text("""
SELECT e.id, e.type, e.data, p.data AS previous
FROM wedding_events e LEFT JOIN LATERAL (
  SELECT b.data FROM wedding_events b
  WHERE b.wedding_id = e.wedding_id AND b.id < e.id AND b.type = e.type AND b.data ->> 'id' = e.data ->> 'id'
  ORDER BY b.id DESC LIMIT 1) p ON true
WHERE e.wedding_id = :wedding_id AND e.id BETWEEN :since AND :until ORDER BY e.id
""")
_WEDDING = text(
    "SELECT organization_id, reference, ceremony_local, zone, ceremony_at FROM weddings WHERE id = :wedding_id"
)
_PAID = text("""
SELECT transaction_id, jsonb_build_object('id', step_id, 'service', service, 'capability', capability, 'action', action,
  'status', status, 'vendor', vendor, 'fallback_used', fallback_used, 'attempts', attempts, 'external_id', external_id,
  'due_at', due_at, 'started_at', started_at, 'ended_at', ended_at, 'error', error, 'compensation', compensation,
  'transaction_id', transaction_id) AS data
FROM steps WHERE wedding_id = :wedding_id AND transaction_id = ANY (:transactions) AND capability = 'payments'
  AND status = 'succeeded' ORDER BY position
""")
_SUBSCRIBERS = text("""
SELECT id, event_types, filters FROM webhook_subscriptions
WHERE organization_id = :organization_id AND status <> 'deleted' ORDER BY id
""")
_ADD_EVENTS = text("""
INSERT INTO outgoing_events (id, organization_id, wedding_id, sequence, type, data, occurred_at, useful_until)
SELECT r.id, :organization_id, r.wedding_id, r.sequence, r.type, r.data, :now, r.useful_until
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, wedding_id text, sequence bigint, type text, data jsonb,
  useful_until timestamptz)
""")
_ADD_DELIVERIES = text("""
INSERT INTO deliveries (id, organization_id, subscription_id, event_id, wedding_id, due_at, created_at)
SELECT r.id, :organization_id, r.subscription_id, r.event_id, r.wedding_id, :now, :now
FROM ROWS FROM (jsonb_to_recordset(CAST(:rows AS jsonb)) AS (id text, subscription_id text, event_id text,
  wedding_id text)) WITH ORDINALITY AS r(id, subscription_id, event_id, wedding_id, place) ORDER BY r.place
""")


async def publish(
    conn: AsyncConnection,
    wedding_id: str,
    since: int,
    now: datetime,
    *,
    until: int,
    previous_ceremony: CeremonyTime | None = None,
) -> None:
    """Record for subscribers what the changes `since` to `until` mean, within the transaction that wrote them."""
    found = await conn.execute(_CHANGES, {"wedding_id": wedding_id, "since": since, "until": until})
    changes = [Change(id=row.id, kind=row.type, data=row.data, previous=row.previous) for row in found]
    row = (await conn.execute(_WEDDING, {"wedding_id": wedding_id})).one()
    wedding = WeddingFacts(
        id=wedding_id,
        organization_id=row.organization_id,
        reference=row.reference,
        ceremony=CeremonyTime(local=row.ceremony_local, zone=row.zone, instant=row.ceremony_at),
        previous_ceremony=previous_ceremony,
    )
    paid = await _paid(conn, wedding_id, changes)
    await announce(conn, wedding.organization_id, domain_events(changes, wedding, paid), now)


async def _paid(conn: AsyncConnection, wedding_id: str, changes: Sequence[Change]) -> dict[str, list[dict[str, Any]]]:
    ended = [
        change.data["id"] for change in changes if change.kind == "transaction" and change.data["status"] == "completed"
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    if ended:
        for row in await conn.execute(_PAID, {"wedding_id": wedding_id, "transactions": ended}):
            found.setdefault(row.transaction_id, []).append(row.data)
    return found


async def announce(
    conn: AsyncConnection,
    organization_id: str,
    announced: Sequence[DomainEvent],
    now: datetime,
    *,
    only: str | None = None,
    keep: bool = False,
) -> list[str]:
    """Record events with a delivery for each subscription that wants them, and return the deliveries' ids.

    Events that nobody wants leave no trace, unless `keep`. `only` gives them to one subscription whatever it wants.
    """
    if not announced:
        return []
    rows = (await conn.execute(_SUBSCRIBERS, {"organization_id": organization_id})).all()
    subscribers = [Subscriber(id=row.id, event_types=row.event_types, filters=row.filters) for row in rows]
    events: list[dict[str, Any]] = []
    deliveries: list[dict[str, Any]] = []
    for told_to in fan_out(announced, subscribers, only=only, keep=keep):
        event_id = f"evt_{new_id()}"
        events.append({"id": event_id, **told_to.event.model_dump(mode="json")})
        deliveries += [
            {
                "id": new_id(),
                "subscription_id": name,
                "event_id": event_id,
                "wedding_id": told_to.event.wedding_id,
            }
            for name in told_to.subscriptions
        ]
    if events:
        await conn.execute(_ADD_EVENTS, {"rows": json.dumps(events), "organization_id": organization_id, "now": now})
    if deliveries:
        params = {"rows": json.dumps(deliveries), "organization_id": organization_id, "now": now}
        await conn.execute(_ADD_DELIVERIES, params)
        published(conn, NEWS)
    return [row["id"] for row in deliveries]
