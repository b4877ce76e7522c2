"""Inbox: events are recorded once for ever, claimed, settled. All functions run inside one `system()` session.

`due_at` says when a row is to be checked (again); a row without it is settled.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, tuple_, update
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.inbox.messages import LANES, Lane, RetryStart
from wedsync.domain.inbox.source import SourceConfig
from wedsync.domain.inbox.triage import (
    CRITICAL,
    ClaimedRow,
    ContactReference,
    NewRow,
    Reference,
    Verdict,
    WeddingRow,
    lane_of,
)
from wedsync.store.inbox.tables import contact_refs, inbox, webhook_objects, webhook_sources
from wedsync.store.weddings.tables import external_refs, weddings

# Events of weddings in wedding-day mode go before all others from their first moment on.
_RECORD = sql("""
INSERT INTO inbox (source, organization_id, event_id, priority, event, body, contacts, replay_key, received_at, due_at)
SELECT new.source, new.organization_id, new.event_id,
       CASE WHEN EXISTS (SELECT FROM weddings w WHERE w.id = new.wedding_id AND w.mode = 'wedding_day'
                         AND (new.organization_id IS NULL OR new.organization_id = w.organization_id))
              OR EXISTS (SELECT FROM external_refs r JOIN weddings w ON w.id = r.wedding_id
                         WHERE r.vendor = new.vendor AND r.object_id = new.object_id AND w.mode = 'wedding_day'
                         AND (new.organization_id IS NULL OR new.organization_id = w.organization_id))
            THEN 0 ELSE new.priority END,
       CAST(new.event AS jsonb), decode(new.body, 'base64'),
       -- One row's digests come as one text, since an array of arrays must be rectangular.
       (SELECT array_agg(decode(digest, 'hex')) FROM unnest(string_to_array(nullif(new.contacts, ''), ',')) digest),
       decode(new.replay_key, 'hex'), :now, :now
FROM json_to_recordset(CAST(:rows AS json))
     AS new(source text, organization_id text, vendor text, event_id text, wedding_id text, object_id text,
            priority integer, event text, body text, contacts text, replay_key text)
ON CONFLICT DO NOTHING
RETURNING source, event_id, priority
""")

# The same for earlier events: matched to the wedding, naming it, or naming an object that one of its steps holds.
_RAISE = sql("""
UPDATE inbox SET priority = 0 WHERE id IN (
  SELECT i.id FROM inbox i JOIN weddings w ON w.id = :wedding_id AND w.mode = 'wedding_day'
  WHERE i.due_at IS NOT NULL AND i.priority > 0
    AND (i.organization_id IS NULL OR i.organization_id = w.organization_id)
    AND (i.wedding_id = w.id OR i.event ->> 'wedding_id' = w.id
         OR EXISTS (SELECT FROM external_refs r WHERE r.wedding_id = w.id
                    AND r.vendor = i.event ->> 'source' AND r.object_id = i.event ->> 'object_id'))
  FOR UPDATE OF i SKIP LOCKED)
""")

# Only the newest unmatched rows are checked: this runs each minute, and an old event's object is hardly new.
# A reference may carry the time of the workflow that wrote it, somewhat before others could find it.
_MAKE_DUE = sql("""
UPDATE inbox SET due_at = :now WHERE id IN (
  SELECT i.id FROM (SELECT id, organization_id, event, processed_at FROM inbox
                    WHERE state = 'unmatched' AND due_at IS NULL ORDER BY id DESC LIMIT 5000) i
  WHERE EXISTS (SELECT FROM external_refs r
                WHERE r.vendor = i.event ->> 'source' AND r.object_id = i.event ->> 'object_id'
                AND r.created_at > i.processed_at - interval '1 minute'
                AND (i.organization_id IS NULL OR i.organization_id = r.organization_id)))
RETURNING priority
""")

_RECORD_OUTCOME = (
    update(inbox)
    .where(inbox.c.id == bindparam("row_id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state", "attempts", "error", "wedding_id", "step_id", "due_at", "processed_at",
            )
        }
        # The owner of a registered source's event is known from the first.
        | {"organization_id": func.coalesce(bindparam("new_organization_id"), inbox.c.organization_id)}
        | {"first_looked_at": func.coalesce(inbox.c.first_looked_at, bindparam("new_processed_at"))}
    )
)  # fmt: skip

#: At each claim so many due rows of the critical lane are shared out among their owners.
_SHARED = 2000
_CLAIMED = (
    inbox.c.id,
    inbox.c.source,
    inbox.c.event_id,
    inbox.c.event,
    inbox.c.attempts,
    inbox.c.received_at,
    inbox.c.first_looked_at,
    inbox.c.organization_id,
    inbox.c.contacts,
)


async def record(connection: AsyncConnection, source: str, rows: Sequence[NewRow], now: datetime) -> dict[str, Lane]:
    """Record events of one source, each only once for ever; returns the lane of each new one by its event id."""
    lanes = await record_all(connection, [(source, row) for row in rows], now)
    return {event_id: lane for (_, event_id), lane in lanes.items()}


async def record_all(
    connection: AsyncConnection, rows: Sequence[tuple[str, NewRow]], now: datetime
) -> dict[tuple[str, str], Lane]:
    """Record events of several sources; returns the lane of each new one by source and event id."""
    # In one order everywhere, so that two writers of the same events never wait for each other in a circle.
    ordered = sorted(rows, key=lambda pair: (pair[0], pair[1].event.event_id))
    # As one document: psycopg writes arrays in Python, value by value.
    document = json.dumps([_recorded(source, row) for source, row in ordered])
    result = await connection.execute(_RECORD, {"now": now, "rows": document})
    return {(source, event_id): lane_of(priority) for source, event_id, priority in result}


def _recorded(source: str, row: NewRow) -> dict[str, object]:
    event = row.event
    return {
        "source": source,
        "organization_id": row.organization_id,
        "vendor": event.source,
        "event_id": event.event_id,
        "wedding_id": event.wedding_id,
        "object_id": event.object_id,
        "priority": row.priority,
        "event": event.model_dump_json(),
        "body": base64.b64encode(row.sealed_body).decode(),
        "replay_key": None if row.replay_key is None else row.replay_key.hex(),
        "contacts": ",".join(digest.hex() for digest in row.contacts),
    }


async def raise_waiting(connection: AsyncConnection, wedding_id: str) -> int:
    """Move the waiting rows of a wedding on its day before all others; returns how many rows.

    Claimed rows are left to their drain.
    """
    return (await connection.execute(_RAISE, {"wedding_id": wedding_id})).rowcount


async def make_due(connection: AsyncConnection, now: datetime) -> set[Lane]:
    """Make unclaimed rows due again whose object a step has come to hold since; returns the lanes of those rows."""
    return {lane_of(priority) for priority in await connection.scalars(_MAKE_DUE, {"now": now})}


async def claim(connection: AsyncConnection, lane: Lane, limit: int, now: datetime) -> list[ClaimedRow]:
    """Claim up to `limit` due rows of a lane, the most urgent and then the oldest first, until the transaction ends.

    Rows that another drain has claimed are left out. In the critical lane the organizations (sources, if a row's owner
    is not known yet) take turns, so that one that floods it does not hold up the others.
    """
    is_due = (inbox.c.due_at <= now) & (inbox.c.state != "retrying") & _in_lane(lane)
    query = select(*_CLAIMED).where(is_due).order_by(inbox.c.priority, inbox.c.received_at)
    query = query.where(inbox.c.id.in_(_in_turn(is_due, limit))) if lane == "critical" else query.limit(limit)
    result = await connection.execute(query.with_for_update(skip_locked=True))
    return [_claimed(row) for row in result]


def _in_turn(is_due: ColumnElement[bool], limit: int) -> Select[tuple[int]]:
    """Select the ids of the rows whose turn it is, among the first `_SHARED`."""
    named = (inbox.c.id, inbox.c.priority, inbox.c.received_at)
    owner = func.coalesce(inbox.c.organization_id, inbox.c.source).label("owner")
    first = (
        select(*named, owner).where(is_due).order_by(inbox.c.priority, inbox.c.received_at).limit(_SHARED).subquery()
    )
    turn = func.row_number().over(partition_by=(first.c.priority, first.c.owner), order_by=first.c.received_at)
    ranked = select(first, turn.label("turn")).subquery()
    return select(ranked.c.id).order_by(ranked.c.priority, ranked.c.turn, ranked.c.received_at).limit(limit)


async def claim_one(connection: AsyncConnection, row_id: int, now: datetime) -> ClaimedRow | None:
    """Lock the row when it is due and no other drain has claimed it."""
    result = await connection.execute(
        select(*_CLAIMED)
        .where(inbox.c.id == row_id, inbox.c.due_at <= now, inbox.c.state != "retrying")
        .with_for_update(skip_locked=True)
    )
    row = result.first()
    return None if row is None else _claimed(row)


async def claim_retrying(connection: AsyncConnection, row_id: int) -> ClaimedRow | None:
    """Lock the row when it is to be tried again on its own."""
    result = await connection.execute(
        select(*_CLAIMED).where(inbox.c.id == row_id, inbox.c.state == "retrying").with_for_update()
    )
    row = result.first()
    return None if row is None else _claimed(row)


async def overdue_retries(connection: AsyncConnection, before: datetime, limit: int = 500) -> list[RetryStart]:
    """Find the rows whose own retry was due before that moment: nobody retries them."""
    result = await connection.execute(
        select(
            inbox.c.id,
            inbox.c.source,
            inbox.c.event["type"].astext,
            inbox.c.attempts,
            inbox.c.error,
            inbox.c.organization_id,
            inbox.c.wedding_id,
        )
        .where(inbox.c.state == "retrying", inbox.c.due_at < before)
        .order_by(inbox.c.priority, inbox.c.id)
        .limit(limit)
    )
    return [
        RetryStart(
            row_id=id_,
            source=source,
            event_type=kind or "",
            attempts=attempts,
            error=error or "",
            wait_seconds=0,
            organization_id=organization_id or "",
            wedding_id=wedding_id or "",
        )
        for id_, source, kind, attempts, error, organization_id, wedding_id in result
    ]


async def state_of(connection: AsyncConnection, row_id: int) -> tuple[str, int]:
    """Return the row's state and attempts; `gone` when there is no such row."""
    row = (await connection.execute(select(inbox.c.state, inbox.c.attempts).where(inbox.c.id == row_id))).first()
    return ("gone", 0) if row is None else (row.state, row.attempts)


def _claimed(row: Any) -> ClaimedRow:
    # What is no event at all fails with the events, where it is one row's fault and not the batch's.
    event = row.event if isinstance(row.event, dict) else {}
    return ClaimedRow(**{**row._mapping, "event": event, "contacts": tuple(row.contacts or ())})


async def record_outcomes(connection: AsyncConnection, verdicts: Mapping[int, Verdict], now: datetime) -> None:
    """Write the outcomes of claimed rows, by row id."""
    if not verdicts:
        return
    await connection.execute(
        _RECORD_OUTCOME, [_outcome_values(row_id, verdict, now) for row_id, verdict in verdicts.items()]
    )


def _outcome_values(row_id: int, verdict: Verdict, now: datetime) -> dict[str, object]:
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
    """Find the steps that hold these (vendor, object id) pairs."""
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
    """Read those of these weddings that exist, by id."""
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


async def contact_references(connection: AsyncConnection, digests: Collection[bytes]) -> list[ContactReference]:
    """Find the weddings that know these phones and addresses."""
    if not digests:
        return []
    table = contact_refs.c
    result = await connection.execute(
        select(table.digest, table.organization_id, table.wedding_id).where(table.digest.in_(sorted(digests)))
    )
    return [ContactReference(digest=row.digest, organization_id=row[1], wedding_id=row[2]) for row in result]


async def newest_events(
    connection: AsyncConnection, objects: Collection[tuple[str, str, str]]
) -> dict[tuple[str, str, str], datetime]:
    """Return when the newest processed event of each (source, object id, topic) occurred."""
    if not objects:
        return {}
    table = webhook_objects.c
    result = await connection.execute(
        select(table.source, table.object_id, table.topic, table.occurred_at).where(
            tuple_(table.source, table.object_id, table.topic).in_(sorted(objects))
        )
    )
    return {(source, object_id, topic): occurred_at for source, object_id, topic, occurred_at in result}


async def note_newest_events(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep when the objects' newest processed events occurred; an older one never overwrites a newer one.

    `rows` hold each object once: {organization_id, source, object_id, topic, occurred_at, event_id}.
    """
    if not rows:
        return
    key = ("source", "object_id", "topic")
    ordered = sorted((dict(row) for row in rows), key=lambda row: [row[name] for name in key])
    statement = upsert(webhook_objects).values(ordered)
    changed = {name: statement.excluded[name] for name in ("organization_id", "occurred_at", "event_id")}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=key,
            set_=changed,
            where=webhook_objects.c.occurred_at < statement.excluded.occurred_at,
        )
    )


async def source_configs(connection: AsyncConnection, source_ids: Collection[str]) -> dict[str, SourceConfig]:
    """Read the configurations of the registered sources among these, by id."""
    if not source_ids:
        return {}
    table = webhook_sources.c
    result = await connection.execute(select(table.id, table.config).where(table.id.in_(sorted(source_ids))))
    return {id_: SourceConfig.model_validate(config) for id_, config in result}


async def next_due_at(connection: AsyncConnection, lane: Lane) -> datetime | None:
    """Return when the lane's next row is due; None: no row waits."""
    due_at: datetime | None = await connection.scalar(
        select(func.min(inbox.c.due_at)).where(inbox.c.due_at.is_not(None), inbox.c.state != "retrying", _in_lane(lane))
    )
    return due_at


async def overdue_lanes(connection: AsyncConnection, before: datetime) -> tuple[Lane, ...]:
    """Return the lanes that hold rows due before that moment."""
    overdue = [
        lane
        for lane in LANES
        if await connection.scalar(
            select(1).where(inbox.c.due_at < before, inbox.c.state != "retrying", _in_lane(lane)).limit(1)
        )
        is not None
    ]
    return tuple(overdue)


def _in_lane(lane: Lane) -> ColumnElement[bool]:
    return inbox.c.priority <= CRITICAL if lane == "critical" else inbox.c.priority > CRITICAL
