"""How a transaction stands, as its workflow tells it; the rows that the API reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.weddings.ledger import TransactionResult
from wedsync.store.projection import write_event

_BEGIN = text("""
INSERT INTO transactions (id, organization_id, wedding_id, kind, status, gaps, request, step_ids, requested_at,
  handed_off_at, started_at, version)
VALUES (:id, :organization_id, :wedding_id, :kind, 'running', '[]', CAST(:request AS jsonb),
  CAST(:step_ids AS jsonb), :now, :now, :now, 1)
ON CONFLICT (id) DO UPDATE SET status = 'running', step_ids = EXCLUDED.step_ids,
  started_at = coalesce(transactions.started_at, EXCLUDED.started_at),
  handed_off_at = coalesce(transactions.handed_off_at, EXCLUDED.handed_off_at), version = 1
WHERE transactions.version < 1
RETURNING id
""")


_ACTIVE = text("UPDATE weddings SET status = 'active' WHERE id = :wedding_id AND status = 'planned'")


async def begin_transaction(
    conn: AsyncConnection,
    *,
    organization_id: str,
    wedding_id: str,
    transaction_id: str,
    kind: str,
    request: dict[str, Any],
    step_ids: Iterable[str],
    now: datetime,
) -> None:
    """Show a transaction as running; makes its row when the wedding's own agenda started it."""
    took = await conn.execute(
        _BEGIN,
        {
            "id": transaction_id,
            "organization_id": organization_id,
            "wedding_id": wedding_id,
            "kind": kind,
            "request": json.dumps(request),
            "step_ids": json.dumps(list(step_ids)),
            "now": now,
        },
    )
    if took.first() is not None:
        await conn.execute(_ACTIVE, {"wedding_id": wedding_id})
        await write_event(
            conn, wedding_id, "transaction", {"id": transaction_id, "kind": kind, "status": "running"}, now
        )


_ROLLING_BACK = text("""
UPDATE transactions SET status = 'rolling_back' WHERE id = :id AND status = 'running' AND version = 1 RETURNING kind
""")


async def write_rolling_back(conn: AsyncConnection, wedding_id: str, transaction_id: str, now: datetime) -> None:
    """Show a running transaction as rolling back."""
    took = (await conn.execute(_ROLLING_BACK, {"id": transaction_id})).first()
    if took is not None:
        data = {"id": transaction_id, "kind": took.kind, "status": "rolling_back"}
        await write_event(conn, wedding_id, "transaction", data, now)


_SETTLE = text("""
UPDATE transactions SET status = :status, gaps = CAST(:gaps AS jsonb),
  result = coalesce(result, CAST(:result AS jsonb)), error = CAST(:error AS jsonb),
  started_at = coalesce(started_at, :started_at), ended_at = :ended_at,
  handed_off_at = coalesce(handed_off_at, :ended_at), version = :version
WHERE id = :id AND version < :version
RETURNING kind
""")


async def settle_transaction(
    conn: AsyncConnection, wedding_id: str, result: TransactionResult, *, version: int, now: datetime
) -> bool:
    """Write a transaction's outcome; its full result is written once and never changed.

    True when the write took: False means that it, or a newer one, was there.
    """
    ended = result.status not in ("waiting", "held", "running", "rolling_back")
    took = await conn.execute(
        _SETTLE,
        {
            "id": result.id,
            "status": result.status,
            "gaps": json.dumps(list(result.gaps)),
            "result": result.model_dump_json(),
            "error": result.error.model_dump_json() if result.error else None,
            "started_at": result.started_at,
            "ended_at": result.ended_at if ended else None,
            "version": version,
        },
    )
    if took.first() is None:
        return False
    data = {"id": result.id, "kind": result.kind, "status": result.status, "gaps": list(result.gaps)}
    await write_event(conn, wedding_id, "transaction", data, now)
    return True


_STATUS = text("""
UPDATE transactions SET status = :status, gaps = CAST(:gaps AS jsonb),
  ended_at = CASE WHEN :ended THEN coalesce(ended_at, :now) END, error = coalesce(CAST(:error AS jsonb), error),
  handed_off_at = coalesce(handed_off_at, :now), version = :version
WHERE id = :id AND version < :version
RETURNING kind
""")


async def write_transaction_status(
    conn: AsyncConnection,
    wedding_id: str,
    transaction_id: str,
    status: str,
    *,
    gaps: Sequence[str] = (),
    error: dict[str, Any] | None = None,
    version: int,
    now: datetime,
) -> None:
    """Move a transaction's status on, as later ones answer what it waited for."""
    took = (
        await conn.execute(
            _STATUS,
            {
                "id": transaction_id,
                "status": status,
                "gaps": json.dumps(list(gaps)),
                "ended": status not in ("waiting", "held", "running", "rolling_back"),
                "error": json.dumps(error) if error else None,
                "version": version,
                "now": now,
            },
        )
    ).first()
    if took is not None:
        data = {"id": transaction_id, "kind": took.kind, "status": status, "gaps": list(gaps)}
        await write_event(conn, wedding_id, "transaction", data, now)


_RESULT = text("SELECT result FROM transactions WHERE wedding_id = :wedding_id AND id = :transaction_id")


async def read_result(conn: AsyncConnection, wedding_id: str, transaction_id: str) -> dict[str, Any] | None:
    """What a transaction's workflow returned, or None."""
    row = (await conn.execute(_RESULT, {"wedding_id": wedding_id, "transaction_id": transaction_id})).first()
    return None if row is None or row.result is None else dict(row.result)
