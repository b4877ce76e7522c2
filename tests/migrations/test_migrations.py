from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from wedsync.domain.errors import StoreUnavailable
from wedsync.store.db import migrate
from wedsync.store.db.session import Database, sqlalchemy_url
from wedsync.store.tables import metadata

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "postgresql://nobody:x@127.0.0.1:1/none"


def tables_of(url: str) -> set[str]:
    engine = create_engine(sqlalchemy_url(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def rows_of(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def test_models_and_migrations_agree(owner_database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(owner_database_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        differences = compare_metadata(context, metadata)
    engine.dispose()
    assert differences == []


async def test_up_down_and_up_again(fresh_database_urls: Any) -> None:
    owner = fresh_database_urls.owner
    everything = {table.name for table in metadata.sorted_tables} | {"alembic_version"}
    assert await migrate.current(owner) == migrate.newest()
    assert tables_of(owner) == everything
    await migrate.downgrade(owner, "base")
    assert await migrate.current(owner) is None
    assert tables_of(owner) == {"alembic_version"}
    assert rows_of(owner, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    assert await migrate.upgrade(owner) == migrate.newest()
    assert tables_of(owner) == everything


async def test_several_may_migrate_at_once(fresh_database_urls: Any) -> None:
    owner = fresh_database_urls.owner
    await migrate.downgrade(owner, "base")
    script = (
        "import asyncio, sys; from wedsync.store.db import migrate; print(asyncio.run(migrate.upgrade(sys.argv[1])))"
    )

    def in_another_process() -> str:
        done = subprocess.run([sys.executable, "-c", script, owner], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    found = await asyncio.gather(
        *(asyncio.to_thread(in_another_process) for _ in range(2)), *(migrate.upgrade(owner) for _ in range(3))
    )
    assert set(found) == {migrate.newest()}


async def test_databases_of_one_cluster_may_be_migrated_at_once(new_database: Callable[[], Any]) -> None:
    owners = [new_database().owner for _ in range(3)]
    await asyncio.gather(*(migrate.downgrade(owner, "base") for owner in owners))
    await asyncio.gather(*(migrate.upgrade(owner) for owner in owners))
    assert [await migrate.current(owner) for owner in owners] == [migrate.newest()] * 3


async def test_an_unreachable_database_is_said_to_be_so() -> None:
    with pytest.raises(StoreUnavailable):
        await migrate.upgrade(NOWHERE)
    with pytest.raises(StoreUnavailable):
        await migrate.upgrade(NOWHERE, "secret")
    with pytest.raises(StoreUnavailable):
        await migrate.current(NOWHERE)


async def test_the_application_logs_in_by_the_password_it_was_given(fresh_database_urls: Any) -> None:
    app = sqlalchemy_url(fresh_database_urls.app).set(drivername="postgresql")
    password = '50%\'of"it"'
    await migrate.upgrade(fresh_database_urls.owner, password)
    try:
        changed = app.set(password=password).render_as_string(hide_password=False)
        assert rows_of(changed, "SELECT current_user::text") == [("wedsync_app",)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            rows_of(fresh_database_urls.app, "SELECT 1")
    finally:
        # The role belongs to the cluster that other tests share.
        await migrate.upgrade(fresh_database_urls.owner, app.password)


async def test_an_owner_who_is_no_superuser_can_migrate_and_be_the_only_login(fresh_database_urls: Any) -> None:
    owner = fresh_database_urls.owner
    await migrate.downgrade(owner, "base")
    ((database,),) = rows_of(owner, "SELECT current_database()")
    ((app_existed,),) = rows_of(owner, "SELECT count(*) FROM pg_roles WHERE rolname = 'wedsync_app'")
    assert app_existed == 1
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain_owner LOGIN PASSWORD 'it''s50%' NOSUPERUSER CREATEROLE")
        connection.execute("GRANT wedsync_app TO plain_owner")
        connection.execute(f'GRANT ALL ON DATABASE "{database}" TO plain_owner')
        connection.execute("DROP TABLE alembic_version")
        connection.execute("GRANT ALL ON SCHEMA public TO plain_owner WITH GRANT OPTION")
    url = sqlalchemy_url(owner).set(drivername="postgresql", username="plain_owner", password="it's50%")
    plain = url.render_as_string(hide_password=False)
    await migrate.upgrade(plain)
    db = Database(plain, 1)
    async with db.system() as connection:
        role = (await connection.exec_driver_sql("SELECT session_user || ' as ' || current_user")).scalar_one()
    await db.close()
    assert role == "plain_owner as wedsync_system"
    with psycopg.connect(plain) as owning:
        # The tables' owner itself is bound too: with no policy for it, it sees nothing.
        assert owning.execute("SELECT count(*) FROM organizations").fetchone() == (0,)


def test_the_command_line_of_alembic_takes_the_owners_url_from_the_environment(owner_database_url: str) -> None:
    environment = {**os.environ, "WEDSYNC_DATABASE_OWNER_URL": owner_database_url, "WEDSYNC_DATABASE_URL": quote("no%")}
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), "current"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.strip() == f"{migrate.newest()} (head)"
