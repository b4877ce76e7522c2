from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from wedsync.domain.errors import StoreUnavailable
from wedsync.store.db.session import Database, sqlalchemy_url

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, 1)
    yield database
    await database.close()


async def value(db: Database, statement: str, organization_id: str = "o1") -> Any:
    async with db.tenant(organization_id) as connection:
        return (await connection.execute(text(statement))).scalar_one()


def kill(owner_url: str, pid: int) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


@pytest.mark.parametrize("url", ["postgresql://u:p%40@h/d", "postgres://u:p%40@h/d", "postgresql+psycopg://u:p%40@h/d"])
def test_every_spelling_of_a_postgres_url_is_taken(url: str) -> None:
    found = sqlalchemy_url(url)
    assert (found.drivername, found.username, found.password, found.host) == ("postgresql+psycopg", "u", "p@", "h")


@pytest.mark.parametrize("url", ["", "mysql://h/d", "sqlite:///x"])
def test_another_databases_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://"):
        sqlalchemy_url(url)


async def test_the_organization_is_bound_to_one_transaction(db: Database) -> None:
    setting = "SELECT current_setting('wedsync.organization_id', true)"
    assert await value(db, setting, "o1") == "o1"
    assert await value(db, setting, "o2") == "o2"
    async with db.system() as connection:
        assert (await connection.execute(text(setting))).scalar_one() == ""
        assert (await connection.execute(text("SELECT current_user"))).scalar_one() == "wedsync_system"
    assert await value(db, "SELECT current_user") == "wedsync_app"


@pytest.mark.parametrize("organization_id", ["", "x' OR true --", "a b", "é", "x" * 65, "a\n"])
async def test_what_is_no_organization_id_reaches_no_database(db: Database, organization_id: str) -> None:
    with pytest.raises(ValueError, match="not an organization id"):
        async with db.tenant(organization_id):
            pass


async def test_a_body_that_raises_leaves_nothing_behind(db: Database) -> None:
    insert_row = "INSERT INTO organizations (id, name, created_at) VALUES ('gone', 'x', now())"

    async def that_raises() -> None:
        async with db.system() as connection:
            await connection.execute(text(insert_row))
            raise LookupError("no")

    with pytest.raises(LookupError):
        await that_raises()

    async def that_fails() -> None:
        async with db.system() as connection:
            await connection.execute(text(insert_row))
            await connection.execute(text(insert_row))

    with pytest.raises(IntegrityError):
        await that_fails()
    async with db.system() as connection:
        count = text("SELECT count(*) FROM organizations WHERE id = 'gone'")
        assert (await connection.execute(count)).scalar_one() == 0


async def test_a_cancelled_body_gives_its_connection_back(db: Database) -> None:
    started = asyncio.Event()

    async def sleeper() -> None:
        async with db.tenant("o1") as connection:
            started.set()
            await connection.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(sleeper())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The pool holds one connection only.
    assert await value(db, "SELECT 1") == 1


async def test_a_pooled_connection_that_died_is_replaced_without_notice(db: Database, owner_database_url: str) -> None:
    async with db.tenant("o1") as connection:
        pid = (await connection.execute(PID)).scalar_one()
    kill(owner_database_url, pid)
    assert await value(db, "SELECT 1") == 1


async def test_a_connection_that_dies_in_the_body_is_store_unavailable(db: Database, owner_database_url: str) -> None:
    async def that_is_cut() -> None:
        async with db.tenant("o1") as connection:
            kill(owner_database_url, (await connection.execute(PID)).scalar_one())
            await connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        await that_is_cut()


async def test_an_unreachable_database_is_store_unavailable() -> None:
    database = Database("postgresql://nobody:x@127.0.0.1:1/none")
    for session in (database.tenant("o1"), database.system()):
        with pytest.raises(StoreUnavailable):
            async with session:
                pass
    await database.close()


async def test_an_error_of_the_statement_stays_what_it_is(db: Database) -> None:
    with pytest.raises(DBAPIError, match="division by zero"):
        await value(db, "SELECT 1 / 0")


async def test_a_transaction_of_one_statement_costs_three_round_trips(db: Database, tmp_path: Path) -> None:
    async with db.tenant("o1") as connection:
        raw = await connection.get_raw_connection()
        wire = raw.driver_connection.pgconn  # type: ignore[union-attr]
    with (tmp_path / "wire").open("w+") as trace:
        wire.trace(trace.fileno())
        assert await value(db, "SELECT 7") == 7
        wire.untrace()
        trace.seek(0)
        sent = [line.split("\t")[3].strip() for line in trace if line.split("\t")[1] == "F"]
    assert sent.count("Query") + sent.count("Sync") == 3


READ_ORGANIZATION = "SELECT current_setting('wedsync.organization_id', true) AS organization_id, current_user AS role"


async def test_reading_takes_one_round_trip_and_is_bound_to_its_organization_only(db: Database, tmp_path: Path) -> None:
    async with db.tenant("o1") as connection:
        raw = await connection.get_raw_connection()
        wire = raw.driver_connection.pgconn  # type: ignore[union-attr]
    with (tmp_path / "wire").open("w+") as trace:
        wire.trace(trace.fileno())
        found = await db.read("o2", (READ_ORGANIZATION, {}), (READ_ORGANIZATION, {}))
        wire.untrace()
        trace.seek(0)
        sent = [line.split("\t")[3].strip() for line in trace if line.split("\t")[1] == "F"]
    assert [tuple(row) for rows in found for row in rows] == [("o2", "wedsync_app")] * 2
    assert sent.count("Query") + sent.count("Sync") == 1
    async with db._engine.connect() as connection:
        left = text("SELECT current_setting('wedsync.organization_id', true)")
        assert (await connection.execute(left)).scalar_one() == ""


async def test_reading_that_fails_leaves_the_connection_free_and_unbound(db: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await db.read("o1", ("SELECT 1 / %(zero)s::int", {"zero": 0}))
    ((row,),) = await db.read("o2", (READ_ORGANIZATION, {}))
    assert row.organization_id == "o2"


@pytest.mark.parametrize("organization_id", ["", "x' OR true --", "a\n"])
async def test_what_is_no_organization_id_reads_nothing(db: Database, organization_id: str) -> None:
    with pytest.raises(ValueError, match="not an organization id"):
        await db.read(organization_id, ("SELECT 1", {}))


async def test_every_pooled_connection_may_have_died(database_url: str, owner_database_url: str) -> None:
    database = Database(database_url, 3)

    async def pids() -> list[int]:
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(database.tenant("o1")) for _ in range(3)]
            return [(await connection.execute(PID)).scalar_one() for connection in opened]

    for pid in await pids():
        kill(owner_database_url, pid)
    assert await database.read("o1", ("SELECT 7 AS n", {})) == [[(7,)]]
    for pid in await pids():
        kill(owner_database_url, pid)
    assert await value(database, "SELECT 7") == 7
    await database.close()


async def test_reading_from_an_unreachable_database_is_store_unavailable() -> None:
    database = Database("postgresql://nobody:x@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable):
        await database.read("o1", ("SELECT 1", {}))
    await database.close()


async def test_listening_hears_what_is_committed_and_goes_on_after_a_break(
    db: Database, owner_database_url: str
) -> None:
    heard = db.listen("wedding_events")
    assert await anext(heard) == ""
    async with db.tenant("o1") as connection:
        await connection.execute(text("SELECT pg_notify('wedding_events', 'w1')"))
    assert await anext(heard) == "w1"
    with psycopg.connect(owner_database_url) as owner:
        query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        pids = [pid for (pid,) in owner.execute(query).fetchall()]
    for pid in pids:
        kill(owner_database_url, pid)
    assert await anext(heard) == ""
    async with db.tenant("o1") as connection:
        await connection.execute(text("SELECT pg_notify('wedding_events', 'w2')"))
    assert await anext(heard) == "w2"
    await heard.aclose()
