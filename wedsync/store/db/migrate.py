"""Run migrations from a program: up to the newest, down to a revision, and read a database's revision.

Several processes may migrate one database at once: they take their turns on an advisory lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from wedsync.domain.errors import InvalidInput, StoreUnavailable
from wedsync.store.db.session import APP_ROLE, sqlalchemy_url


def script_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration; migrations run on `connection` when it is given."""
    spec = find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package `migrations` is not installed")
    config = Config()
    # Alembic interpolates `%` in its options.
    config.set_main_option("script_location", str(Path(spec.submodule_search_locations[0])).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """Return the newest revision that this program knows."""
    head = ScriptDirectory.from_config(script_config()).get_current_head()
    if head is None:
        raise RuntimeError("there are no migrations")
    return head


def app_password(url: str) -> str | None:
    """Return the password with which `url` logs in `wedsync_app`; None if it names another login, or no password.

    Raises InvalidInput for an empty password, which an unset variable of a compose file leaves.
    """
    parts = sqlalchemy_url(url)
    if parts.username != APP_ROLE or parts.password is None:
        return None
    if not parts.password:
        raise InvalidInput(f"the password of {APP_ROLE} is empty", field="WEDSYNC_DATABASE_URL")
    return str(parts.password)


#: A migration and a program that reads the same tables may block one another. Postgres then ends one of the two; a
#: migration is one transaction and is run again.
_DEADLOCK = "40P01"
_TRIES = 3
#: Alembic keeps its context in module globals: one run at a time in a process.
_one_run = threading.Lock()


@contextlib.contextmanager
def _owner(owner_url: str) -> Iterator[Connection]:
    engine = create_engine(sqlalchemy_url(owner_url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise StoreUnavailable("the database cannot be reached", reason=type(error).__name__) from error
    finally:
        engine.dispose()


async def upgrade(owner_url: str, app_password: str | None = None) -> str:
    """Bring the database to the newest revision and return it; does nothing when it is there.

    `owner_url` logs in the owner of the tables, who may create roles. With `app_password` the role `wedsync_app` can
    log in by it (it is sent hashed). Raises StoreUnavailable.
    """
    revision = newest()
    await _run(owner_url, lambda config: command.upgrade(config, "head"))
    if app_password is not None:
        await _set_password(owner_url, app_password)
    return revision


async def downgrade(owner_url: str, revision: str) -> None:
    """Take the database down to `revision` (`base`: empty). Roles stay: other databases of the cluster may use them.

    Raises InvalidInput when no such revision is below the database's, StoreUnavailable.
    """
    try:
        await _run(owner_url, lambda config: command.downgrade(config, revision))
    except CommandError as error:
        raise InvalidInput(f"the database can't go down to {revision}: {error}", field="revision") from error


async def current(owner_url: str) -> str | None:
    """Return the database's revision; None: not migrated. Raises StoreUnavailable."""
    return await asyncio.to_thread(_read_revision, owner_url)


def _read_revision(owner_url: str) -> str | None:
    with _owner(owner_url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


async def _run(owner_url: str, step: Callable[[Config], None]) -> None:
    await asyncio.to_thread(_run_in_thread, owner_url, step)


def _run_in_thread(owner_url: str, step: Callable[[Config], None]) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            with _one_run, _owner(owner_url) as connection:
                step(script_config(connection))
            return
        except StoreUnavailable as error:
            if not tries_left or not _is_deadlock(error.__cause__):
                raise


def _is_deadlock(error: BaseException | None) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _DEADLOCK


async def _set_password(owner_url: str, password: str) -> None:
    url = f"postgresql://{owner_url.partition('://')[2]}"
    async with await psycopg.AsyncConnection.connect(url) as connection:
        hashed = connection.pgconn.encrypt_password(password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
        await connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(APP_ROLE), sql.Literal(hashed))
        )
