"""Which of a service's endpoints takes a call, on real Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, configure, eventually, open_admission_controller, pass_one, rows
from wedsync.domain.errors import VendorRejected, VendorUnavailable
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import Admission, AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.store.quotas import queries as quotas

TWO = (Endpoint(name="eu", base_url="https://eu.example.com"), Endpoint(name="us", base_url="https://us.example.com"))
#: Opens for good, until a test says otherwise; stays on the first stage of its ramp.
STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0, "ramp_step_seconds": 3600.0, "probes": 2}
WEDDINGS = [f"w{number}" for number in range(40)]


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    """A service with two endpoints, and without a backup."""
    async with open_admission_controller(fresh_database_urls.app) as opened:
        await configure(opened, circuit=STUCK, endpoints=TWO, backups=())
        yield opened


async def move(controller: AdmissionController, change: Any, endpoint: str = "eu") -> None:
    await controller.breakers.apply("stripe", endpoint, lambda circuit, _: change(circuit), utc_now())


async def cut_off(controller: AdmissionController, endpoint: str = "eu", *, half_open: bool = False) -> None:
    policy, at = controller.routing_table.policy("stripe"), utc_now() - timedelta(hours=2 if half_open else 0)
    await move(controller, lambda circuit: rules.opened(circuit, at, policy, "test"), endpoint)


async def ramp(controller: AdmissionController, endpoint: str = "eu") -> None:
    await cut_off(controller, endpoint, half_open=True)
    policy = controller.routing_table.policy("stripe")

    def good(circuit: rules.Circuit) -> rules.Circuit:
        for _ in range(policy.probes):
            circuit = rules.probed(circuit, "ok", circuit.round, utc_now(), policy)
        return circuit

    await move(controller, good, endpoint)
    assert controller.routing_table.circuit("stripe", endpoint).state == "ramping"


def taken(admissions: list[Admission]) -> Counter[tuple[str, bool]]:
    """By endpoint, and whether as a probe."""
    return Counter((admission.endpoint.name, admission.probe is not None) for admission in admissions)


async def test_beyond_a_half_open_endpoints_permits_calls_go_to_the_other(controller: AdmissionController) -> None:
    await cut_off(controller, half_open=True)
    admissions = [await controller.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    assert taken(admissions) == {("eu", True): 2, ("us", False): 38}


async def test_all_at_once_too(controller: AdmissionController) -> None:
    await cut_off(controller, half_open=True)
    admissions = await asyncio.gather(*(controller.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS))
    assert taken(admissions) == {("eu", True): 2, ("us", False): 38}


@pytest.mark.parametrize("strategy", ["failover", "round_robin", "weighted", "least_loaded", "geographic"])
async def test_a_ramping_endpoint_gets_its_share_and_the_other_the_rest(
    controller: AdmissionController, strategy: Any
) -> None:
    await configure(controller, circuit=STUCK, endpoints=TWO, backups=(), strategy=strategy)
    await ramp(controller)
    admissions = [await controller.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    found = taken(admissions)
    assert sum(found.values()) == found["eu", False] + found["us", False] == 40
    assert found["eu", False] <= 12


async def test_with_both_ramping_nobody_is_refused_who_has_no_other_vendor(controller: AdmissionController) -> None:
    await ramp(controller)
    await ramp(controller, "us")
    admissions = [await controller.admit(a_call(wedding_id=wedding)) for wedding in WEDDINGS]
    assert len(admissions) == 40
    elsewhere = Situation(can_go_elsewhere=True)
    told = await asyncio.gather(
        *(controller.admit(a_call(wedding_id=wedding), elsewhere) for wedding in WEDDINGS), return_exceptions=True
    )
    refused = [one for one in told if isinstance(one, VendorUnavailable)]
    assert len(refused) >= 20
    assert {one.reason for one in refused} == {"circuit_open"}


async def test_a_wedding_day_call_is_no_probe_while_another_endpoint_stands(controller: AdmissionController) -> None:
    await cut_off(controller, half_open=True)
    day = Situation(is_wedding_day=True)
    assert taken([await controller.admit(a_call(), day) for _ in range(3)]) == {("us", False): 3}
    await cut_off(controller, "us")
    assert (await controller.admit(a_call(), day)).endpoint.name in ("eu", "us")


async def test_with_no_permit_and_no_other_endpoint_it_is_refused(controller: AdmissionController) -> None:
    # A backup stands, so neither endpoint is the last.
    await configure(controller, circuit=STUCK, endpoints=TWO, backups=("paypal",))
    await cut_off(controller, "us")
    await cut_off(controller, half_open=True)
    admissions = [await controller.admit(a_call()) for _ in range(2)]
    assert taken(admissions) == {("eu", True): 2}
    with pytest.raises(VendorUnavailable) as caught:
        await controller.admit(a_call())
    assert caught.value.reason == "circuit_open"


async def test_a_step_stays_at_its_endpoint_even_when_that_is_cut_off(controller: AdmissionController) -> None:
    await cut_off(controller)
    with pytest.raises(VendorUnavailable):
        await controller.admit(a_call(facts={"payment_id": "p", "endpoint": "eu"}))
    assert (await controller.admit(a_call(facts={"payment_id": "p", "endpoint": "us"}))).endpoint.name == "us"


async def test_what_was_made_before_there_was_a_choice_lives_at_the_first(controller: AdmissionController) -> None:
    assert (await controller.admit(a_call(facts={"payment_id": "p"}))).endpoint.name == "eu"
    own = (*TWO, Endpoint(name="main"))
    await configure(controller, circuit=STUCK, endpoints=own, backups=())
    assert (await controller.admit(a_call(facts={"payment_id": "p"}))).endpoint.name == "main"


async def test_what_lives_at_an_endpoint_that_was_removed_is_refused_by_name(controller: AdmissionController) -> None:
    with pytest.raises(VendorRejected, match="'moon'") as caught:
        await controller.admit(a_call(facts={"payment_id": "p", "endpoint": "moon"}))
    assert caught.value.reason == "endpoint_removed"
    await controller.call_recorder.flush()
    (record,) = await rows(controller, "SELECT endpoint, outcome, reason FROM vendor_calls")
    assert tuple(record) == ("moon", "vendor_rejected", "endpoint_removed")
    other = a_call(facts={"payment_id": "p", "endpoint": "moon"}, account="studios-own")
    assert (await controller.admit(other)).endpoint.name == "eu"


async def test_a_call_that_is_cancelled_while_it_waits_for_its_quota_gives_its_permit_back(
    controller: AdmissionController,
) -> None:
    limited = QuotaPolicy(windows=(WindowLimit(window="day", limit=3),))
    async with controller.breakers.db.system() as conn:
        await quotas.put_policy(conn, ("stripe", "default"), limited, "key:test", utc_now())
    await controller.routing_table.load()
    await pass_one(controller, ok=True)
    await cut_off(controller, half_open=True)
    async with controller.breakers.db.system() as conn:
        await conn.execute(text("SELECT * FROM quotas FOR UPDATE"))
        waiting = asyncio.create_task(controller.admit(a_call()))
        await eventually(lambda: _leased(controller))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not await _leased(controller)


async def _leased(controller: AdmissionController) -> bool:
    return bool(await rows(controller, "SELECT * FROM probe_permits WHERE leased_until IS NOT NULL"))


async def test_probes_by_traffic_bring_an_endpoint_back_beside_its_sibling(controller: AdmissionController) -> None:
    await cut_off(controller, half_open=True)
    for _ in range(2):
        assert (await pass_one(controller, ok=True)).probe is not None
    await eventually(lambda: controller.routing_table.circuit("stripe", "eu").state == "ramping")
