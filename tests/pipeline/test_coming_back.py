"""How a service comes back without its guard, as calls see it, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.routing import (
    a_call,
    configure,
    eventually,
    fail,
    married_at,
    open_admission_controller,
    pass_one,
    rows,
)
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.failover import CEREMONY_AFTER, FailoverPolicy
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.access import queries as access
from wedsync.store.routing import circuits
from wedsync.usecases.routing.operate import Operator

SOON = {"open_seconds": 0.05, "open_cap_seconds": 0.05, "probes": 1, "ramp_step_seconds": 60.0}
PACE = timedelta(seconds=60 * rules.SLOW_PACE)


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        await configure(opened, circuit=SOON)
        yield opened


def stripe(controller: AdmissionController) -> Circuit:
    return controller.routing_table.circuit("stripe", "default")


async def trip(controller: AdmissionController) -> None:
    await fail(controller, 4)
    await eventually(lambda: stripe(controller).state == "open")


async def past_its_cool_down(controller: AdmissionController) -> None:
    await eventually(lambda: (until := stripe(controller).open_until) is not None and utc_now() > until)


async def is_refused(controller: AdmissionController) -> bool:
    try:
        await controller.admit(a_call())
    except VendorUnavailable as error:
        return error.reason == "circuit_open"
    return False


def operator(controller: AdmissionController) -> Operator:
    return Operator(controller.breakers, Principal(organization_id="studio", key_id="k1"), utc_now())


async def test_amid_a_ceremony_calls_do_not_probe_it(controller: AdmissionController) -> None:
    await married_at(controller, utc_now())
    await trip(controller)
    await past_its_cool_down(controller)
    assert await is_refused(controller)
    assert await rows(controller, "SELECT * FROM probe_permits WHERE leased_until IS NOT NULL") == []
    # A person who wants it back means now.
    await operator(controller).failover("stripe", "default", "restore")
    assert (await pass_one(controller, ok=True)).probe is not None
    assert stripe(controller).state == "ramping"


async def test_who_need_not_wait_for_quiet_does_not(controller: AdmissionController) -> None:
    await configure(controller, circuit=SOON, failover=FailoverPolicy(waits_for_quiet=False))
    await married_at(controller, utc_now())
    await trip(controller)
    await past_its_cool_down(controller)
    assert (await controller.admit(a_call())).probe is not None


async def test_a_ceremony_that_begins_during_the_cool_down_keeps_permits_back(controller: AdmissionController) -> None:
    now = utc_now()
    vows_at = now + timedelta(minutes=30)
    await married_at(controller, vows_at)
    await configure(controller, circuit={**SOON, "open_seconds": 1200.0, "open_cap_seconds": 1200.0})
    await trip(controller)

    async def slot_at(moment: datetime) -> int | None:
        async with controller.breakers.db.system() as conn:
            return await circuits.lease_permit(conn, stripe(controller), "some", timedelta(seconds=5), moment)

    mid_vows, over = now + timedelta(minutes=25), vows_at + CEREMONY_AFTER
    assert rules.phase(stripe(controller), mid_vows) == "open"
    assert await slot_at(mid_vows) is None
    assert rules.phase(stripe(controller), over) == "half_open"
    assert await slot_at(over) == 1


async def test_a_ramp_without_a_guard_stands_still_amid_a_ceremony(controller: AdmissionController) -> None:
    vows_at = utc_now() + timedelta(minutes=20)
    await married_at(controller, vows_at)
    await trip(controller)
    await past_its_cool_down(controller)
    await pass_one(controller, ok=True)
    circuit, policy = stripe(controller), controller.routing_table.policy("stripe")
    assert (circuit.state, circuit.stage_since is not None) == ("ramping", True)
    begins, ends = vows_at - timedelta(minutes=15), vows_at + CEREMONY_AFTER
    moments = [begins - timedelta(seconds=1), ends - timedelta(seconds=1), ends + PACE]
    assert [rules.share_percent(circuit, moment, policy) for moment in moments] == [50, 50, 100]


async def test_what_waits_for_a_person_is_not_probed_by_calls(controller: AdmissionController) -> None:
    async with controller.breakers.db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", utc_now())
    await configure(controller, circuit=SOON, failover=FailoverPolicy(restores_by_itself=False))
    await trip(controller)
    await past_its_cool_down(controller)
    assert await is_refused(controller)
    (record,) = await rows(controller, "SELECT status FROM failovers")
    assert record.status == "held"
    await operator(controller).failover("stripe", "default", "restore")
    # A probe that fails is a new opening: it waits for a person again.
    assert (await pass_one(controller, ok=False)).probe is not None
    assert stripe(controller).round == 2
    await past_its_cool_down(controller)
    assert await is_refused(controller)
    await operator(controller).failover("stripe", "default", "restore")
    assert (await pass_one(controller, ok=True)).probe is not None
    assert stripe(controller).state == "ramping"
    (record,) = await rows(controller, "SELECT status FROM failovers")
    assert record.status == "restoring"


@pytest.mark.parametrize(("probes", "more"), [(10, 8), (3, 1), (2, 1)])
async def test_however_many_probes_are_asked_for_meanwhile_it_comes_back(
    controller: AdmissionController, probes: int, more: int
) -> None:
    await configure(controller, circuit={**SOON, "probes": 3})
    await trip(controller)
    await past_its_cool_down(controller)
    for _ in range(2):
        assert (await pass_one(controller, ok=True)).probe is not None
    await configure(controller, circuit={**SOON, "probes": probes})
    for n in range(more):
        assert stripe(controller).state == "open", n
        assert (await pass_one(controller, ok=True)).probe is not None
    assert stripe(controller).state == "ramping"
    assert len(await rows(controller, "SELECT slot FROM probe_permits WHERE outcome = 'ok'")) == 2 + more


async def test_more_probes_are_asked_for_when_the_round_s_own_have_all_succeeded(
    controller: AdmissionController,
) -> None:
    await configure(controller, circuit={**SOON, "probes": 3})
    await trip(controller)
    await past_its_cool_down(controller)
    admissions = [await controller.admit(a_call()) for _ in range(3)]
    assert await is_refused(controller)
    await configure(controller, circuit={**SOON, "probes": 4})
    for admission in admissions:
        await controller.complete(admission, a_call(), "send", None, 0.01)
    assert stripe(controller).state == "open"

    async def goes_out() -> bool:
        return not await is_refused(controller)

    # Who was told that all permits are taken does not ask for a moment.
    await eventually(goes_out)
