"""A service that a person decides to leave: what is proposed, and when the proposal is withdrawn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import configure, fail, open_admission_controller, pass_one, rows
from wedsync.domain.access.principal import Principal
from wedsync.domain.health.status import Health
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.access import queries as access
from wedsync.store.health import queries as health
from wedsync.usecases.health.sweep_failovers import tend_failovers
from wedsync.usecases.routing.operate import Operator


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        # Nothing slides out of the window within a test.
        circuit = {"window_seconds": 3600.0}
        await configure(opened, circuit=circuit, failover=FailoverPolicy(strategy="manual"))
        yield opened


async def calls(controller: AdmissionController, times: int, *, ok: bool) -> None:
    if ok:
        for _ in range(times):
            await pass_one(controller, ok=True)
    else:
        await fail(controller, times)
    await controller.call_recorder.flush()


async def statuses(controller: AdmissionController) -> list[str]:
    return [row.status for row in await rows(controller, "SELECT status FROM failovers ORDER BY started_at, id")]


async def test_a_proposal_is_withdrawn_when_the_service_is_well_again_and_made_anew_when_it_fails_again(
    controller: AdmissionController,
) -> None:
    await calls(controller, 6, ok=False)
    await calls(controller, 1, ok=False)
    await tend_failovers(controller.breakers, utc_now())
    assert await statuses(controller) == ["proposed"]
    await calls(controller, 10, ok=True)
    await tend_failovers(controller.breakers, utc_now())
    assert await statuses(controller) == ["superseded"]
    await calls(controller, 10, ok=False)
    assert await statuses(controller) == ["superseded", "proposed"]
    assert controller.routing_table.circuit("stripe", "default").state == "closed"


async def test_who_follows_a_proposal_makes_it_the_failover(controller: AdmissionController) -> None:
    async with controller.breakers.db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", utc_now())
    await calls(controller, 6, ok=False)
    hand = Operator(controller.breakers, Principal(organization_id="studio", key_id="k1"), utc_now())
    await hand.failover("stripe", "default", "trigger")
    await tend_failovers(controller.breakers, utc_now())
    assert await statuses(controller) == ["active"]


@pytest.mark.parametrize(("status", "expected"), [("healthy", "superseded"), ("down", "proposed")])
async def test_what_probes_have_proposed_they_withdraw(
    controller: AdmissionController, status: Any, expected: str
) -> None:
    now = utc_now()
    await controller.breakers.trip("stripe", "default", now, is_down=True)
    assert await statuses(controller) == ["proposed"]
    async with controller.breakers.db.system() as conn:
        await health.ensure(conn, ["stripe"], now)
        look = Health(status=status, since=now, checked_at=now)
        await health.write(conn, "stripe", Health(since=now), look, now)
    await tend_failovers(controller.breakers, now)
    assert await statuses(controller) == [expected]


async def test_failovers_of_a_vendor_that_was_taken_out_stop_nobody(controller: AdmissionController) -> None:
    await calls(controller, 6, ok=False)
    async with controller.breakers.db.system() as conn:
        await conn.execute(
            text("""
            INSERT INTO failovers (id, from_service, endpoint, epoch, reason, strategy, status, actor,
              estimated_downtime_ms, rollback_plan, started_at)
            SELECT status, 'gone', 'default', n, '', 'manual', status, 'breaker', 1, '[]', now() - interval '1 hour'
            FROM unnest(ARRAY['proposed', 'active']) WITH ORDINALITY AS s(status, n)
        """)
        )
    await calls(controller, 10, ok=True)
    assert await tend_failovers(controller.breakers, utc_now()) == 0
    found = await rows(controller, "SELECT from_service, status FROM failovers ORDER BY from_service, epoch")
    assert [tuple(row) for row in found] == [("gone", "proposed"), ("gone", "active"), ("stripe", "superseded")]
