"""Writes of what users list: steps, transactions, weddings, references. Idempotent and ordered by version.

A write whose version is not newer than the row's changes nothing. Each change that took leaves one numbered row in
`wedding_events` and one NOTIFY, in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.webhooks.outgoing.catalogue import CeremonyTime
from wedsync.domain.weddings.ledger import StepState
from wedsync.store import outbox

#: The NOTIFY channel that watchers listen on; its payload is the wedding's id.
EVENTS_CHANNEL = "wedding_events"

_STEPS = text(f"""
WITH given AS (
  SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
    step_id text, transaction_id text, status text, vendor text, fallback_used boolean, attempts int,
    external_id text, due_at timestamptz, started_at timestamptz, ended_at timestamptz, error jsonb,
    compensation jsonb, version bigint)
), changed AS (
  UPDATE steps s SET transaction_id = coalesce(g.transaction_id, s.transaction_id), status = g.status,
    vendor = g.vendor, fallback_used = g.fallback_used, attempts = g.attempts, external_id = g.external_id,
    due_at = g.due_at, started_at = g.started_at, ended_at = g.ended_at, error = nullif(g.error, 'null'::jsonb),
    compensation = nullif(g.compensation, 'null'::jsonb), version = g.version
  FROM given g
  WHERE s.wedding_id = :wedding_id AND s.step_id = g.step_id AND s.version < g.version
    AND (s.status, s.vendor, s.attempts, s.external_id, s.due_at, s.started_at, s.ended_at, s.error, s.compensation,
         s.transaction_id)
      IS DISTINCT FROM (g.status, g.vendor, g.attempts, g.external_id, g.due_at, g.started_at, g.ended_at,
         nullif(g.error, 'null'::jsonb), nullif(g.compensation, 'null'::jsonb),
         coalesce(g.transaction_id, s.transaction_id))
  RETURNING s.*
), numbered AS (
  UPDATE weddings SET event_seq = event_seq + (SELECT count(*) FROM changed)
  WHERE id = :wedding_id AND EXISTS (SELECT 1 FROM changed)
  RETURNING event_seq
), told AS (
  INSERT INTO wedding_events (organization_id, wedding_id, id, type, data, created_at)
  SELECT c.organization_id, c.wedding_id,
    n.event_seq - (SELECT count(*) FROM changed) + row_number() OVER (ORDER BY c.position),
    'step',
    jsonb_build_object('id', c.step_id, 'service', c.service, 'capability', c.capability, 'action', c.action,
      'status', c.status, 'vendor', c.vendor, 'fallback_used', c.fallback_used, 'attempts', c.attempts,
      'external_id', c.external_id, 'due_at', c.due_at, 'started_at', c.started_at, 'ended_at', c.ended_at,
      'error', c.error, 'compensation', c.compensation, 'transaction_id', c.transaction_id),
    :now
  FROM changed c, numbered n
  RETURNING id
)
SELECT min(id) AS first, {outbox.IS_WANTED} AS is_wanted, pg_notify(:channel, :wedding_id)
FROM told HAVING count(*) > 0
""")  # noqa: S608 - a text of our own

_EVENT = text(f"""
WITH numbered AS (
  UPDATE weddings SET event_seq = event_seq + 1 WHERE id = :wedding_id RETURNING organization_id, event_seq
)
INSERT INTO wedding_events (organization_id, wedding_id, id, type, data, created_at)
SELECT organization_id, :wedding_id, event_seq, :type, CAST(:data AS jsonb), :now FROM numbered
RETURNING id, {outbox.IS_WANTED} AS is_wanted
""")  # noqa: S608 - a text of our own

_NOTIFY = text("SELECT pg_notify(:channel, :wedding_id)")


def _step_row(state: StepState, version: int) -> dict[str, Any]:
    row = state.model_dump(
        mode="json",
        include={
            "step_id", "transaction_id", "status", "vendor", "fallback_used", "attempts", "external_id", "due_at",
            "started_at", "ended_at", "error", "compensation",
        },
    )  # fmt: skip
    row["version"] = version
    return row


async def write_steps(
    conn: AsyncConnection, wedding_id: str, states: Sequence[tuple[StepState, int]], now: datetime
) -> None:
    """Write steps with their versions, in one statement; unchanged and older ones leave no trace."""
    if not states:
        return
    rows = json.dumps([_step_row(state, version) for state, version in states])
    values = {"rows": rows, "wedding_id": wedding_id, "now": now, "channel": EVENTS_CHANNEL}
    written = (await conn.execute(_STEPS, values)).first()
    if written is not None and written.is_wanted:
        await outbox.publish(conn, wedding_id, written.first, now)


async def write_event(
    conn: AsyncConnection,
    wedding_id: str,
    kind: str,
    data: dict[str, Any],
    now: datetime,
    *,
    moved_from: CeremonyTime | None = None,
) -> None:
    """Append one event (`step`, `transaction` or `wedding`), notify watchers on commit, tell others who asked for it.

    `moved_from`: when the ceremony was before this change moved it.
    """
    values = {"wedding_id": wedding_id, "type": kind, "data": json.dumps(data), "now": now}
    written = (await conn.execute(_EVENT, values)).first()
    await conn.execute(_NOTIFY, {"channel": EVENTS_CHANNEL, "wedding_id": wedding_id})
    if written is not None and written.is_wanted:
        await outbox.publish(conn, wedding_id, written.id, now, previous_ceremony=moved_from)


_WEDDING = text("""
WITH before AS (SELECT ceremony_local, zone, ceremony_at FROM weddings WHERE id = :wedding_id)
UPDATE weddings w SET status = :status, phase = :phase, mode = :mode, plan_version = :plan_version,
  ceremony_local = :ceremony_local, zone = :zone, ceremony_at = :ceremony_at, updated_at = :now,
  ended_at = CASE WHEN :over THEN coalesce(ended_at, :now) END, version = :version
FROM before b WHERE w.id = :wedding_id AND w.version < :version
RETURNING b.ceremony_local AS local, b.zone AS zone, b.ceremony_at AS instant
""")


async def write_wedding(
    conn: AsyncConnection,
    wedding_id: str,
    *,
    status: str,
    phase: str,
    mode: str,
    plan_version: int,
    ceremony_local: str,
    zone: str,
    ceremony_at: datetime,
    version: int,
    now: datetime,
) -> None:
    """Write the wedding's own state."""
    values = {
        "wedding_id": wedding_id,
        "status": status,
        "phase": phase,
        "mode": mode,
        "plan_version": plan_version,
        "ceremony_local": ceremony_local,
        "zone": zone,
        "ceremony_at": ceremony_at,
        "version": version,
        "now": now,
        "over": status in ("cancelled", "ended"),
    }
    before = (await conn.execute(_WEDDING, values)).first()
    if before is not None:
        shown = {"id": wedding_id, "status": status, "phase": phase, "mode": mode, "plan_version": plan_version}
        is_moved = (before.local, before.zone) != (ceremony_local, zone)
        moved_from = CeremonyTime.model_validate(before._mapping) if is_moved else None
        await write_event(conn, wedding_id, "wedding", shown, now, moved_from=moved_from)


_REFERENCES = text("""
INSERT INTO external_refs (organization_id, vendor, account, object_id, wedding_id, step_id, transaction_id, created_at)
SELECT :organization_id, r.vendor, r.account, r.object_id, :wedding_id, r.step_id, :transaction_id, :now
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(vendor text, account text, object_id text, step_id text)
ON CONFLICT DO NOTHING
""")


async def write_references(
    conn: AsyncConnection,
    *,
    organization_id: str,
    wedding_id: str,
    transaction_id: str,
    references: Sequence[dict[str, str]],
    now: datetime,
) -> None:
    """Remember which vendor objects belong to which step: `{vendor, account, object_id, step_id}` each."""
    if references:
        await conn.execute(
            _REFERENCES,
            {
                "organization_id": organization_id,
                "wedding_id": wedding_id,
                "transaction_id": transaction_id,
                "rows": json.dumps(list(references)),
                "now": now,
            },
        )


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
    """One version of a wedding's plan, in its JSON form."""
    row = (await conn.execute(_PLAN, {"wedding_id": wedding_id, "version": version})).first()
    return None if row is None else dict(row.body)


async def write_plan(
    conn: AsyncConnection, *, organization_id: str, wedding_id: str, body: str, transaction_id: str, now: datetime
) -> int:
    """Add the transaction's version of the plan, one above the newest; once, whatever became of that one.

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


_AUDIT = text("""
INSERT INTO audit_log (organization_id, at, actor, action, subject, detail)
VALUES (:organization_id, :now, 'system:worker', :action, :subject, CAST(:detail AS jsonb))
""")


async def write_audit(
    conn: AsyncConnection, organization_id: str, action: str, subject: str, detail: dict[str, Any], now: datetime
) -> None:
    """Append what the system itself did to the audit log. At least once: a repeated activity writes it again."""
    values = {"organization_id": organization_id, "action": action, "subject": subject, "now": now}
    await conn.execute(_AUDIT, {**values, "detail": json.dumps(detail)})


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
    """Make rows that are gone again, and let the coming writes of a repair win over whatever stands."""
    placed = [{**row, "position": position} for position, row in enumerate(steps)]
    ids = {"organization_id": organization_id, "wedding_id": wedding_id}
    await conn.execute(_RESTORE_STEPS, {**ids, "rows": json.dumps(placed)})
    await conn.execute(_RESTORE_TRANSACTIONS, {**ids, "rows": json.dumps(list(transactions)), "now": now})
    await conn.execute(_FORGET_VERSIONS, {"wedding_id": wedding_id})
    await conn.execute(_FORGET_TRANSACTION_VERSIONS, {"wedding_id": wedding_id})
