"""Weddings, steps, transactions and events that users list and request, in Postgres.

All within `tenant()`, but for statements for `Database.read`, which binds them to the organization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.db.session import Read
from wedsync.store.weddings.tables import steps, transactions, wedding_events, weddings

#: By its id or its plan's own id; the id wins if they name two weddings.
_NAMED = "id = %(wedding)s OR reference = %(wedding)s ORDER BY id <> %(wedding)s LIMIT 1"
_ITS_ID = f"(SELECT id FROM weddings WHERE {_NAMED})"  # noqa: S608 - a text of our own
_FIND = f"SELECT * FROM weddings WHERE {_NAMED}"  # noqa: S608 - a text of our own
_ITS_STEPS = f"SELECT * FROM steps WHERE wedding_id = {_ITS_ID} ORDER BY position"  # noqa: S608 - a text of our own
_ITS_TRANSACTIONS = f"SELECT * FROM transactions WHERE wedding_id = {_ITS_ID} ORDER BY requested_at, id"  # noqa: S608 - a text of our own
_PAGE = """
SELECT * FROM weddings WHERE organization_id = %(organization_id)s AND (%(before)s::text IS NULL OR id < %(before)s)
ORDER BY id DESC LIMIT %(limit)s
"""


def finding(wedding: str) -> Read:
    """Find the wedding's row by its id or by its plan's own id."""
    return _FIND, {"wedding": wedding}


def finding_steps(wedding: str) -> Read:
    """Find the wedding's steps in plan order."""
    return _ITS_STEPS, {"wedding": wedding}


def finding_transactions(wedding: str) -> Read:
    """Find the wedding's transactions, oldest first."""
    return _ITS_TRANSACTIONS, {"wedding": wedding}


def paging(organization_id: str, limit: int, before: str | None) -> Read:
    """Find up to `limit` weddings, newest first, with ids below `before`."""
    return _PAGE, {"organization_id": organization_id, "limit": limit, "before": before}


_CREATE = text("""
WITH made AS (
  INSERT INTO weddings (id, organization_id, reference, status, phase, mode, ceremony_local, zone, ceremony_at,
    plan_version, event_seq, created_at, updated_at)
  VALUES (:id, :organization_id, :reference, 'planned', 'preparation', 'normal', :ceremony_local, :zone, :ceremony_at,
    1, 1, :now, :now)
  ON CONFLICT DO NOTHING RETURNING id, organization_id
), planned AS (
  INSERT INTO plans (organization_id, wedding_id, version, body, created_at)
  SELECT organization_id, id, 1, CAST(:plan AS jsonb), :now FROM made
), stepped AS (
  INSERT INTO steps (organization_id, wedding_id, step_id, position, service, capability, action, status, due_at)
  SELECT m.organization_id, m.id, r.id, r.position, r.service, r.capability, r.action, r.status, r.due_at
  FROM made m, jsonb_to_recordset(CAST(:steps AS jsonb)) AS r(id text, position int, service text, capability text,
    action text, status text, due_at timestamptz)
), audited AS (
  INSERT INTO audit_log (organization_id, at, actor, action, subject, detail)
  SELECT organization_id, :now, :actor, 'wedding.created', 'wedding/' || id, CAST(:detail AS jsonb) FROM made
), told AS (
  INSERT INTO wedding_events (organization_id, wedding_id, id, type, data, created_at)
  SELECT organization_id, id, 1, 'wedding', CAST(:event AS jsonb), :now FROM made
)
SELECT pg_notify(:channel, id), EXISTS (
  SELECT FROM webhook_subscriptions s WHERE s.organization_id = made.organization_id AND s.status <> 'deleted'
) AS is_wanted FROM made
""")


async def add_wedding(conn: AsyncConnection, values: Mapping[str, Any]) -> bool | None:
    """Insert a wedding with its plan, its steps, its first event and the line in the audit log, in one statement.

    Returns whether subscribers want its event; None, with nothing written, when its reference or its id is taken.
    """
    row = (await conn.execute(_CREATE, values)).first()
    return None if row is None else bool(row.is_wanted)


_RECORD = text("""
WITH numbered AS (
  UPDATE weddings SET transaction_seq = transaction_seq + 1, event_seq = event_seq + 1 WHERE id = :wedding_id
  RETURNING id, organization_id, event_seq
), recorded AS (
  INSERT INTO transactions (id, organization_id, wedding_id, kind, status, gaps, request, step_ids, requested_at,
    traceparent)
  SELECT :id, organization_id, id, :kind, 'running', '[]', CAST(:request AS jsonb), CAST(:step_ids AS jsonb), :now,
    :traceparent FROM numbered
), audited AS (
  INSERT INTO audit_log (organization_id, at, actor, action, subject, detail)
  SELECT organization_id, :now, :actor, :action, 'transaction/' || :id, CAST(:detail AS jsonb) FROM numbered
), told AS (
  INSERT INTO wedding_events (organization_id, wedding_id, id, type, data, created_at)
  SELECT organization_id, id, event_seq, 'transaction', CAST(:event AS jsonb), :now FROM numbered
)
SELECT event_seq, pg_notify(:channel, id), EXISTS (
  SELECT FROM webhook_subscriptions s WHERE s.organization_id = numbered.organization_id AND s.status <> 'deleted'
) AS is_wanted FROM numbered
""")


async def add_transaction(conn: AsyncConnection, values: Mapping[str, Any]) -> int | None:
    """Insert an undispatched transaction of a locked wedding, with its event and audit, in one statement.

    Returns the event's number when subscribers want it.
    """
    row = (await conn.execute(_RECORD, values)).one()
    return int(row.event_seq) if row.is_wanted else None


async def find_wedding(conn: AsyncConnection, wedding: str, *, lock: bool = False) -> Any | None:
    """Find the wedding's row by its id or by its plan's own id; None when there is none.

    With `lock` nobody else changes the wedding until this transaction ends.
    """
    query = select(weddings).where(or_(weddings.c.id == wedding, weddings.c.reference == wedding))
    query = query.order_by(weddings.c.id != wedding).limit(1)
    if lock:
        query = query.with_for_update(key_share=True)
    return (await conn.execute(query)).first()


async def read_steps(conn: AsyncConnection, wedding_id: str, step_ids: Sequence[str] | None = None) -> list[Any]:
    """Read the wedding's steps in plan order; only `step_ids` when they are given."""
    query = select(steps).where(steps.c.wedding_id == wedding_id).order_by(steps.c.position)
    if step_ids is not None:
        query = query.where(steps.c.step_id.in_(step_ids))
    return list((await conn.execute(query)).all())


async def read_transactions(conn: AsyncConnection, wedding_id: str) -> list[Any]:
    """Read the wedding's transactions, oldest first."""
    query = select(transactions).where(transactions.c.wedding_id == wedding_id)
    return list((await conn.execute(query.order_by(transactions.c.requested_at, transactions.c.id))).all())


async def find_transaction(conn: AsyncConnection, wedding_id: str, transaction_id: str) -> Any | None:
    """Find one transaction of the wedding; None when there is none."""
    query = select(transactions).where(transactions.c.wedding_id == wedding_id, transactions.c.id == transaction_id)
    return (await conn.execute(query)).first()


async def read_events(conn: AsyncConnection, wedding_id: str, after: int, limit: int) -> list[Any]:
    """Read up to `limit` events of the wedding with ids above `after`, in order."""
    query = select(wedding_events.c.id, wedding_events.c.type, wedding_events.c.data).where(
        wedding_events.c.wedding_id == wedding_id, wedding_events.c.id > after
    )
    return list((await conn.execute(query.order_by(wedding_events.c.id).limit(limit))).all())


async def read_revision(conn: AsyncConnection) -> str | None:
    """Return the migration that the database stands at."""
    found = (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    return None if found is None else str(found)
