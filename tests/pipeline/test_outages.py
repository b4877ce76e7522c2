"""Scripted outages of stand-ins over real HTTP, through the whole pipeline."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.routing import configure, eventually, open_admission_controller, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.errors import VendorError
from wedsync.domain.vendors.call import Call
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]
ELSEWHERE = Situation(can_go_elsewhere=True)


@dataclass
class Sender:
    """Sends texts by Twilio, and by Vonage whenever Twilio does not take one."""

    gateway: VendorGateway
    controller: AdmissionController
    sandbox: EmbeddedSandbox
    sent: int = 0

    def call(self, vendor: str) -> Call:
        self.sent += 1
        operation = self.gateway.manifest(vendor).action("sms.send").operations[0].name  # type: ignore[union-attr]
        to = {"id": "couple", "name": "Giulia", "phone": "+390318125551"}
        return Call(
            organization_id="org",
            wedding_id=f"w{self.sent}",
            transaction_id="t",
            step_id="s",
            vendor=vendor,
            action="sms.send",
            operation=operation,
            idempotency_key=f"k{self.sent}",
            reference=f"{self.sent:032d}",
            inputs={"to": to, "text": "You are booked."},
            first_sent_at=utc_now(),
        )

    async def send(self) -> tuple[str, str]:
        """By whom, and why not by Twilio."""
        try:
            await self.gateway.send(self.call("twilio"), ELSEWHERE)
        except VendorError as error:
            await self.gateway.send(self.call("vonage"))
            return "vonage", error.reason or error.code
        return "twilio", ""

    def state(self) -> str:
        return self.controller.routing_table.circuit("twilio", "default").state


@pytest.fixture
async def sender(fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path) -> AsyncIterator[Sender]:
    url, pool = fresh_database_urls.app, new_pool()
    async with open_admission_controller(url) as controller:
        await configure(controller, "twilio", {"open_seconds": 0.5, "ramp_step_seconds": 0.1, "slow_seconds": 0.2})
        gateway = VendorGateway(stage_settings(url, stage_sandbox, tmp_path), load_registry(), pool, controller)
        yield Sender(gateway, controller, stage_sandbox)
    await stage_sandbox.clear_faults()
    await pool.aclose()


async def test_a_hard_outage_is_left_within_a_second_and_nothing_is_lost(sender: Sender) -> None:
    assert [await sender.send() for _ in range(3)] == [("twilio", "")] * 3
    await sender.sandbox.faults("twilio", mode="down")
    began = time.monotonic()
    taken = [await sender.send() for _ in range(4)]
    assert [by for by, _ in taken] == ["vonage"] * 4
    while sender.state() != "open":
        assert (await sender.send())[0] == "vonage"
        assert time.monotonic() - began < 1
    requests = len(await sender.sandbox.requests("twilio"))
    assert [await sender.send() for _ in range(5)] == [("vonage", "circuit_open")] * 5
    assert len(await sender.sandbox.requests("twilio")) == requests


async def test_when_it_is_well_again_traffic_comes_back(sender: Sender) -> None:
    await sender.sandbox.faults("twilio", mode="down")
    while sender.state() != "open":
        await sender.send()
    await sender.sandbox.clear_faults("twilio")

    async def is_back() -> bool:
        return (await sender.send())[0] == "twilio" and sender.state() == "ramping"

    await eventually(is_back)
    (record,) = await rows(sender.controller, "SELECT status FROM failovers")
    assert record.status == "restoring"


async def test_a_brown_out_counts_like_an_outage(sender: Sender) -> None:
    await sender.sandbox.faults("twilio", mode="slow", delay_ms=250)
    for _ in range(6):
        await sender.send()
    await eventually(lambda: sender.state() == "open")
    assert sender.controller.routing_table.circuit("twilio", "default").reason == "slow_calls"


async def test_a_storm_of_429_trips_nothing(sender: Sender) -> None:
    await sender.sandbox.faults("twilio", mode="throttle")
    for _ in range(12):
        by, why = await sender.send()
        assert (by, why != "circuit_open") == ("vonage", True)
    await sender.controller.call_recorder.flush()
    assert sender.state() == "closed"


async def test_a_flapping_service_stays_away_for_longer_each_time(sender: Sender) -> None:
    await sender.sandbox.faults("twilio", mode="flap", seed=3, probability=0.7)
    rounds: list[int] = []

    async def has_come_and_gone() -> bool:
        await sender.send()
        circuit = sender.controller.routing_table.circuit("twilio", "default")
        if circuit.state == "open" and (not rounds or circuit.round != rounds[-1]):
            rounds.append(circuit.round)
        return len(rounds) >= 3

    await eventually(has_come_and_gone, 30)
    circuit = sender.controller.routing_table.circuit("twilio", "default")
    assert circuit.trips >= 3
    assert (await rows(sender.controller, "SELECT count(*) AS n FROM failovers"))[0].n == 1
