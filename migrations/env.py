"""Run the migrations, for Alembic, on a given connection, or on one made from the settings."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from wedsync.kit.settings import Settings
from wedsync.store.db.session import sqlalchemy_url
from wedsync.store.tables import metadata

#: Whoever migrates this database waits for this lock first.
_LOCK = 0x7765_6473_796E_63


def run(connection: Connection) -> None:
    """Run the requested migrations, in one transaction, one process at a time."""
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


async def run_from_settings() -> None:
    """Connect as the owner named by the settings and run."""
    settings = Settings()
    url = settings.database_owner_url or settings.database_url
    engine = create_async_engine(sqlalchemy_url(url), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations run on a database, not offline")

given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_from_settings())
