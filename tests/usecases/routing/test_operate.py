"""What operators do by hand, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.support.routing import a_call, configure, open_admission_controller, rows
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, VendorUnavailable
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.access import queries as access
from wedsync.usecases.routing.operate import Operator, OperatorAction

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0, "ramp_step_seconds": 3600.0}


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        async with opened.breakers.db.system() as conn:
            await access.add_organization(conn, "studio", "Studio", utc_now())
        yield opened


def operator(controller: AdmissionController, organization_id: str = "studio") -> Operator:
    return Operator(controller.breakers, Principal(organization_id=organization_id, key_id="k1"), utc_now())


async def test_a_deed_and_its_line_in_the_audit_log_stand_together(controller: AdmissionController) -> None:
    moved = await operator(controller).failover("stripe", "default", "trigger")
    (line,) = await rows(controller, "SELECT action, detail FROM audit_log")
    assert (line.action, line.detail["was"], line.detail["now_is"]) == ("failover.trigger", "closed", "open")
    assert (line.detail["epoch"], line.detail["has_moved"]) == (moved.now_is.epoch, True)
    await operator(controller).failover("stripe", "default", "trigger")
    told = await rows(controller, "SELECT detail FROM audit_log ORDER BY id")
    assert [row.detail["has_moved"] for row in told] == [True, False]


async def test_a_deed_that_can_not_be_audited_is_not_done(controller: AdmissionController) -> None:
    await configure(controller)
    with pytest.raises(IntegrityError):
        await operator(controller, "nobody").failover("stripe", "default", "trigger")
    assert await rows(controller, "SELECT id FROM failovers") == []
    assert [row.state for row in await rows(controller, "SELECT state FROM circuits WHERE service = 'stripe'")] in (
        [],
        ["closed"],
    )
    assert controller.routing_table.circuit("stripe", "default").state == "closed"


async def test_a_service_that_was_forced_closed_is_left_when_that_is_asked(controller: AdmissionController) -> None:
    await configure(controller, circuit=STUCK)
    await operator(controller).force("stripe", "default", "closed")
    assert (await operator(controller).failover("stripe", "default", "trigger")).has_moved
    with pytest.raises(VendorUnavailable) as refused:
        await controller.admit(a_call())
    assert refused.value.reason == "circuit_open"


async def test_while_a_service_is_left_in_steps_hold_cuts_it_off_and_restore_stays_with_it(
    controller: AdmissionController,
) -> None:
    await configure(controller, circuit=STUCK, failover=FailoverPolicy(strategy="gradual"))

    async def state_after(action: OperatorAction) -> str:
        await operator(controller).failover("stripe", "default", "trigger")
        assert controller.routing_table.circuit("stripe", "default").state == "draining"
        return (await operator(controller).failover("stripe", "default", action)).now_is.state

    assert await state_after("restore") == "closed"
    assert await state_after("hold") == "open"
    found = await rows(controller, "SELECT status FROM failovers ORDER BY epoch")
    assert [row.status for row in found] == ["restored", "held"]


async def test_the_last_provider_s_share_is_taken_away_only_by_who_means_it(controller: AdmissionController) -> None:
    await configure(controller, circuit=STUCK, failover=FailoverPolicy(strategy="gradual"))
    await operator(controller).failover("stripe", "default", "trigger")
    await operator(controller).force("paypal", "default", "open")
    with pytest.raises(Conflict) as refused:
        await operator(controller).failover("stripe", "default", "hold")
    assert refused.value.reason == "last_provider"
    assert (await operator(controller).failover("stripe", "default", "hold", even_if_last=True)).now_is.state == "open"
