from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.peers import peers
from tests.support.routing import a_call, configure, eventually, fail, open_admission_controller, pass_one, rows
from wedsync.domain.errors import NotAuthorized, StoreUnavailable, VendorRejected, VendorThrottled, VendorUnavailable
from wedsync.domain.health.messages import AT_CAPACITY
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.domain.routing.circuit_breaker import Circuit, phase
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import Admission, AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.quotas import queries as quotas
from wedsync.store.routing import circuits
from wedsync.vendors.registry import load_registry

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0}


@pytest.fixture
def url(fresh_database_urls: Any) -> str:
    return str(fresh_database_urls.app)


@pytest.fixture
async def controller(url: str) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(url) as opened:
        yield opened


def state(controller: AdmissionController, service: str = "stripe") -> str:
    return controller.routing_table.circuit(service, "default").state


async def trip(controller: AdmissionController, service: str = "stripe") -> None:
    await fail(controller, 4, service)
    await eventually(lambda: state(controller, service) == "open")


async def test_a_failing_service_is_cut_off_in_every_process_within_a_second(
    url: str, controller: AdmissionController
) -> None:
    async with open_admission_controller(url) as other:
        await configure(controller, circuit=STUCK)
        await eventually(lambda: other.routing_table.config("stripe").circuit.min_calls == 4)
        began = time.monotonic()
        await fail(controller)
        await eventually(lambda: state(controller) == state(other) == "open")
        assert time.monotonic() - began < 1
        for each in (controller, other):
            with pytest.raises(VendorUnavailable) as caught:
                await each.admit(a_call())
            assert caught.value.reason == "circuit_open"
            await pass_one(each, "paypal", ok=True)


async def test_the_opening_writes_one_failover_record(url: str, controller: AdmissionController) -> None:
    async with open_admission_controller(url) as other:
        await configure(controller, circuit=STUCK)
        await eventually(lambda: other.routing_table.is_configured("stripe"))
        await asyncio.gather(fail(controller), fail(other))
        await eventually(lambda: state(controller) == state(other) == "open")
        found = await rows(controller, "SELECT * FROM failovers")
    assert len(found) == 1
    (record,) = found
    assert (record.from_service, record.to_service, record.reason, record.status) == (
        "stripe", "paypal", "failure_rate", "active",
    )  # fmt: skip
    assert record.epoch == 1
    assert record.estimated_downtime_ms > 0
    assert "paypal" in " ".join(record.rollback_plan)
    await eventually(lambda: _affected(controller))


async def _affected(controller: AdmissionController) -> bool:
    (record,) = await rows(controller, "SELECT affected_weddings FROM failovers")
    return bool(record.affected_weddings == 0)


@pytest.mark.parametrize("error", [VendorRejected("no"), NotAuthorized("no")])
async def test_refusals_and_bad_credentials_never_trip_a_shared_breaker(
    controller: AdmissionController, error: Exception
) -> None:
    await configure(controller)
    for _ in range(20):
        admission = await controller.admit(a_call())
        await controller.complete(admission, a_call(), "send", error, 0.01)
    await controller.call_recorder.flush()
    assert state(controller) == "closed"
    assert await rows(controller, "SELECT * FROM circuits") == []


async def test_the_last_provider_is_never_cut_off_and_the_other_is_looked_at_again(
    controller: AdmissionController,
) -> None:
    await configure(controller, circuit=STUCK)
    await configure(controller, "paypal", circuit=STUCK)
    await trip(controller)
    await fail(controller, 20, "paypal")
    await controller.call_recorder.flush()
    assert state(controller, "paypal") == "closed"
    assert (await controller.admit(a_call("paypal"))).probe is None


async def test_two_that_stand_in_for_each_other_never_both_leave(url: str) -> None:
    async with open_admission_controller(url) as one, open_admission_controller(url) as two:
        await configure(one, circuit=STUCK)
        await configure(one, "paypal", circuit=STUCK)
        await eventually(lambda: two.routing_table.is_configured("paypal"))
        await asyncio.gather(fail(one, 4, "stripe"), fail(two, 4, "paypal"))
        await asyncio.gather(one.call_recorder.flush(), two.call_recorder.flush())
        await eventually(lambda: sorted((state(one), state(one, "paypal"))) == ["closed", "open"])
        assert len(await rows(one, "SELECT * FROM failovers")) == 1


async def test_a_business_has_nobody_to_stand_in_and_is_not_counted(controller: AdmissionController) -> None:
    for _ in range(30):
        await pass_one(controller, "generic", ok=False, account="villa-aurora")
    await controller.call_recorder.flush()
    assert await rows(controller, "SELECT * FROM circuits") == []


async def test_probes_close_the_circuit_and_without_a_guard_traffic_comes_back_by_itself(
    controller: AdmissionController,
) -> None:
    await configure(controller)
    await trip(controller)
    await eventually(lambda: phase(controller.routing_table.circuit("stripe", "default"), utc_now()) == "half_open")
    admissions = [await controller.admit(a_call()) for _ in range(3)]
    assert all(admission.probe is not None for admission in admissions)
    with pytest.raises(VendorUnavailable):
        await controller.admit(a_call())
    for admission in admissions:
        await controller.complete(admission, a_call(), "send", None, 0.01)
    assert state(controller) == "ramping"
    elsewhere = Situation(can_go_elsewhere=True)
    let_through = 0
    for number in range(60):
        with suppress(VendorUnavailable):
            await pass_one(controller, ok=True, situation=elsewhere, wedding_id=f"w{number}")
            let_through += 1
    assert let_through < 60
    await pass_one(controller, ok=True, wedding_id="nowhere-else")


async def test_a_bad_probe_reopens_and_two_failed_calls_while_ramping_too(controller: AdmissionController) -> None:
    await configure(controller, circuit={"probes": 1, "ramp_step_seconds": 60.0})
    await trip(controller)

    async def probe(ok: bool) -> None:
        await eventually(lambda: phase(controller.routing_table.circuit("stripe", "default"), utc_now()) == "half_open")
        assert (await pass_one(controller, ok=ok)).probe is not None

    await probe(False)
    circuit = controller.routing_table.circuit("stripe", "default")
    assert (circuit.state, circuit.round, circuit.epoch) == ("open", 2, 1)
    await probe(True)
    assert state(controller) == "ramping"
    await pass_one(controller, ok=False)
    await pass_one(controller, ok=False)
    await eventually(lambda: state(controller) == "open")
    (record,) = await rows(controller, "SELECT status, fell_back FROM failovers")
    assert (record.status, record.fell_back) == ("active", 1)


async def test_a_neutral_probe_gives_its_permit_back(controller: AdmissionController) -> None:
    await configure(controller, circuit={"probes": 1})
    await trip(controller)
    await eventually(lambda: phase(controller.routing_table.circuit("stripe", "default"), utc_now()) == "half_open")
    admission = await controller.admit(a_call())
    await controller.complete(admission, a_call(), "send", VendorRejected("no"), 0.01)
    assert state(controller) == "open"
    assert (await pass_one(controller, ok=True)).probe is not None
    assert state(controller) == "ramping"


async def test_every_call_leaves_a_record_in_batches(controller: AdmissionController) -> None:
    for number in range(50):
        await pass_one(controller, ok=number % 10 != 0, wedding_id=f"w{number}")
    await eventually(lambda: _recorded(controller, 50))
    found = await rows(controller, "SELECT outcome, count(*) AS n FROM vendor_calls GROUP BY outcome ORDER BY outcome")
    assert [(row.outcome, row.n) for row in found] == [("ok", 45), ("vendor_unavailable", 5)]
    assert controller.call_recorder.flushes < 10


async def _recorded(controller: AdmissionController, number: int) -> bool:
    (row,) = await rows(controller, "SELECT count(*) AS n FROM vendor_calls")
    return bool(row.n == number)


async def test_a_refused_call_leaves_a_record_too(controller: AdmissionController) -> None:
    await configure(controller, circuit=STUCK)
    await trip(controller)
    with pytest.raises(VendorUnavailable):
        await controller.admit(a_call())
    await controller.call_recorder.flush()
    (row,) = await rows(controller, "SELECT outcome FROM vendor_calls WHERE reason = 'circuit_open'")
    assert row.outcome == "vendor_unavailable"


async def test_a_changed_configuration_is_live_in_all_processes_within_a_second(
    url: str, controller: AdmissionController
) -> None:
    async with open_admission_controller(url) as other:
        began = time.monotonic()
        await configure(
            controller, endpoints=(Endpoint(name="eu", base_url="https://eu.example.com"), Endpoint(name="us"))
        )
        await eventually(lambda: [e.name for e in other.routing_table.config("stripe").endpoints] == ["eu", "us"])
        assert time.monotonic() - began < 1
        admission = await other.admit(a_call())
        assert admission.endpoint.base_url == "https://eu.example.com"
        assert (await other.admit(a_call(facts={"endpoint": "us"}))).endpoint.name == "us"


async def test_of_several_endpoints_the_failing_one_is_left(controller: AdmissionController) -> None:
    await configure(controller, circuit=STUCK, endpoints=(Endpoint(name="eu"), Endpoint(name="us")), backups=())
    for _ in range(4):
        admission = await controller.admit(a_call())
        assert admission.endpoint.name == "eu"
        await controller.complete(admission, a_call(), "send", VendorUnavailable("down"), 0.01)
    await eventually(lambda: controller.routing_table.circuit("stripe", "eu").state == "open")
    assert (await controller.admit(a_call())).endpoint.name == "us"


async def test_calls_go_on_while_postgres_is_away_and_are_recorded_later(
    url: str, controller: AdmissionController, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = controller.breakers.db
    async with open_admission_controller(url) as watcher:
        await controller.call_recorder.flush()
        monkeypatch.setattr(db, "_begun", _gone)
        for _ in range(5):
            await pass_one(controller, ok=True)
        with pytest.raises(StoreUnavailable):
            await controller.call_recorder.flush()
        monkeypatch.undo()
        await controller.call_recorder.flush()
        (row,) = await rows(watcher, "SELECT count(*) AS n FROM vendor_calls")
        assert row.n == 5


async def _gone(begin: str) -> Any:
    raise OSError("no server")


async def test_a_wedding_day_call_with_nowhere_else_to_go_passes_an_open_circuit(
    controller: AdmissionController,
) -> None:
    await configure(controller, circuit=STUCK)
    await trip(controller)
    admission = await controller.admit(a_call(), Situation(is_wedding_day=True))
    assert admission.probe is None
    with pytest.raises(VendorUnavailable):
        await controller.admit(a_call(), Situation(is_wedding_day=True, can_go_elsewhere=True))


async def test_three_processes_with_fifty_callers_send_exactly_the_permitted_probes(
    url: str, controller: AdmissionController
) -> None:
    await configure(controller, circuit={"probes": 3, "open_seconds": 0.01, "open_cap_seconds": 0.01})
    async with peers(3, "tests.support.routing_process", url, 17) as started:
        for peer in started:
            assert await peer.reported() == "ready"
        await trip(controller)
        (circuit,) = await rows(controller, "SELECT round FROM circuits")
        await eventually(lambda: phase(controller.routing_table.circuit("stripe", "default"), utc_now()) == "half_open")
        for peer in started:
            peer.say("go")
        counted: Counter[str] = Counter()
        for peer in started:
            counted.update(await peer.reported())
        assert counted["probe"] == 3
        assert sum(counted.values()) == 51
        permits = await rows(controller, "SELECT round, outcome FROM probe_permits")
        assert [(row.round, row.outcome) for row in permits] == [(circuit.round, "ok")] * 3


async def test_rows_read_before_a_transition_never_hide_it_from_the_process_that_made_it(
    controller: AdmissionController, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(controller, circuit=STUCK)
    await trip(controller)
    routing_table, read_all = RoutingTable(controller.breakers.db, load_registry().manifests), circuits.read_all
    await routing_table.load()
    opened = routing_table.circuit("stripe", "default")

    async def read_while_it_moves(conn: AsyncConnection, known: Any = None) -> list[Circuit]:
        found = await read_all(conn, known)
        routing_table.learn(opened.model_copy(update={"held": True}))
        return found

    monkeypatch.setattr(circuits, "read_all", read_while_it_moves)
    await routing_table.load()
    assert routing_table.circuit("stripe", "default").held
    monkeypatch.undo()
    await routing_table.load()
    assert not routing_table.circuit("stripe", "default").held


async def test_a_slow_vendor_leaves_the_others_room_and_wedding_day_calls_their_own(
    fresh_database_urls: Any,
) -> None:
    db = Database(fresh_database_urls.app, 4)
    async with AdmissionController(db, load_registry().manifests, most_in_flight=2).open() as controller:
        first, second = [await controller.admit(a_call()) for _ in range(2)]
        with pytest.raises(VendorThrottled) as refused:
            await controller.admit(a_call())
        assert (refused.value.reason, refused.value.retry_after_seconds) == (AT_CAPACITY, 1.0)
        await controller.complete(await controller.admit(a_call("twilio")), a_call("twilio"), "send", None, 0.01)
        day = await controller.admit(a_call(), Situation(is_wedding_day=True))
        for admission in (first, second, day):
            await controller.complete(admission, a_call(), "send", None, 0.01)
        await controller.complete(await controller.admit(a_call()), a_call(), "send", None, 0.01)
    await db.close()


async def test_one_slow_business_leaves_the_others_room(fresh_database_urls: Any) -> None:
    db = Database(fresh_database_urls.app, 4)
    async with AdmissionController(db, load_registry().manifests, most_in_flight=2).open() as controller:
        slow = a_call("generic", account="florist")
        admissions = [await controller.admit(slow) for _ in range(2)]
        with pytest.raises(VendorThrottled) as refused:
            await controller.admit(slow)
        assert refused.value.reason == AT_CAPACITY
        other = a_call("generic", account="caterer")
        await controller.complete(await controller.admit(other), other, "send", None, 0.01)
        for admission in admissions:
            await controller.complete(admission, slow, "send", None, 0.01)
        await controller.complete(await controller.admit(slow), slow, "send", None, 0.01)
        assert not controller._in_flight_by_place
    await db.close()


async def test_who_waits_for_a_quota_counts_and_who_is_sent_away_makes_room(fresh_database_urls: Any) -> None:
    db = Database(fresh_database_urls.app, 4)
    async with AdmissionController(db, load_registry().manifests, most_in_flight=3).open() as controller:
        policy = QuotaPolicy(windows=(WindowLimit(window="second", limit=3),))
        async with db.system() as conn:
            await quotas.put_policy(conn, ("stripe", "default"), policy, "key:test", utc_now())
        await controller.routing_table.load()
        ends = await asyncio.gather(*(controller.admit(a_call()) for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(end, VendorThrottled) and end.reason == AT_CAPACITY for end in ends) == 5
        for end in ends:
            if isinstance(end, Admission):
                await controller.complete(end, a_call(), "send", None, 0.01)
        assert not controller._in_flight_by_place
    await db.close()
