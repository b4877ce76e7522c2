"""Sessions on Postgres: one transaction for one organization, or for a program's own cross-tenant work.

Whoever logs in, every session takes the role `wedsync_app`, which row-level security binds to one organization.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from wedsync.domain.errors import StoreUnavailable

#: The role of every session, bound to one organization by row-level security.
APP_ROLE = "wedsync_app"
#: The role of programs' own work across organizations: drains, sweeps, key lookup.
SYSTEM_ROLE = "wedsync_system"

_ORGANIZATION_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
#: SQLSTATE classes and codes that mean "the server is not there for us": 08 connection, 53 resources, 57P shutdown.
_GONE_STATES = ("08", "53", "57P")
_CONNECT_TIMEOUT_SECONDS = 5
#: Where a connection keeps what its transaction has news of.
_NEWS = "wedsync.news"
_LONGEST_RECONNECT_SECONDS = 5.0


_BIND = text("SELECT set_config('wedsync.organization_id', :organization_id, true)")


def sqlalchemy_url(url: str) -> URL:
    """`postgresql://...` (or `postgres://...`) as SQLAlchemy's URL for psycopg 3."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("the database URL must begin with postgresql://")
    return make_url(f"postgresql+psycopg://{rest}")


def _means_gone(error: BaseException) -> bool:
    if isinstance(error, PoolTimeoutError | OSError):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and _means_gone(error.orig))
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate.startswith(_GONE_STATES)
    return False


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise StoreUnavailable for what means that the database cannot be reached."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError, psycopg.OperationalError) as error:
        if _means_gone(error):
            raise StoreUnavailable("the database cannot be reached", reason=type(error).__name__) from error
        raise


def _take_app_role(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    cursor.execute(f"SET ROLE {APP_ROLE}")
    cursor.close()


def told(connection: AsyncConnection, subject: str) -> None:
    """Say within a transaction that it has news of `subject`, for those who wait by `Database.when_committed`."""
    connection.info.setdefault(_NEWS, set()).add(subject)


@contextlib.asynccontextmanager
async def as_system(connection: AsyncConnection) -> AsyncGenerator[None]:
    """Within the body a tenant's transaction does a program's own work; then it is that organization's again.

    What the body raises must end the transaction: only its rollback takes the rights back then.
    """
    await connection.exec_driver_sql(f"SET LOCAL ROLE {SYSTEM_ROLE}")
    yield
    await connection.exec_driver_sql(f"SET LOCAL ROLE {APP_ROLE}")


async def bind(connection: AsyncConnection, organization_id: str) -> None:
    """Bind the transaction to one organization from here on."""
    await connection.execute(_BIND, {"organization_id": organization_id})


class Database:
    """The process's pool of connections. Make it inside the running event loop; `close()` it at the end."""

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._url = url
        # Autocommit at the driver: BEGIN is then ours to send, in one round trip with what must follow it.
        self._engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(url),
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_SECONDS},
        )
        event.listen(self._engine.sync_engine, "connect", _take_app_role)
        self._heralds: dict[str, Callable[[], None]] = {}

    def when_committed(self, subject: str, herald: Callable[[], None]) -> None:
        """Have `herald` called after each commit of this process that has news of `subject`; it must not raise."""
        self._heralds[subject] = herald

    @contextlib.asynccontextmanager
    async def tenant(self, organization_id: str) -> AsyncGenerator[AsyncConnection]:
        """One transaction that sees and writes the rows of one organization only; commits when the body ends well.

        Raises StoreUnavailable; ValueError when `organization_id` is no id.
        """
        if not _ORGANIZATION_ID.fullmatch(organization_id):
            raise ValueError("not an organization id")
        begin = f"BEGIN; SELECT set_config('wedsync.organization_id', '{organization_id}', true)"
        async with self._transaction(begin) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def unbound(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction of no organization: it sees no tenant's row, and writes by functions that check whose it is.

        Commits when the body ends well. Raises StoreUnavailable.
        """
        async with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def system(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction of a program's own work over all organizations. Raises StoreUnavailable."""
        async with self._transaction(f"BEGIN; SET LOCAL ROLE {SYSTEM_ROLE}") as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncGenerator[AsyncConnection]:
        with _translated():
            connection = await self._begun(begin)
            news: set[str] = set()
            try:
                connection.info.pop(_NEWS, None)
                yield connection
                news = connection.info.pop(_NEWS, news)
                await connection.commit()
            finally:
                # Rolls back what is open; shielded, so that a cancelled caller never leaks a connection.
                await asyncio.shield(connection.close())
        for subject in news & self._heralds.keys():
            self._heralds[subject]()

    async def _begun(self, begin: str) -> AsyncConnection:
        """A connection in a transaction; a pooled one that died meanwhile is replaced once."""
        for is_last in (False, True):
            connection = await self._engine.connect()
            try:
                await connection.exec_driver_sql(begin)
            except BaseException as error:
                await asyncio.shield(connection.close())
                if is_last or not (isinstance(error, DBAPIError) and error.connection_invalidated):
                    raise
            else:
                return connection
        raise AssertionError("unreachable")

    async def listen(self, channel: str) -> AsyncGenerator[str]:
        """The payloads notified on `channel`, for ever, over a direct connection that is opened anew when it breaks.

        Yields the empty text each time it has (re)connected: what was notified before that is lost, so look again.
        """
        wait_seconds = 0.1
        while True:
            try:
                async with await self._listener(channel) as connection:
                    wait_seconds = 0.1
                    yield ""
                    async for notice in connection.notifies():
                        yield notice.payload
            except (psycopg.OperationalError, OSError):
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, _LONGEST_RECONNECT_SECONDS)

    async def _listener(self, channel: str) -> psycopg.AsyncConnection[Any]:
        scheme_free = self._url.partition("://")[2]
        connection = await psycopg.AsyncConnection.connect(
            f"postgresql://{scheme_free}", autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS
        )
        try:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(APP_ROLE)))
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Close every pooled connection."""
        await self._engine.dispose()
