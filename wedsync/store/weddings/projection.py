"""Write the rows that users list: steps, transactions, weddings, references. Idempotent and ordered by version.

A write whose version is not newer than the row's changes nothing. Each change that took effect leaves one numbered row
in `wedding_events`, and each wedding one NOTIFY, in the same transaction (`migrations/sql/write_projections.sql`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.weddings.projection import EventRow, ProjectionWrite, Written
from wedsync.domain.weddings.step import StepState
from wedsync.store.db.session import bind
from wedsync.store.outbox import events as outbox

#: The NOTIFY channel of watchers; its payload is the wedding's id.
EVENTS_CHANNEL = "wedding_events"

_WRITE = text("SELECT write_projections(CAST(:writes AS jsonb))")

#: Columns of a step that users read; the rest of its state is the workflow's own.
_SHOWN = frozenset(
    {
        "step_id", "transaction_id", "status", "vendor", "fallback_used", "attempts", "external_id", "due_at",
        "started_at", "ended_at", "error", "compensation",
    }
)  # fmt: skip
_UNSHOWN: Any = {"steps": {"__all__": {"state": set(StepState.model_fields) - _SHOWN}}}


async def apply_writes(conn: AsyncConnection, writes: Sequence[ProjectionWrite]) -> list[Written]:
    """Apply writes in one statement, record their events for subscribers, and return what each write changed.

    A session of one organization writes its own weddings; a session of none writes any. A fault of one write fails all:
    it raises IntegrityError for a row that is not of its wedding's organization.
    """
    given = ",".join(write.model_dump_json(exclude=_UNSHOWN) for write in writes)
    answer = (await conn.execute(_WRITE, {"writes": f"[{given}]"})).scalar_one()
    found = [Written.model_validate(row) for row in answer["writes"]]
    for write, written in zip(writes, found, strict=True):
        if write.organization_id in answer["listened_to"]:
            await _publish(conn, write, written)
    return found


async def _publish(conn: AsyncConnection, write: ProjectionWrite, written: Written) -> None:
    if written.first_event is None or written.last_event is None:
        return
    await bind(conn, write.organization_id)
    first, last, moved_from = written.first_event, written.last_event, written.previous_ceremony
    await outbox.publish(conn, write.wedding_id, first, write.now, until=last, previous_ceremony=moved_from)


async def write_event(
    conn: AsyncConnection, organization_id: str, wedding_id: str, event: EventRow, now: datetime
) -> None:
    """Append one event, notify watchers on commit, and record it for subscribers."""
    write = ProjectionWrite(organization_id=organization_id, wedding_id=wedding_id, now=now, events=(event,))
    await apply_writes(conn, [write])


_PLAN = text("SELECT body FROM plans WHERE wedding_id = :wedding_id AND version = :version")
_NEW_PLAN = text("""
WITH known AS (
  SELECT version FROM plans WHERE wedding_id = :wedding_id AND transaction_id = :transaction_id
), added AS (
  INSERT INTO plans (organization_id, wedding_id, version, body, created_at, transaction_id)
  SELECT :organization_id, :wedding_id, max(version) + 1, CAST(:body AS jsonb), :now, :transaction_id
  FROM plans WHERE wedding_id = :wedding_id AND NOT EXISTS (SELECT 1 FROM known)
  HAVING count(*) > 0
  RETURNING version
)
SELECT version FROM known UNION ALL SELECT version FROM added
""")


async def read_plan(conn: AsyncConnection, wedding_id: str, version: int) -> dict[str, Any] | None:
    """Read one version of a wedding's plan, in its JSON form."""
    row = (await conn.execute(_PLAN, {"wedding_id": wedding_id, "version": version})).first()
    return None if row is None else dict(row.body)


async def write_plan(
    conn: AsyncConnection, *, organization_id: str, wedding_id: str, body: str, transaction_id: str, now: datetime
) -> int:
    """Add the transaction's version of the plan, one above the newest; only once, whatever happened to it since.

    Returns its number.
    """
    values = {
        "organization_id": organization_id,
        "wedding_id": wedding_id,
        "body": body,
        "transaction_id": transaction_id,
        "now": now,
    }
    return int((await conn.execute(_NEW_PLAN, values)).scalar_one())


_LOCK = text("SELECT FROM weddings WHERE id = :wedding_id FOR NO KEY UPDATE")
_RESTORE_STEPS = text("""
INSERT INTO steps (organization_id, wedding_id, step_id, position, service, capability, action, status)
SELECT :organization_id, :wedding_id, r.step_id, r.position, r.service, r.capability, r.action, 'pending'
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(step_id text, position int, service text, capability text,
  action text)
ON CONFLICT DO NOTHING
""")
_RESTORE_TRANSACTIONS = text("""
INSERT INTO transactions (id, organization_id, wedding_id, kind, status, gaps, request, step_ids, requested_at,
  handed_off_at)
SELECT r.id, :organization_id, :wedding_id, r.kind, 'running', '[]', '{}',
  (SELECT coalesce(jsonb_agg(s.step_id ORDER BY s.position), '[]') FROM steps s WHERE s.wedding_id = :wedding_id
    AND (r.kind = 'orchestrate' OR s.transaction_id = r.id)), :now, :now
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, kind text)
ON CONFLICT DO NOTHING
""")
_FORGET_VERSIONS = text("UPDATE steps SET version = 0 WHERE wedding_id = :wedding_id")
_FORGET_TRANSACTION_VERSIONS = text(
    "UPDATE transactions SET version = 0 WHERE wedding_id = :wedding_id AND version > 1"
)


async def restore_rows(
    conn: AsyncConnection,
    *,
    organization_id: str,
    wedding_id: str,
    steps: Sequence[dict[str, str]],
    transactions: Sequence[dict[str, str]],
    now: datetime,
) -> None:
    """Make missing rows again, and let the coming writes of a repair replace whatever is there."""
    placed = [{**row, "position": position} for position, row in enumerate(steps)]
    ids = {"organization_id": organization_id, "wedding_id": wedding_id}
    # As every writer does: the wedding first.
    await conn.execute(_LOCK, {"wedding_id": wedding_id})
    await conn.execute(_RESTORE_STEPS, {**ids, "rows": json.dumps(placed)})
    await conn.execute(_RESTORE_TRANSACTIONS, {**ids, "rows": json.dumps(list(transactions)), "now": now})
    await conn.execute(_FORGET_VERSIONS, {"wedding_id": wedding_id})
    await conn.execute(_FORGET_TRANSACTION_VERSIONS, {"wedding_id": wedding_id})
