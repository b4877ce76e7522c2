"""Results of transactions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_RESULT = text("SELECT result FROM transactions WHERE wedding_id = :wedding_id AND id = :transaction_id")


async def read_result(conn: AsyncConnection, wedding_id: str, transaction_id: str) -> dict[str, Any] | None:
    """Read the result of a transaction's workflow, or None."""
    row = (await conn.execute(_RESULT, {"wedding_id": wedding_id, "transaction_id": transaction_id})).first()
    return None if row is None or row.result is None else dict(row.result)
