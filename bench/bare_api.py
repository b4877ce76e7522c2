"""Sets the limit: a FastAPI application with one select, and one with one insert, and nothing else.

`python -m bench.bare_api PORT DATABASE_URL`
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from wedsync.store.db.session import sqlalchemy_url

_TABLE = """
CREATE TABLE IF NOT EXISTS bare_weddings (
  id text PRIMARY KEY, reference text NOT NULL, status text NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
)
"""
_SELECT = "SELECT id, reference, status, created_at FROM bare_weddings ORDER BY id DESC LIMIT 1"
_COLUMNS = "INSERT INTO bare_weddings (id, reference, status) VALUES"


class Store:
    """Runs the statements by SQLAlchemy's asyncio extension and its pool, as the product does."""

    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(
            sqlalchemy_url(url), pool_size=10, max_overflow=0, isolation_level="AUTOCOMMIT"
        )

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the table."""
        stack.push_async_callback(self.engine.dispose)
        async with self.engine.connect() as connection:
            await connection.execute(text(_TABLE))

    async def newest(self) -> dict[str, Any]:
        """Run one select."""
        async with self.engine.connect() as connection:
            return dict((await connection.execute(text(_SELECT))).one()._mapping)

    async def add(self, row: str) -> None:
        """Run one insert."""
        async with self.engine.connect() as connection:
            await connection.execute(text(f"{_COLUMNS} (:row, 'bare', 'planned')"), {"row": row})


def make_app(store: Store) -> FastAPI:
    """Build the application."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await store.open(stack)
            await store.add(uuid.uuid4().hex)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/select")
    async def select() -> dict[str, Any]:
        return await store.newest()

    @app.post("/insert", status_code=201)
    async def insert() -> dict[str, Any]:
        row = uuid.uuid4().hex
        await store.add(row)
        return {"id": row}

    return app


def main() -> None:
    """Serve until killed."""
    port, url = sys.argv[1:3]
    uvicorn.run(make_app(Store(url)), host="127.0.0.1", port=int(port), access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
