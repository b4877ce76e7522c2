from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Table, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from wedsync.store.session import Database
from wedsync.store.tables import metadata

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
OURS, THEIRS = "ours", "theirs"
TABLES = [table.name for table in metadata.sorted_tables]
#: Belong to the platform: no organization, readable by all, written by programs only.
PLATFORM_TABLES = [
    name for name in TABLES if name != "organizations" and "organization_id" not in metadata.tables[name].c
]
TENANT_TABLES = [name for name in TABLES if name not in ("organizations", "api_keys", *PLATFORM_TABLES)]

_WEDDING: dict[str, Any] = {
    "reference": "w",
    "status": "planned",
    "phase": "preparation",
    "mode": "normal",
    "ceremony_local": "2027-06-19T16:00",
    "zone": "Europe/Rome",
    "ceremony_at": NOW,
    "plan_version": 1,
    "created_at": NOW,
    "updated_at": NOW,
}

_SERVICE: dict[str, Any] = {"service": "stripe", "endpoint": "default"}
_CALL: dict[str, Any] = {
    **_SERVICE,
    "transaction_id": "t",
    "step_id": "s",
    "version": "1",
    "operation": "take",
    "ask": "send",
    "outcome": "ok",
    "duration_ms": 1.0,
    "at": NOW,
}
#: A row of each of the platform's tables.
_ROUTING: dict[str, dict[str, Any]] = {
    "services": {"service": "stripe", "config": {}, "version": 1, "updated_at": NOW, "updated_by": "key:1"},
    "service_endpoints": {
        "service": "stripe",
        "name": "default",
        "position": 0,
        "base_url": "",
        "version": "",
        "region": "",
        "weight": 1,
        "capacity": 0,
    },
    "circuits": {**_SERVICE, "state": "closed", "window": []},
    "probe_permits": {**_SERVICE, "round": 1, "slot": 0},
    "failovers": {
        "id": "f-ours",
        "from_service": "stripe",
        "endpoint": "default",
        "epoch": 1,
        "reason": "failure_rate",
        "strategy": "immediate",
        "status": "active",
        "actor": "breaker",
        "estimated_downtime_ms": 1,
        "rollback_plan": [],
        "started_at": NOW,
    },
    "service_health": {
        "service": "stripe",
        "status": "healthy",
        "since": NOW,
        "error_rate": 0,
        "response_ms": 0,
        "due_at": NOW,
    },
    "vendor_versions": {"service": "stripe", "name": "2", "spec": {}, "updated_at": NOW, "updated_by": "key:1"},
    "health_changes": {"service": "stripe", "status": "healthy", "at": NOW, "error_rate": 0, "response_ms": 0},
    "quota_policies": {"service": "stripe", "account": "default", "policy": {}, "updated_at": NOW, "updated_by": "t"},
    "quotas": {"service": "stripe", "account": "default", "version": 1, "nonce": "n", "state": {}},
}


def row_of(table: str, organization_id: str, wedding_id: str | None = None) -> dict[str, Any]:
    """A row of `organization_id`; every id in it says whose it is."""
    wedding = wedding_id or f"w-{organization_id}"
    of_wedding = {"organization_id": organization_id, "wedding_id": wedding}
    event = {"source": "stripe", "event_id": "e", "type": "other", "vendor_type": "x"}
    rows: dict[str, dict[str, Any]] = {
        **_ROUTING,
        "failover_weddings": {**of_wedding, "failover_id": "f-ours", "ceremony_at": NOW},
        "vendor_calls": {**_CALL, **of_wedding},
        "organizations": {"id": organization_id, "name": "Studio", "created_at": NOW},
        "api_keys": {
            "id": f"k-{organization_id}",
            "organization_id": organization_id,
            "name": "key",
            "key_hmac": organization_id.encode(),
            "created_at": NOW,
        },
        "audit_log": {
            "organization_id": organization_id,
            "at": NOW,
            "actor": "key:1",
            "action": "a",
            "subject": "s",
            "detail": {},
        },
        "idempotency_keys": {"organization_id": organization_id, "key": "k", "fingerprint": "f", "created_at": NOW},
        "weddings": {**_WEDDING, "id": wedding, "organization_id": organization_id},
        "plans": {**of_wedding, "version": 1, "body": {}, "created_at": NOW},
        "transactions": {
            **of_wedding,
            "id": f"t-{organization_id}",
            "kind": "orchestrate",
            "status": "running",
            "gaps": [],
            "request": {},
            "step_ids": [],
            "requested_at": NOW,
        },
        "steps": {
            **of_wedding,
            "step_id": "s",
            "position": 0,
            "service": "s",
            "capability": "sms",
            "action": "sms.send",
            "status": "pending",
        },
        "notification_channels": {
            "id": f"ch-{organization_id}",
            "organization_id": organization_id,
            "name": "on call",
            "kind": "log",
            "target": "",
            "events": [],
            "least_severity": 0,
            "dedup_seconds": 300,
            "created_at": NOW,
            "created_by": "key:1",
        },
        "notifications": {
            "id": f"n-{organization_id}",
            "organization_id": organization_id,
            "channel_id": f"ch-{organization_id}",
            "dedup_key": "health.changed stripe",
            "notice": {},
            "created_at": NOW,
            "due_at": NOW,
        },
        "version_pins": {
            "organization_id": organization_id,
            "service": "stripe",
            "version": "2",
            "since": NOW,
            "pinned_by": "key:1",
        },
        "version_migrations": {
            "id": f"m-{organization_id}",
            "organization_id": organization_id,
            "service": "stripe",
            "stage": "shadow",
            "state": {},
            "started_at": NOW,
            "started_by": "key:1",
        },
        "read_answers": {
            "organization_id": organization_id,
            "question": "q",
            "vendor": "open_meteo",
            "facts": {},
            "answered_at": NOW,
        },
        "external_refs": {
            **of_wedding,
            "vendor": "stripe",
            "account": "default",
            "object_id": "o",
            "step_id": "s",
            "transaction_id": "t",
            "created_at": NOW,
        },
        "wedding_events": {**of_wedding, "id": 1, "type": "step", "data": {}, "created_at": NOW},
        "inbox": {
            "organization_id": organization_id,
            "source": "stripe",
            "event_id": f"e-{organization_id}",
            "event": event,
            "body": b"",
            "received_at": NOW,
        },
        "webhook_subscriptions": {
            "id": f"sub-{organization_id}",
            "organization_id": organization_id,
            "url": "https://partner.test/",
            "event_types": ["*"],
            "filters": {},
            "secrets": b"",
            "api_version": "2026-11-01",
            "payload": "full",
            "max_attempts": 8,
            "backoff": "exponential",
            "created_at": NOW,
            "updated_at": NOW,
        },
        "outgoing_events": {
            **of_wedding,
            "id": f"evt-{organization_id}",
            "type": "webhook.test",
            "data": {},
            "occurred_at": NOW,
        },
        "deliveries": {
            **of_wedding,
            "id": f"d-{organization_id}",
            "subscription_id": f"sub-{organization_id}",
            "event_id": f"evt-{organization_id}",
            "due_at": NOW,
            "created_at": NOW,
        },
        "delivery_attempts": {
            "organization_id": organization_id,
            "delivery_id": f"d-{organization_id}",
            "number": 1,
            "at": NOW,
            "duration_ms": 1,
        },
        "webhook_sources": {
            "id": f"whs-{organization_id}",
            "organization_id": organization_id,
            "name": "weather",
            "path": f"weather-{organization_id}",
            "state": "active",
            "config": {},
            "created_at": NOW,
            "updated_at": NOW,
        },
        "webhook_secrets": {
            "id": f"s-{organization_id}",
            "organization_id": organization_id,
            "source_id": f"whs-{organization_id}",
            "sealed": b"",
            "created_at": NOW,
        },
        "webhook_counts": {
            "organization_id": organization_id,
            "source": f"whs-{organization_id}",
            "reason": "duplicate",
            "hour": NOW,
            "count": 1,
        },
        "webhook_checks": {
            "organization_id": organization_id,
            "source": f"whs-{organization_id}",
            "checked_until": NOW,
            "checked_at": NOW,
            "looked_at": 1,
            "gaps": 0,
        },
        "contact_refs": {**of_wedding, "digest": b"d", "contact_id": "c", "created_at": NOW},
        "webhook_objects": {
            "organization_id": organization_id,
            "source": f"whs-{organization_id}",
            "object_id": "o",
            "topic": "payment",
            "occurred_at": NOW,
            "event_id": "e",
        },
    }
    return rows[table]


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


async def test_keys_are_seen_by_programs_only(db: Database) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        await owners_seen(db, "api_keys", OURS)
    assert await owners_seen(db, "api_keys", None) == {OURS, THEIRS}


async def test_an_unmatched_event_is_seen_by_programs_only(db: Database) -> None:
    assert await owners_seen(db, "inbox", OURS) == {OURS}
    assert None in await owners_seen(db, "inbox", None)


def test_only_these_tables_belong_to_the_platform() -> None:
    assert set(PLATFORM_TABLES) == set(_ROUTING)


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
        connection.execute(statement)  # type: ignore[call-overload]


async def test_a_session_cannot_become_the_owner(db: Database) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with db.tenant(OURS) as connection:
            await connection.execute(text("SET ROLE postgres"))
