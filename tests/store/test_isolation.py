from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Table, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from tests.support.rows import PLATFORM_ROWS, row_of
from wedsync.store.db.session import Database, as_system
from wedsync.store.tables import metadata

OURS, THEIRS = "ours", "theirs"
TABLES = [table.name for table in metadata.sorted_tables]
#: Belong to the platform: no organization, readable by all, written by programs only.
PLATFORM_TABLES = [
    name for name in TABLES if name != "organizations" and "organization_id" not in metadata.tables[name].c
]
TENANT_TABLES = [name for name in TABLES if name not in ("organizations", "api_keys", *PLATFORM_TABLES)]


def table_of(name: str) -> Table:
    return metadata.tables[name]


@pytest.fixture(scope="module")
async def db(new_database: Any) -> AsyncIterator[Database]:
    urls = new_database()
    database = Database(urls.app, 4)
    async with database.system() as connection:
        for organization_id in (OURS, THEIRS):
            for name in TABLES:
                if name in PLATFORM_TABLES and organization_id == THEIRS:
                    continue
                await connection.execute(insert(table_of(name)).values(row_of(name, organization_id)))
        unmatched = {**row_of("inbox", OURS), "organization_id": None, "event_id": "unmatched"}
        await connection.execute(insert(table_of("inbox")).values(unmatched))
    yield database
    await database.close()


async def owners_seen(db: Database, name: str, organization_id: str | None) -> set[str | None]:
    """Whose rows a query with a forgotten WHERE returns."""
    column = "id" if name == "organizations" else "organization_id"
    session = db.tenant(organization_id) if organization_id else db.system()
    async with session as connection:
        return set((await connection.execute(select(table_of(name).c[column]))).scalars())


@pytest.mark.parametrize("name", ["organizations", *TENANT_TABLES])
async def test_a_forgotten_where_reads_nothing_of_anothers(db: Database, name: str) -> None:
    assert await owners_seen(db, name, OURS) == {OURS}
    assert await owners_seen(db, name, THEIRS) == {THEIRS}
    assert await owners_seen(db, name, "nobody") == set()
    assert await owners_seen(db, name, None) >= {OURS, THEIRS}


@pytest.mark.parametrize("name", ["organizations", *TENANT_TABLES])
async def test_a_forgotten_where_in_a_pipelined_read_reads_nothing_of_anothers(db: Database, name: str) -> None:
    column = "id" if name == "organizations" else "organization_id"
    statement = f"SELECT {column} AS owner FROM {name}"
    for organization_id, expected in ((OURS, {OURS}), (THEIRS, {THEIRS}), ("nobody", set())):
        (rows,) = await db.read(organization_id, (statement, {}))
        assert {row.owner for row in rows} == expected


async def test_keys_are_seen_by_programs_only(db: Database) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        await owners_seen(db, "api_keys", OURS)
    assert await owners_seen(db, "api_keys", None) == {OURS, THEIRS}


async def test_an_unmatched_event_is_seen_by_programs_only(db: Database) -> None:
    assert await owners_seen(db, "inbox", OURS) == {OURS}
    assert None in await owners_seen(db, "inbox", None)


def test_only_these_tables_belong_to_the_platform() -> None:
    assert set(PLATFORM_TABLES) == set(PLATFORM_ROWS)


@pytest.mark.parametrize("name", PLATFORM_TABLES)
async def test_the_platforms_rows_are_read_by_all_and_written_by_programs_only(db: Database, name: str) -> None:
    table = table_of(name)
    some = next(iter(row_of(name, OURS)))
    async with db.tenant(OURS) as connection:
        assert len((await connection.execute(select(table))).all()) >= 1
    values = {some: row_of(name, OURS)[some]}
    for statement in (insert(table).values(row_of(name, OURS)), update(table).values(values), delete(table)):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with db.tenant(OURS) as connection:
                await connection.execute(statement)


@pytest.mark.parametrize("name", [name for name in TABLES if name not in PLATFORM_TABLES])
async def test_a_row_for_another_organization_is_refused(db: Database, name: str) -> None:
    row = {**row_of(name, "strangers", wedding_id="w-theirs"), "organization_id": THEIRS}
    if name == "organizations":
        row = row_of(name, "strangers")
    with pytest.raises(ProgrammingError, match=r"row-level security|permission denied"):
        async with db.tenant(OURS) as connection:
            await connection.execute(insert(table_of(name)).values(row))


@pytest.mark.parametrize("name", TENANT_TABLES)
async def test_a_forgotten_where_changes_and_deletes_nothing_of_anothers(db: Database, name: str) -> None:
    table = table_of(name)

    async def try_out(statement: Any) -> int:
        async with db.tenant("nobody") as connection:
            try:
                return (await connection.execute(statement)).rowcount
            except ProgrammingError as error:
                return 0 if "permission denied" in str(error) else -1

    assert await try_out(update(table).values(organization_id="nobody")) == 0
    assert await try_out(delete(table)) == 0
    assert await owners_seen(db, name, None) >= {OURS, THEIRS}


@pytest.mark.parametrize("name", ["organizations", *TENANT_TABLES])
async def test_with_no_organization_set_there_is_nothing(new_database: Any, db: Database, name: str) -> None:
    async with db.tenant(OURS):
        pass
    async with db._engine.connect() as connection:
        # The session's role without a transaction of ours: what a bug that goes around `tenant` would see.
        assert (await connection.execute(select(table_of(name)))).all() == []
        assert (await connection.execute(text("SELECT current_user"))).scalar_one() == "wedsync_app"


async def test_a_row_cannot_be_handed_over_to_another_organization(db: Database) -> None:
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with db.tenant(OURS) as connection:
            await connection.execute(update(table_of("weddings")).values(organization_id=THEIRS))


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log"])
async def test_the_audit_log_only_grows(db: Database, statement: str) -> None:
    for session in (db.tenant(OURS), db.system()):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with session as connection:
                await connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
def test_not_even_the_owner_changes_the_audit_log(owner_database_url: str, statement: str) -> None:
    with psycopg.connect(owner_database_url) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(statement)


async def test_a_session_cannot_become_the_owner(db: Database) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with db.tenant(OURS) as connection:
            await connection.execute(text("SET ROLE postgres"))


async def test_a_tenants_transaction_does_a_programs_work_within_a_body_only(db: Database) -> None:
    everyones = select(table_of("weddings").c.organization_id)
    async with db.tenant(OURS) as connection:
        async with as_system(connection):
            assert set(await connection.scalars(everyones)) == {OURS, THEIRS}
        assert set(await connection.scalars(everyones)) == {OURS}
    assert await owners_seen(db, "weddings", OURS) == {OURS}


async def test_a_programs_work_that_fails_leaves_no_rights(db: Database) -> None:
    with pytest.raises(LookupError):
        async with db.tenant(OURS) as connection, as_system(connection):
            raise LookupError
    # All connections of the pool, the one at hand among them.
    for _ in range(4):
        assert await owners_seen(db, "weddings", OURS) == {OURS}
