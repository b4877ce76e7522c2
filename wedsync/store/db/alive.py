"""Check that a database answers."""

from __future__ import annotations

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import StoreUnavailable


async def probe(url: str, timeout_seconds: float) -> None:
    """Connect anew and run `SELECT 1`. Raises StoreUnavailable, whose detail holds nothing of the URL."""
    try:
        # libpq counts whole seconds, two at the least; the caller keeps the exact time.
        wait_seconds = max(2, round(timeout_seconds))
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=wait_seconds) as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, OSError) as error:
        raise StoreUnavailable("the database gave no answer", reason=type(error).__name__) from error


async def probe_within(conn: AsyncConnection) -> None:
    """Run the same in a transaction of our own store."""
    await conn.execute(text("SELECT 1"))
