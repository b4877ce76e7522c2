"""Whom a failover affects, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text

from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.store.routing import failovers
from wedsync.store.weddings.tables import plans, steps, weddings

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
CEREMONY = NOW + timedelta(days=18)
OF = {"organization_id": "studio", "wedding_id": "w"}
RECORD: dict[str, Any] = {
    "id": "f", "from_service": "stripe", "endpoint": "default", "epoch": 1, "to_service": None, "reason": "asked",
    "strategy": "immediate", "status": "active", "actor": "key:1", "estimated_downtime_ms": 1, "rollback_plan": [],
}  # fmt: skip


@pytest.fixture
async def db(fresh_database_urls: Any) -> AsyncIterator[Database]:
    database = Database(fresh_database_urls.app, 2)
    async with database.system() as conn:
        await access.add_organization(conn, "studio", "Studio", NOW)
    yield database
    await database.close()


def service(vendor: str = "stripe", *fallbacks: str) -> dict[str, Any]:
    return {"id": "pay", "name": "Pay", "role": "planning", "vendor": vendor, "fallbacks": list(fallbacks)}


async def affected(
    db: Database,
    of: dict[str, Any],
    *,
    step: dict[str, Any] | None = None,
    planned: dict[str, Any] | None = None,
    wedding: dict[str, Any] | None = None,
    cut_off: str | None = None,
) -> tuple[int, datetime | None]:
    """How many weddings (of one with one step) an outage of Stripe hits, and the next moment that matters."""
    body = {"services": [of], "steps": [{"id": "deposit", "services": [], "fallbacks": None, **(planned or {})}]}
    values = {
        "id": "w", "organization_id": "studio", "reference": "w", "status": "planned", "phase": "preparation",
        "mode": "normal", "ceremony_local": "2027-06-19T16:00", "zone": "Europe/Rome", "ceremony_at": CEREMONY,
        "plan_version": 1, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    row = {
        **OF, "step_id": "deposit", "position": 0, "service": "pay", "capability": "payments",
        "action": "payments.collect", "status": "pending",
    }  # fmt: skip
    async with db.system() as conn:
        await failovers.begin(conn, RECORD, NOW)
        if cut_off is not None:
            circuit = """
            INSERT INTO circuits (service, endpoint, state, "window") VALUES (:service, 'default', 'open', '[]')
            """
            await conn.execute(text(circuit), {"service": cut_off})
    async with db.tenant("studio") as conn:
        await conn.execute(insert(weddings).values({**values, **(wedding or {})}))
        await conn.execute(insert(plans).values({**OF, "version": 1, "body": body, "created_at": NOW}))
        await conn.execute(insert(steps).values({**row, **(step or {})}))
    async with db.system() as conn:
        await failovers.affect(conn, "f", "stripe", NOW)
        kept = (await conn.execute(text("SELECT count(*) FROM failover_weddings"))).scalar_one()
        found = (await conn.execute(text("SELECT affected_weddings, next_moment_at FROM failovers"))).one()
    assert kept == found.affected_weddings
    return found.affected_weddings, found.next_moment_at


@pytest.mark.parametrize("status", ["pending", "scheduled", "running", "waiting", "held"])
async def test_an_unfinished_step_of_its_service_is_hit(db: Database, status: str) -> None:
    assert await affected(db, service(), step={"status": status, "vendor": "stripe"}) == (1, CEREMONY)


@pytest.mark.parametrize("status", ["succeeded", "failed", "skipped"])
async def test_who_has_nothing_left_to_do_there_is_not_hit(db: Database, status: str) -> None:
    assert await affected(db, service(), step={"status": status, "vendor": "stripe"}) == (0, None)


async def test_the_next_due_step_there_is_the_moment_that_matters(db: Database) -> None:
    due = NOW + timedelta(days=2)
    assert await affected(db, service(), step={"status": "scheduled", "due_at": due}) == (1, due)


async def test_a_step_that_has_gone_to_it_is_hit_whatever_the_plan_says(db: Database) -> None:
    assert (await affected(db, service("paypal"), step={"status": "waiting", "vendor": "stripe"}))[0] == 1


async def test_a_step_that_has_gone_elsewhere_is_not_hit(db: Database) -> None:
    assert (await affected(db, service(), step={"status": "waiting", "vendor": "paypal"}))[0] == 0


@pytest.mark.parametrize(("cut_off", "count"), [(None, 0), ("twilio", 0), ("paypal", 1)])
async def test_a_fallback_is_missed_only_while_those_before_it_are_cut_off(
    db: Database, cut_off: str | None, count: int
) -> None:
    assert (await affected(db, service("paypal", "stripe"), cut_off=cut_off))[0] == count


@pytest.mark.parametrize(("own", "count"), [(["stripe"], 1), ([], 0), (["adyen", "stripe"], 0)])
async def test_a_steps_own_fallbacks_stand_for_its_services(db: Database, own: list[str], count: int) -> None:
    said = service("paypal", "stripe")
    assert (await affected(db, said, planned={"fallbacks": own}, cut_off="paypal"))[0] == count


async def test_a_step_expanded_from_several_services_has_its_own_fallbacks(db: Database) -> None:
    planned = {"fallbacks": ["stripe"], "services": ["pay", "other"]}
    found = await affected(db, service("paypal"), planned=planned, step={"step_id": "deposit-pay"}, cut_off="paypal")
    assert found[0] == 1


@pytest.mark.parametrize("wedding", [{"ended_at": NOW}, {"ceremony_at": NOW - timedelta(days=2)}])
async def test_weddings_that_are_over_are_not_hit(db: Database, wedding: dict[str, Any]) -> None:
    assert (await affected(db, service(), wedding=wedding))[0] == 0


async def test_the_next_moment_that_matters_moves_on_when_it_has_passed(db: Database) -> None:
    due = NOW + timedelta(days=2)
    assert await affected(db, service(), step={"status": "scheduled", "due_at": due}) == (1, due)
    for now, expected in ((NOW, due), (due + timedelta(seconds=1), CEREMONY)):
        async with db.system() as conn:
            await failovers.refresh_moments(conn, now)
        assert await moment(db) == expected


async def test_the_next_moment_heeds_a_plan_that_has_changed(db: Database) -> None:
    due = NOW + timedelta(days=2)
    await affected(db, service(), step={"status": "scheduled", "due_at": due})
    async with db.tenant("studio") as conn:
        await conn.execute(text("UPDATE steps SET due_at = :at"), {"at": NOW + timedelta(days=1)})
    async with db.system() as conn:
        await failovers.refresh_moment(conn, "f", "stripe", NOW)
    assert await moment(db) == NOW + timedelta(days=1)


async def moment(db: Database) -> datetime | None:
    async with db.system() as conn:
        found: datetime | None = (await conn.execute(text("SELECT next_moment_at FROM failovers"))).scalar_one()
    return found


@pytest.mark.parametrize(
    ("status", "guard_due", "minutes", "is_missed"),
    [
        # Never started: the first word was lost.
        ("active", None, 0, False),
        ("active", None, 1, True),
        ("restoring", None, 1, True),
        ("held", None, 1, True),
        # Looked at in time, or not.
        ("restoring", 30, 29, False),
        ("restoring", 30, 31, True),
        ("proposed", None, 1, False),
        ("restored", 30, 31, False),
        ("superseded", 30, 31, False),
    ],
)
async def test_a_failover_that_stands_without_a_guard_is_found(
    db: Database, status: str, guard_due: int | None, minutes: int, is_missed: bool
) -> None:
    async with db.system() as conn:
        await failovers.begin(conn, {**RECORD, "status": status}, NOW)
        if guard_due is not None:
            await failovers.note_recovery(conn, "f", NOW, NOW + timedelta(minutes=guard_due))
        found = await failovers.without_recovery(conn, NOW + timedelta(minutes=minutes))
    assert [row.id for row in found] == (["f"] if is_missed else [])
