from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.support.migrations import BROKEN, NEW, SERVICE, Migrating, next_call, open_migrating, payment_call
from tests.support.routing import rows
from tests.support.stages import SkippingStage
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict
from wedsync.domain.versions.migration import MigrationWake
from wedsync.kit.clock import utc_now
from wedsync.store.versions import queries as versions
from wedsync.usecases.versions import request_migration
from wedsync.usecases.versions.advance_migration import migrate_version as act_on_wake

DAY = timedelta(days=1)


@pytest.fixture
async def migrating(skipping: SkippingStage) -> AsyncIterator[Migrating]:
    async with open_migrating(skipping.stage, skipping.env) as opened:
        yield opened


async def test_it_goes_through_all_stages_and_the_new_version_is_pinned(migrating: Migrating) -> None:
    wedding = await migrating.wedding()
    migration = await migrating.begin(wedding.organization_id)
    result = await migrating.end(migration)
    assert result.outcome == "done"
    assert [step.partition(":")[0] for step in result.migration_steps] == ["shadow", "canary", "verify", "done"]
    assert [pin[1:] for pin in await migrating.pins(wedding.organization_id)] == [(NEW, 100, "")]
    audited = await rows(
        migrating.controller,
        "SELECT action FROM audit_log WHERE organization_id = :org AND action LIKE 'version.migration%' ORDER BY id",
        org=wedding.organization_id,
    )
    stages = [row.action.removeprefix("version.migration_") for row in audited]
    assert stages == ["begun", "shadow", "canary", "verify", "done"]


async def test_a_version_that_answers_otherwise_is_found_in_the_shadow(migrating: Migrating) -> None:
    await migrating.add_broken()
    wedding = await migrating.wedding()
    result = await migrating.end(await migrating.begin(wedding.organization_id, BROKEN))
    assert result.outcome == "rolled_back"
    assert result.reason == "1 of 1 reads differ"
    assert await migrating.pins(wedding.organization_id) == []


async def test_with_nothing_to_compare_it_goes_back(migrating: Migrating) -> None:
    wedding = await migrating.wedding(payments=0)
    result = await migrating.end(await migrating.begin(wedding.organization_id))
    assert (result.outcome, result.reason) == ("rolled_back", "nothing could be compared")


async def test_a_rollback_in_the_canary_leaves_the_pins_exactly_as_they_were(migrating: Migrating) -> None:
    wedding = await migrating.wedding()
    async with migrating.controller.breakers.db.system() as conn:
        organization = wedding.organization_id
        await versions.pin(conn, SERVICE, organization, "2026-07-29.dahlia", "key:test", utc_now() - DAY)
    before = await migrating.pins(organization)
    migration = await migrating.begin(organization)
    await migrating.until(migration, "canary")
    assert [pin[1:3] for pin in await migrating.pins(organization)] == [("2026-07-29.dahlia", 100), (NEW, 10)]
    principal = Principal(organization_id=organization, key_id="test")
    await request_migration.request_move(
        migrating.stage.db, migrating.stage.client, principal, migration, rollback=True
    )
    result = await migrating.end(migration)
    assert (result.outcome, result.reason) == ("rolled_back", "asked by an operator")
    assert await migrating.pins(organization) == before


async def test_a_freeze_window_is_waited_for(migrating: Migrating) -> None:
    ceremony_at = utc_now() + timedelta(hours=50)
    wedding = await migrating.wedding(ceremony_at)
    migration = await migrating.begin(wedding.organization_id)
    await migrating.end(migration)
    (found,) = await rows(migrating.controller, "SELECT ended_at FROM version_migrations WHERE id = :id", id=migration)
    assert found.ended_at >= ceremony_at + timedelta(hours=12 + 4)


async def test_it_gives_up_when_no_time_is_found(migrating: Migrating) -> None:
    wedding = await migrating.wedding(utc_now() + timedelta(hours=50))
    migration = await migrating.begin(wedding.organization_id, longest_wait_seconds=3_600)
    result = await migrating.end(migration)
    assert result.outcome == "rolled_back"
    assert "no time was found" in result.reason


async def test_a_paused_migration_stays_where_it_is_and_goes_on(migrating: Migrating) -> None:
    wedding = await migrating.wedding()
    migration = await migrating.begin(wedding.organization_id)
    await migrating.until(migration, "canary")
    principal = Principal(organization_id=wedding.organization_id, key_id="test")
    await request_migration.request_move(migrating.stage.db, migrating.stage.client, principal, migration, paused=True)
    await migrating.env.fast_forward(migrating.handle(migration), DAY)
    assert (await migrating.until(migration, "canary")).stage == "canary"
    await request_migration.request_move(migrating.stage.db, migrating.stage.client, principal, migration, paused=False)
    assert (await migrating.end(migration)).outcome == "done"


async def test_a_second_migration_of_the_same_scope_is_refused(migrating: Migrating) -> None:
    wedding = await migrating.wedding()
    migration = await migrating.begin(wedding.organization_id)
    with pytest.raises(Conflict) as refused:
        await migrating.begin(wedding.organization_id)
    assert refused.value.reason == "migration_running"
    await migrating.end(migration)


async def test_two_workers_at_one_move_make_it_once(migrating: Migrating) -> None:
    wedding = await migrating.wedding()
    migration = await migrating.begin(wedding.organization_id)
    await migrating.until(migration, "shadow")
    migration_wake = MigrationWake(migration_id=migration, now=utc_now() + DAY)
    both = await asyncio.gather(
        *(act_on_wake(migrating.gateway, migrating.controller, migration_wake) for _ in range(2))
    )
    assert {news.stage for news in both} == {"canary"}
    (found,) = await rows(migrating.controller, "SELECT state FROM version_migrations WHERE id = :id", id=migration)
    assert [step.partition(":")[0] for step in found.state["steps"]] == ["shadow", "canary"]
    assert len(await migrating.pins(wedding.organization_id)) == 1


async def test_a_call_begun_before_the_switch_stays_with_its_version(migrating: Migrating) -> None:
    wedding = await migrating.wedding(payments=0)
    async with migrating.controller.breakers.db.system() as conn:
        await versions.pin(conn, SERVICE, wedding.organization_id, NEW, "key:test", utc_now() - DAY)
    await migrating.controller.routing_table.load()
    call = payment_call(wedding.organization_id, wedding.id)
    made = await migrating.gateway.send(call)
    assert made.facts["api_version"] == NEW
    async with migrating.controller.breakers.db.system() as conn:
        await versions.pin(conn, SERVICE, wedding.organization_id, None, "key:test", utc_now())
    await migrating.controller.routing_table.load()
    await migrating.gateway.send(call)
    await migrating.gateway.send(next_call(call, "release_payment", made.facts))
    later = payment_call(wedding.organization_id, wedding.id, first_sent_at=utc_now() + timedelta(seconds=5))
    await migrating.gateway.send(later)
    asked = [r for r in await migrating.stage.sandbox.requests(SERVICE) if r["wedding_id"] == wedding.id]
    said = [request["headers"]["stripe-version"] for request in asked]
    assert set(said[:-1]) == {NEW}
    assert said[-1] == "2026-10-28.endive"
