"""The inbox: events recorded once for ever, claimed, settled. All functions run inside one `system()` session.

`due_at` says when a row is to be looked at (again); a row without it is settled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, bindparam, func, select, tuple_, update
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.webhooks.inbox import CRITICAL, ClaimedRow, NewRow, Reference, Verdict, WeddingRow, lane_of
from wedsync.domain.webhooks.messages import LANES, Lane
from wedsync.store.tables.webhooks import inbox
from wedsync.store.tables.weddings import external_refs, weddings

# Events of weddings in wedding-day mode become critical here, so that they go ahead from their first moment.
_RECORD = sql("""
INSERT INTO inbox (source, event_id, priority, event, body, received_at, due_at)
SELECT :source, new.event_id,
       CASE WHEN EXISTS (SELECT FROM weddings w WHERE w.id = new.wedding_id AND w.mode = 'wedding_day')
              OR EXISTS (SELECT FROM external_refs r JOIN weddings w ON w.id = r.wedding_id
                         WHERE r.vendor = :source AND r.object_id = new.object_id AND w.mode = 'wedding_day')
            THEN 1 ELSE new.priority END,
       CAST(new.event AS jsonb), new.body, :now, :now
FROM unnest(CAST(:event_ids AS text[]), CAST(:wedding_ids AS text[]), CAST(:object_ids AS text[]),
            CAST(:priorities AS integer[]), CAST(:events AS text[]), CAST(:bodies AS bytea[]))
     AS new(event_id, wedding_id, object_id, priority, event, body)
ON CONFLICT (source, event_id) DO NOTHING
RETURNING event_id, priority
""")

_SETTLE = (
    update(inbox)
    .where(inbox.c.id == bindparam("row_id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "attempts", "error", "organization_id", "wedding_id", "step_id", "due_at", "processed_at",
            )
        }
    )
)  # fmt: skip


async def record(connection: AsyncConnection, source: str, rows: Sequence[NewRow], now: datetime) -> dict[str, Lane]:
    """Record events of one source, each only once for ever: the lane of each new one by its event id."""
    events = [row.event for row in rows]
    result = await connection.execute(
        _RECORD,
        {
            "source": source,
            "now": now,
            "event_ids": [event.event_id for event in events],
            "wedding_ids": [event.wedding_id for event in events],
            "object_ids": [event.object_id for event in events],
            "priorities": [row.priority for row in rows],
            "events": [event.model_dump_json() for event in events],
            "bodies": [row.sealed_body for row in rows],
        },
    )
    return {event_id: lane_of(priority) for event_id, priority in result}


async def claim(connection: AsyncConnection, lane: Lane, limit: int, now: datetime) -> list[ClaimedRow]:
    """Up to `limit` due rows of a lane, the most urgent and then the oldest first, locked until the transaction ends.

    Rows that another drain has in hand are left out.
    """
    columns = (inbox.c.id, inbox.c.source, inbox.c.event_id, inbox.c.event, inbox.c.attempts, inbox.c.received_at)
    result = await connection.execute(
        select(*columns)
        .where(inbox.c.due_at <= now, _in_lane(lane))
        .order_by(inbox.c.priority, inbox.c.received_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [
        ClaimedRow(id=id_, source=source, event_id=event_id, event=event, attempts=attempts, received_at=received_at)
        for id_, source, event_id, event, attempts, received_at in result
    ]


async def settle(connection: AsyncConnection, verdicts: Mapping[int, Verdict], now: datetime) -> None:
    """Write what became of claimed rows, by row id."""
    if not verdicts:
        return
    await connection.execute(_SETTLE, [_settled(row_id, verdict, now) for row_id, verdict in verdicts.items()])


def _settled(row_id: int, verdict: Verdict, now: datetime) -> dict[str, object]:
    match = verdict.match
    return {
        "row_id": row_id,
        "new_state": verdict.state,
        "new_attempts": verdict.attempts,
        "new_error": verdict.error,
        "new_organization_id": match.organization_id if match else None,
        "new_wedding_id": match.wedding_id if match else None,
        "new_step_id": match.step_id if match else None,
        "new_due_at": verdict.due_at,
        "new_processed_at": now,
    }


async def references(
    connection: AsyncConnection, objects: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[Reference]]:
    """The steps that hold these (vendor, object id) pairs."""
    found: dict[tuple[str, str], list[Reference]] = defaultdict(list)
    if not objects:
        return found
    table = external_refs.c
    result = await connection.execute(
        select(table.vendor, table.object_id, table.organization_id, table.wedding_id, table.step_id).where(
            tuple_(table.vendor, table.object_id).in_(sorted(objects))
        )
    )
    for vendor, object_id, organization_id, wedding_id, step_id in result:
        found[vendor, object_id].append(
            Reference(
                vendor=vendor,
                object_id=object_id,
                organization_id=organization_id,
                wedding_id=wedding_id,
                step_id=step_id,
            )
        )
    return found


async def wedding_rows(connection: AsyncConnection, wedding_ids: Collection[str]) -> dict[str, WeddingRow]:
    """Those of these weddings that exist, by id."""
    if not wedding_ids:
        return {}
    table = weddings.c
    result = await connection.execute(
        select(table.id, table.organization_id, table.status, table.ended_at).where(table.id.in_(sorted(wedding_ids)))
    )
    return {
        id_: WeddingRow(
            id=id_, organization_id=organization_id, ended=ended_at is not None or status in ("cancelled", "ended")
        )
        for id_, organization_id, status, ended_at in result
    }


async def next_due_at(connection: AsyncConnection, lane: Lane) -> datetime | None:
    """When the lane's next row is due; None: no row waits."""
    due_at: datetime | None = await connection.scalar(
        select(func.min(inbox.c.due_at)).where(inbox.c.due_at.is_not(None), _in_lane(lane))
    )
    return due_at


async def overdue_lanes(connection: AsyncConnection, before: datetime) -> tuple[Lane, ...]:
    """The lanes that hold rows due before that moment."""
    overdue = [
        lane
        for lane in LANES
        if await connection.scalar(select(1).where(inbox.c.due_at < before, _in_lane(lane)).limit(1)) is not None
    ]
    return tuple(overdue)


def _in_lane(lane: Lane) -> ColumnElement[bool]:
    return inbox.c.priority <= CRITICAL if lane == "critical" else inbox.c.priority > CRITICAL
