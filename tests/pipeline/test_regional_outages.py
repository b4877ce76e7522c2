"""A service with an endpoint in each of two regions, one of which is down, over real HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.routing import a_call, configure, eventually, married_at, open_admission_controller, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.errors import VendorError
from wedsync.domain.health.messages import RecoveryWake
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.failover import CEREMONY_AFTER
from wedsync.domain.vendors.call import Call
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.routing import circuits
from wedsync.usecases.health.recover_vendor import recover_vendor
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]
NEAR, FAR = "eu-west", "us-east"
#: Not back by itself within a test: a guard is asked, at a time that the test says.
POLICY = {"open_seconds": 60.0, "open_cap_seconds": 60.0, "ramp_step_seconds": 10.0}


@dataclass
class Texts:
    """Sends texts by Twilio, wherever the switchboard says."""

    gateway: VendorGateway
    controller: AdmissionController
    sandbox: EmbeddedSandbox
    sent: int = 0

    async def send(self, times: int) -> Counter[str]:
        """What became of so many texts: `sent`, or the error's reason."""
        told: Counter[str] = Counter()
        for _ in range(times):
            try:
                await self.gateway.send(self.next(), Situation(can_go_elsewhere=True))
                told["sent"] += 1
            except VendorError as error:
                told[error.reason or error.code] += 1
        return told

    def next(self) -> Call:
        """The next text."""
        self.sent += 1
        return a_call(
            "twilio",
            wedding_id=f"w{self.sent}",
            action="sms.send",
            operation=self.gateway.manifest("twilio").action("sms.send").operations[0].name,  # type: ignore[union-attr]
            reference=f"{self.sent:032d}",
            inputs={"to": {"id": "c", "name": "Giulia", "phone": "+390318125551"}, "text": "You are booked."},
        )

    async def asked(self) -> Counter[str]:
        """How many requests each region got."""
        urls = [request["url"] for request in await self.sandbox.requests("twilio")]
        return Counter(region for url in urls for region in (NEAR, FAR) if f"@{region}/" in url)

    def states(self) -> dict[str, str]:
        return {name: self.controller.routing_table.circuit("twilio", name).state for name in (NEAR, FAR)}

    async def lose_near(self) -> None:
        await self.sandbox.faults("twilio", mode="down", region=NEAR)

        async def is_left() -> bool:
            await self.send(1)
            return self.states()[NEAR] == "open"

        await eventually(is_left)


@pytest.fixture
async def texts(fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path) -> AsyncIterator[Texts]:
    url, pool = fresh_database_urls.app, new_pool()
    await stage_sandbox.reset()
    async with open_admission_controller(url) as controller:
        ways = tuple(
            Endpoint(name=region, region=region, base_url=stage_sandbox.vendor_url("twilio", region))
            for region in (NEAR, FAR)
        )
        await configure(controller, "twilio", POLICY, endpoints=ways, strategy="round_robin")
        gateway = VendorGateway(stage_settings(url, stage_sandbox, tmp_path), load_registry(), pool, controller)
        yield Texts(gateway, controller, stage_sandbox)
    await stage_sandbox.reset()
    await pool.aclose()


async def test_what_was_made_at_the_only_region_is_asked_for_there_when_there_are_two(texts: Texts) -> None:
    near, far = texts.controller.routing_table.config("twilio").endpoints
    await configure(texts.controller, "twilio", POLICY, endpoints=(near,))
    call = texts.next()
    made = await texts.gateway.send(call)
    assert made.facts["endpoint"] == NEAR
    await configure(texts.controller, "twilio", POLICY, endpoints=(far, near), strategy="failover")
    for _ in range(2):
        await texts.gateway.inspect(call.model_copy(update={"facts": {**made.facts, "external_id": made.external_id}}))
    assert await texts.asked() == {NEAR: 3}
    await texts.send(1)
    assert await texts.asked() == {NEAR: 3, FAR: 1}


async def test_of_two_regions_the_one_that_is_down_is_left_and_the_service_goes_on(texts: Texts) -> None:
    assert await texts.send(4) == {"sent": 4}
    assert await texts.asked() == {NEAR: 2, FAR: 2}
    await texts.lose_near()
    before = await texts.asked()
    assert await texts.send(10) == {"sent": 10}
    assert await texts.asked() == before + Counter({FAR: 10})
    assert texts.states() == {NEAR: "open", FAR: "closed"}
    found = await rows(texts.controller, "SELECT endpoint FROM failovers")
    assert [row.endpoint for row in found] == [NEAR]


async def test_a_region_that_recovers_in_mid_vows_comes_back_only_when_they_are_over(texts: Texts) -> None:
    vows_at = utc_now() + timedelta(minutes=2)
    await married_at(texts.controller, vows_at, "twilio")
    await texts.lose_near()
    await texts.sandbox.clear_faults("twilio")
    epoch = texts.controller.routing_table.circuit("twilio", NEAR).epoch
    before = await texts.asked()

    async def guarded_at(moment: datetime) -> Any:
        recovery_wake = RecoveryWake(service="twilio", endpoint=NEAR, epoch=epoch, now=moment)
        return await recover_vendor(texts.gateway, texts.controller, recovery_wake)

    for minutes in (3, 30, 59):
        news = await guarded_at(vows_at + timedelta(minutes=minutes))
        assert (news.state, news.until) == ("open", vows_at + CEREMONY_AFTER)
    assert await texts.send(5) == {"sent": 5}
    assert await texts.asked() == before + Counter({FAR: 5})

    news = await guarded_at(vows_at + CEREMONY_AFTER)
    assert news.state == "ramping"
    assert await texts.asked() == before + Counter({FAR: 5, NEAR: 3})


async def test_a_ceremony_that_is_set_meanwhile_is_heeded_by_calls_from_the_guards_next_wake_on(texts: Texts) -> None:
    await texts.lose_near()
    vows_at = utc_now() + timedelta(minutes=40)
    await married_at(texts.controller, vows_at, "twilio")
    assert texts.controller.routing_table.circuit("twilio", NEAR).noisy_until is None
    recovery_wake = RecoveryWake(service="twilio", endpoint=NEAR, epoch=1, now=utc_now())
    assert (await recover_vendor(texts.gateway, texts.controller, recovery_wake)).state == "open"
    assert texts.controller.routing_table.circuit("twilio", NEAR).noisy_until == vows_at + CEREMONY_AFTER


async def test_what_a_slow_wake_does_counts_from_its_own_moment(texts: Texts) -> None:
    wake, policy = utc_now() - timedelta(hours=1), texts.controller.routing_table.policy("twilio")
    before = wake - timedelta(hours=1)
    await texts.controller.breakers.apply("twilio", NEAR, lambda c, _: rules.opened(c, before, policy, "test"), before)
    await texts.sandbox.faults("twilio", mode="down", region=NEAR)
    recovery_wake = RecoveryWake(service="twilio", endpoint=NEAR, epoch=1, now=wake)
    began = utc_now()
    news = await recover_vendor(texts.gateway, texts.controller, recovery_wake)
    circuit = texts.controller.routing_table.circuit("twilio", NEAR)
    assert (circuit.round, news.until) == (2, circuit.open_until)
    assert circuit.open_until is not None
    assert circuit.open_until >= began + timedelta(seconds=POLICY["open_seconds"])


async def test_a_permit_is_leased_from_the_moment_it_is_taken(texts: Texts) -> None:
    wake, policy = utc_now() - timedelta(hours=1), texts.controller.routing_table.policy("twilio")
    before = wake - timedelta(hours=1)
    await texts.controller.breakers.apply("twilio", NEAR, lambda c, _: rules.opened(c, before, policy, "test"), before)
    async with texts.controller.breakers.db.system() as conn:
        circuit = await circuits.lock_one(conn, "twilio", NEAR)
        slots = [await circuits.lease_permit(conn, circuit, "guard", timedelta(seconds=20), wake) for _ in range(4)]
    assert slots == [1, 2, 3, None]
    (row,) = await rows(texts.controller, "SELECT min(leased_until) AS ends FROM probe_permits")
    assert row.ends > utc_now() + timedelta(seconds=10)
