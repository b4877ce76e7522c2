"""Sessions on Postgres: one transaction for one organization, or for a program's own cross-tenant work.

Whoever logs in, every session takes the role `wedsync_app`, which row-level security binds to one organization.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row
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
#: The connection's key for the subjects that its transaction has changed.
_PUBLISHED = "wedsync.news"
_LONGEST_RECONNECT_SECONDS = 5.0
_BIND = "SELECT set_config('wedsync.organization_id', %s, true)"

#: A statement for `Database.read`, with `%(name)s` for its values, and the values.
Read = tuple[str, Mapping[str, Any]]


_BIND_SESSION = text("SELECT set_config('wedsync.organization_id', :organization_id, true)")


def sqlalchemy_url(url: str) -> URL:
    """Turn `postgresql://...` (or `postgres://...`) into SQLAlchemy's URL for psycopg 3."""
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
    """Raise StoreUnavailable for errors that mean that the database cannot be reached."""
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


def _require_id(organization_id: str) -> None:
    if not _ORGANIZATION_ID.fullmatch(organization_id):
        raise ValueError("not an organization id")


async def _driver(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return driver  # type: ignore[no-any-return]


async def _pipelined(
    driver: psycopg.AsyncConnection[Any], organization_id: str, statements: tuple[Read, ...]
) -> list[list[Any]]:
    cursors = []
    async with driver.pipeline():
        await driver.execute(_BIND, (organization_id,), prepare=True)
        for statement, values in statements:
            cursor = driver.cursor(row_factory=namedtuple_row)
            cursors.append(await cursor.execute(statement, values, prepare=True))
    return [await cursor.fetchall() for cursor in cursors]


def published(connection: AsyncConnection, subject: str) -> None:
    """Note that the transaction has changes of `subject`, for those who wait by `Database.when_committed`."""
    connection.info.setdefault(_PUBLISHED, set()).add(subject)


@contextlib.asynccontextmanager
async def as_system(connection: AsyncConnection) -> AsyncGenerator[None]:
    """Let a tenant's transaction do a program's own work within the body; then it is that organization's again.

    An error of the body must end the transaction: only its rollback takes the rights back then.
    """
    await connection.exec_driver_sql(f"SET LOCAL ROLE {SYSTEM_ROLE}")
    yield
    await connection.exec_driver_sql(f"SET LOCAL ROLE {APP_ROLE}")


async def bind(connection: AsyncConnection, organization_id: str) -> None:
    """Bind the transaction to one organization from here on."""
    await connection.execute(_BIND_SESSION, {"organization_id": organization_id})


class Database:
    """A process's pool of connections. Make it inside the running event loop; `close()` it at the end."""

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._url = url
        self._pool_size = pool_size
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
        """Have `herald` called after each commit of this process with changes of `subject`; it must not raise."""
        self._heralds[subject] = herald

    @contextlib.asynccontextmanager
    async def tenant(self, organization_id: str) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that sees and writes only one organization's rows; it commits when the body ends well.

        Raises StoreUnavailable; ValueError when `organization_id` is no id.
        """
        _require_id(organization_id)
        async with self._transaction(f"BEGIN; SET LOCAL wedsync.organization_id = '{organization_id}'") as connection:
            yield connection

    async def read(self, organization_id: str, *statements: Read) -> list[list[Any]]:
        """Read the rows of each statement, named tuples, as one organization sees them, in one round trip.

        The statements are one implicit transaction, which is bound to the organization. Raises StoreUnavailable;
        ValueError when `organization_id` is no id.
        """
        _require_id(organization_id)
        with _translated():
            for is_last in self._attempts():
                async with self._checked_out() as (connection, driver):
                    try:
                        return await _pipelined(driver, organization_id, statements)
                    except psycopg.OperationalError:
                        if is_last or not driver.closed:
                            raise
                        await connection.invalidate()
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def unbound(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction of no organization: it sees no tenant's row, and writes by functions that check the owner.

        Commits when the body ends well. Raises StoreUnavailable.
        """
        async with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def system(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction for a program's own work over all organizations. Raises StoreUnavailable."""
        async with self._transaction(f"BEGIN; SET LOCAL ROLE {SYSTEM_ROLE}") as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncGenerator[AsyncConnection]:
        with _translated():
            connection, driver = await self._begun(begin)
            published_rows: set[str] = set()
            try:
                connection.info.pop(_PUBLISHED, None)
                yield connection
                published_rows = connection.info.pop(_PUBLISHED, published_rows)
                # To the driver itself: SQLAlchemy's way there costs more than the statement.
                await driver.execute("COMMIT")
            finally:
                # Rolls back what is open; shielded, so that a cancelled caller never leaks a connection.
                await asyncio.shield(connection.close())
        for subject in published_rows & self._heralds.keys():
            self._heralds[subject]()

    async def _begun(self, begin: str) -> tuple[AsyncConnection, psycopg.AsyncConnection[Any]]:
        """Return a connection in a transaction, and its driver's; dead pooled connections are replaced."""
        for is_last in self._attempts():
            connection = await self._engine.connect()
            try:
                driver = await _driver(connection)
                await driver.execute(begin)
            except BaseException as error:
                is_dead = isinstance(error, psycopg.OperationalError) and driver.closed
                if is_dead:
                    await connection.invalidate()
                await asyncio.shield(connection.close())
                if is_last or not is_dead:
                    raise
            else:
                return connection, driver
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def _checked_out(self) -> AsyncGenerator[tuple[AsyncConnection, psycopg.AsyncConnection[Any]]]:
        connection = await self._engine.connect()
        try:
            yield connection, await _driver(connection)
        finally:
            await asyncio.shield(connection.close())

    def _attempts(self) -> Iterator[bool]:
        """Yield, per attempt, whether it is the last: one per pooled connection that may have died, and a new one."""
        return (number == self._pool_size for number in range(self._pool_size + 1))

    async def listen(self, channel: str) -> AsyncGenerator[str]:
        """Yield the payloads notified on `channel`, for ever, over a direct connection, opened anew when it breaks.

        Yields the empty text after each (re)connection: earlier notifications are lost, so read again.
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
