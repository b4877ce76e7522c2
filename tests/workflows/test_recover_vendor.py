from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from temporalio.client import Client, WorkflowExecutionStatus

from tests.support.guarded import SERVICE, RecoveryStage, restored
from tests.support.plans import booking, plan, sms
from tests.support.routing import configure, eventually, fail, open_admission_controller, pass_one, rows
from tests.support.stage import Stage
from tests.support.stages import SkippingStage
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.health.messages import WAKE_SIGNAL
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.usecases.health.sweep_failovers import tend_failovers

HOUR = timedelta(hours=1)
SLOW = {"open_seconds": 3600.0, "open_cap_seconds": 14_400.0, "ramp_step_seconds": 600.0, "probes": 3}


@pytest.fixture
async def skipped(skipping: SkippingStage) -> AsyncIterator[RecoveryStage]:
    client = skipping.env.client

    async def provide() -> Client:
        return client

    async with open_admission_controller(skipping.stage.settings.database_url, provide) as controller:
        recovery = RecoveryStage(controller, client, skipping.stage.sandbox, skipping.env)
        await configure(controller, SERVICE, SLOW)
        yield recovery
        await restored(recovery)


async def test_after_the_cool_down_it_probes_and_lets_traffic_back_in_steps(skipped: RecoveryStage) -> None:
    await skipped.trip()
    await skipped.forward(timedelta(minutes=59))
    assert skipped.circuit.state == "open"
    await skipped.forward(timedelta(minutes=2))
    await skipped.until("ramping")
    assert rules.share_percent(skipped.circuit, utc_now(), skipped.controller.routing_table.policy(SERVICE)) == 10
    assert (await skipped.failover()).status == "restoring"
    await skipped.forward(timedelta(minutes=10))
    await eventually(lambda: skipped.circuit.stage == 1)
    await skipped.forward(timedelta(minutes=10))
    await skipped.until("closed")
    assert await skipped.ended() == "restored"
    record = await skipped.failover()
    assert (record.status, record.fell_back) == ("restored", 0)
    assert record.guarded_at is not None
    assert timedelta(minutes=80) <= record.restored_at - record.started_at < timedelta(minutes=90)


async def test_while_probes_fail_it_cools_down_for_longer_each_time(skipped: RecoveryStage) -> None:
    await skipped.sandbox.faults(SERVICE, mode="down")
    await skipped.trip()
    first, round_ = _open_until(skipped), skipped.circuit.round
    await skipped.forward(timedelta(minutes=61))
    await eventually(lambda: skipped.circuit.round == round_ + 1)
    second = _open_until(skipped)
    assert timedelta(hours=2) - timedelta(minutes=1) < second - first < timedelta(hours=2, minutes=2)
    await skipped.sandbox.clear_faults(SERVICE)
    await skipped.forward(timedelta(hours=2, minutes=1))
    await skipped.until("ramping")
    assert (await skipped.failover()).epoch == skipped.circuit.epoch


async def test_it_falls_back_when_calls_fail_again_and_comes_back_later(skipped: RecoveryStage) -> None:
    await skipped.trip()
    await skipped.forward(timedelta(minutes=61))
    await skipped.until("ramping")
    await fail(skipped.controller, 2, SERVICE)
    await skipped.until("open")
    assert (await skipped.failover()).fell_back == 1
    await skipped.handle.signal(WAKE_SIGNAL)
    await skipped.forward(timedelta(minutes=61))
    await skipped.until("ramping")
    await skipped.forward(timedelta(minutes=10))
    await eventually(lambda: skipped.circuit.stage == 1)
    await skipped.forward(timedelta(minutes=10))
    await skipped.until("closed")
    assert await skipped.ended() == "restored"


async def test_nothing_is_switched_back_in_the_middle_of_a_ceremony(
    skipped: RecoveryStage, skipping: SkippingStage
) -> None:
    wedding = await skipping.wedding(plan(booking("venue"), sms()))
    ceremony_at = utc_now() + timedelta(minutes=5)
    async with skipping.stage.db.tenant(wedding.organization_id) as conn:
        where = {"id": wedding.id, "at": ceremony_at}
        await conn.execute(text("UPDATE weddings SET ceremony_at = :at WHERE id = :id"), where)
    try:
        await configure(skipped.controller, SERVICE, {**SLOW, "open_seconds": 1.0})
        await skipped.trip()
        await eventually(lambda: _open_until(skipped) >= ceremony_at + HOUR)
        record = await skipped.failover()
        assert (record.affected_weddings, record.next_moment_at) == (1, ceremony_at)
        await skipped.forward(timedelta(minutes=50))
        assert skipped.circuit.state == "open"
        await skipped.forward(timedelta(minutes=17))
        await skipped.until("ramping")
    finally:
        async with skipping.stage.db.tenant(wedding.organization_id) as conn:
            await conn.execute(text("UPDATE weddings SET ended_at = now() WHERE id = :id"), {"id": wedding.id})


def _open_until(recovery: RecoveryStage) -> datetime:
    until = recovery.circuit.open_until
    assert until is not None
    return until


async def test_a_held_service_waits_for_a_person(skipped: RecoveryStage) -> None:
    await skipped.trip()
    hold = {"held": True}
    await skipped.controller.breakers.apply(SERVICE, "default", lambda c, _: c.model_copy(update=hold), utc_now())
    await skipped.handle.signal(WAKE_SIGNAL)
    await skipped.forward(timedelta(hours=5))
    assert skipped.circuit.state == "open"
    assert (await skipped.failover()).status == "held"
    restore = lambda c, _: rules.restorable(c, utc_now())  # noqa: E731
    await skipped.controller.breakers.apply(SERVICE, "default", restore, utc_now())
    await skipped.handle.signal(WAKE_SIGNAL)
    await skipped.until("ramping")


async def test_a_manual_service_is_only_proposed_to_be_left(skipped: RecoveryStage) -> None:
    await configure(skipped.controller, SERVICE, SLOW, failover=FailoverPolicy(strategy="manual"))
    await fail(skipped.controller, 6, SERVICE)
    await skipped.controller.call_recorder.flush()
    statement = "SELECT status, epoch FROM failovers WHERE from_service = :service ORDER BY started_at DESC LIMIT 1"
    (record,) = await rows(skipped.controller, statement, service=SERVICE)
    assert (record.status, record.epoch) == ("proposed", skipped.circuit.epoch + 1)
    assert skipped.circuit.state == "closed"


async def test_a_gradual_service_is_left_in_steps(skipped: RecoveryStage) -> None:
    await configure(skipped.controller, SERVICE, SLOW, failover=FailoverPolicy(strategy="gradual"))
    await fail(skipped.controller, 4, SERVICE)
    await skipped.until("draining")
    await eventually(skipped.is_recovering)
    assert rules.share_percent(skipped.circuit, utc_now(), skipped.controller.routing_table.policy(SERVICE)) == 50
    await skipped.forward(timedelta(minutes=11))
    await eventually(lambda: skipped.circuit.stage == 1)
    await skipped.forward(timedelta(minutes=11))
    await skipped.until("open")


# -- with a real clock


async def test_many_that_see_the_same_outage_start_one_guard(stage: Stage) -> None:
    async def provide() -> Client:
        return stage.client

    url = stage.settings.database_url
    async with open_admission_controller(url, provide) as one, open_admission_controller(url, provide) as two:
        recovery = RecoveryStage(one, stage.client, stage.sandbox)
        await configure(one, SERVICE, SLOW)
        await eventually(lambda: two.routing_table.is_configured(SERVICE))
        await asyncio.gather(fail(one, 4, SERVICE), fail(two, 4, SERVICE))
        await eventually(lambda: one.routing_table.circuit(SERVICE, "default").state == "open")
        found = await rows(one, "SELECT count(*) AS n FROM failovers WHERE from_service = :service", service=SERVICE)
        assert [row.n for row in found] == [1]
        await eventually(recovery.is_recovering)
        described = await recovery.handle.describe()
        assert described.status == WorkflowExecutionStatus.RUNNING
        assert await described.static_summary() == "twilio: from trip 1 to restore"
        await restored(recovery)
        assert await recovery.ended() == "restored"


async def test_a_guard_whose_start_was_lost_is_started_while_traffic_restores_the_service(stage: Stage) -> None:
    lost: list[bool] = [True]

    async def provide() -> Client:
        if lost[0]:
            raise OSError("Temporal is away")
        return stage.client

    async with open_admission_controller(stage.settings.database_url, provide) as controller:
        recovery = RecoveryStage(controller, stage.client, stage.sandbox)
        quick = {"open_seconds": 0.01, "open_cap_seconds": 0.01, "ramp_step_seconds": 0.5, "probes": 1}
        await configure(controller, SERVICE, quick)
        epoch = recovery.circuit.epoch
        await fail(controller, 4, SERVICE)
        await eventually(lambda: recovery.circuit.epoch == epoch + 1)
        await eventually(lambda: _is_probed(controller))
        assert (await recovery.failover()).status == "restoring"
        assert not await recovery.is_recovering()
        lost[0] = False
        assert await tend_failovers(controller.breakers, utc_now() + timedelta(minutes=1)) == 1
        await recovery.until("closed")
        assert (await recovery.failover()).status == "restored"
        await restored(recovery)


async def _is_probed(controller: AdmissionController) -> bool:
    with suppress(VendorUnavailable):
        return (await pass_one(controller, SERVICE, ok=True)).probe is not None
    return False


async def test_a_guard_that_was_lost_is_started_anew_and_one_that_lives_is_not(stage: Stage) -> None:
    async def provide() -> Client:
        return stage.client

    async with open_admission_controller(stage.settings.database_url, provide) as controller:
        recovery = RecoveryStage(controller, stage.client, stage.sandbox)
        await configure(controller, SERVICE, SLOW)
        await recovery.trip()
        handle = recovery.handle
        first = (await handle.describe()).run_id
        # It has looked, and says when it will again.
        await eventually(lambda: _is_awaited(recovery))
        assert await tend_failovers(controller.breakers, utc_now() + timedelta(minutes=50)) == 0
        assert await tend_failovers(controller.breakers, utc_now() + 2 * HOUR) == 1
        assert (await handle.describe()).run_id == first
        await handle.terminate("lost")
        assert await tend_failovers(controller.breakers, utc_now() + 4 * HOUR) == 1
        described = await handle.describe()
        assert described.run_id != first
        assert described.status == WorkflowExecutionStatus.RUNNING
        await restored(recovery)
        assert await recovery.ended() == "restored"


async def _is_awaited(recovery: RecoveryStage) -> bool:
    due = (await recovery.failover()).guard_due_at
    return due is not None and due > utc_now() + timedelta(minutes=50)
