from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from activities.health import RoutingActivities
from tests.support.routing import a_call, configure, eventually, fail, open_admission_controller, pass_one, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.health.messages import WatchStart
from wedsync.domain.health.trend import Sample
from wedsync.domain.routing.vendor_config import HealthCheck
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.health import queries as store
from wedsync.usecases.health.read import read_health
from wedsync.usecases.health.watch import POLICY, Watch
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]


@asynccontextmanager
async def watching(
    url: str, sandbox: EmbeddedSandbox, folder: Path
) -> AsyncIterator[tuple[AdmissionController, Watch]]:
    pool = new_pool()
    async with open_admission_controller(url) as controller:
        gateway = VendorGateway(stage_settings(url, sandbox, folder), load_registry(), pool, controller)
        yield controller, Watch(gateway, controller)
    await pool.aclose()


@pytest.fixture
async def watched(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> AsyncIterator[tuple[AdmissionController, Watch]]:
    async with watching(fresh_database_urls.app, stage_sandbox, tmp_path) as found:
        yield found
    await stage_sandbox.clear_faults()


async def health(controller: AdmissionController, service: str = "stripe") -> Any:
    (row,) = await rows(controller, "SELECT * FROM service_health WHERE service = :service", service=service)
    return row


async def test_every_service_is_probed_when_it_is_due_and_a_look_without_news_makes_no_history(
    watched: tuple[AdmissionController, Watch],
) -> None:
    controller, watch = watched
    now = utc_now()
    await watch.chores(now)
    assert await watch.probe_due(now) == len(watch.services())
    assert await watch.probe_due(now) == 0
    assert await watch.probe_due(now + timedelta(seconds=11)) == 3
    assert await watch.probe_due(now + timedelta(seconds=61)) == len(watch.services())
    assert {row.status for row in await rows(controller, "SELECT status FROM service_health")} == {"healthy"}
    changes = await rows(controller, "SELECT service FROM health_changes")
    assert len(changes) == len(watch.services())


async def test_of_several_watchers_one_looks(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> None:
    url = fresh_database_urls.app
    async with (
        watching(url, stage_sandbox, tmp_path) as (_, one),
        watching(url, stage_sandbox, tmp_path) as (_, two),
    ):
        now = utc_now()
        await asyncio.gather(one.chores(now), two.chores(now))
        counts = await asyncio.gather(one.probe_due(now), two.probe_due(now))
        assert sum(counts) == len(one.services())


async def test_an_outage_without_traffic_is_found_and_left_within_thirty_seconds(
    watched: tuple[AdmissionController, Watch], stage_sandbox: EmbeddedSandbox
) -> None:
    controller, watch = watched
    now = utc_now()
    await watch.chores(now)
    await watch.probe_due(now)
    await stage_sandbox.faults("stripe", mode="down")
    at, seconds = now, 0.0
    while (await health(controller)).status != "down":
        seconds += 1
        at = now + timedelta(seconds=seconds)
        await watch.probe_due(at)
        assert seconds < 30
    circuit = controller.routing_table.circuit("stripe", "default")
    assert (circuit.state, circuit.reason) == ("open", "probes_say_down")
    with pytest.raises(VendorUnavailable):
        await controller.admit(a_call())
    (record,) = await rows(controller, "SELECT to_service, actor FROM failovers")
    assert (record.to_service, record.actor) == ("paypal", "health")
    assert seconds >= POLICY.recheck_seconds


async def test_a_wedding_that_is_near_has_its_services_watched_closely(
    watched: tuple[AdmissionController, Watch],
) -> None:
    controller, watch = watched
    await configure(controller, "vonage", health=HealthCheck(interval_seconds=60))
    assert watch._interval("vonage") == 60
    watch._near = {"vonage"}
    assert watch._interval("vonage") == 10


async def test_a_trend_that_will_cross_before_the_next_wedding_is_warned_of_once(
    watched: tuple[AdmissionController, Watch],
) -> None:
    controller, watch = watched
    now = utc_now()
    await watch.chores(now)
    watch._next = {"stripe": now + timedelta(hours=6)}
    risen = [
        {"at": (now - timedelta(minutes=30 - minute)).isoformat(), "response_ms": 400 + minute * 60, "error_rate": 0}
        for minute in range(30)
    ]
    async with controller.breakers.db.system() as conn:
        statement = text("UPDATE service_health SET samples = CAST(:risen AS jsonb) WHERE service = 'stripe'")
        await conn.execute(statement, {"risen": json.dumps(risen)})
    for result in range(4):
        async with controller.breakers.db.system() as conn:
            assert ("stripe" in await store.read_warnings(conn)) == (result >= 3)
        await watch.probe_due(now + timedelta(seconds=result * 11))
    (row,) = await rows(
        controller, "SELECT jsonb_array_length(samples) AS kept FROM service_health WHERE service = 'stripe'"
    )
    assert row.kept == 34
    report = await read_health(controller.breakers.db, controller.routing_table, now, None)
    (warned,) = next(api.warnings for api in report.apis if api.service == "stripe")
    assert warned.metric == "response_time"
    assert now < warned.crosses_at < warned.next_wedding_at
    assert all(not api.warnings for api in report.apis if api.service != "stripe")


async def test_real_calls_that_fail_count_in_a_looks_error_rate(watched: tuple[AdmissionController, Watch]) -> None:
    controller, watch = watched
    await configure(controller, circuit={"min_calls": 1000})
    now = utc_now()
    await watch.chores(now)
    await fail(controller, 5)
    for _ in range(15):
        await pass_one(controller, ok=True)
    await controller.call_recorder.flush()
    await watch.probe_due(now)
    (row,) = await rows(controller, "SELECT samples FROM service_health WHERE service = 'stripe'")
    assert row.samples[-1]["error_rate"] == pytest.approx(0.25)


async def test_only_the_newest_looks_are_kept(watched: tuple[AdmissionController, Watch]) -> None:
    controller, watch = watched
    now = utc_now()
    await watch.chores(now)
    async with controller.breakers.db.system() as conn:
        for number in range(7):
            sample = Sample(at=now + timedelta(minutes=number), response_ms=number, error_rate=0)
            kept, _ = await store.add_sample(conn, "stripe", sample, 5)
    assert [sample.response_ms for sample in kept] == [2, 3, 4, 5, 6]


async def test_a_service_that_is_made_critical_is_watched_closely(watched: tuple[AdmissionController, Watch]) -> None:
    controller, watch = watched
    check = HealthCheck(url="/", interval_seconds=60)
    await configure(controller, "twilio", dependency="critical", health=check)
    await configure(controller, "vonage", dependency="important", health=check)
    now = utc_now()
    await watch.chores(now)
    await watch.probe_due(now)
    await watch.probe_due(now + timedelta(seconds=11))
    found = await rows(controller, "SELECT service, jsonb_array_length(samples) AS results FROM service_health")
    results = {row.service: row.results for row in found}
    assert (results["twilio"], results["vonage"]) == (2, 1)


async def test_an_outage_that_hangs_is_found_soon_and_holds_up_no_other_look(
    watched: tuple[AdmissionController, Watch], stage_sandbox: EmbeddedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, watch = watched
    quick = POLICY.model_copy(update={"confirm_seconds": 0.1, "recheck_seconds": 0.5})
    monkeypatch.setattr("wedsync.usecases.health.watch.POLICY", quick)
    await configure(
        controller, "stripe", {"open_seconds": 60}, health=HealthCheck(url="/v1/balance", timeout_seconds=0.3)
    )
    await configure(controller, "paypal", health=HealthCheck(timeout_seconds=60))
    for vendor in ("stripe", "paypal"):
        await stage_sandbox.faults(vendor, mode="slow", delay_ms=60_000)
    stop = asyncio.Event()
    running = asyncio.create_task(watch.run(WatchStart(seconds=600), stop))

    def is_left() -> bool:
        return controller.routing_table.circuit("stripe", "default").state == "open"

    await eventually(is_left, 20)
    (paypal,) = await rows(controller, "SELECT checked_at FROM service_health WHERE service = 'paypal'")
    assert paypal.checked_at is None
    assert (await health(controller, "twilio")).status == "healthy"
    stop.set()
    await running


async def test_a_watch_ends_when_it_is_told(watched: tuple[AdmissionController, Watch]) -> None:
    _, watch = watched
    stop = asyncio.Event()
    task = asyncio.create_task(watch.run(WatchStart(seconds=600, tick_seconds=0.05), stop))
    await eventually(lambda: watch.probes >= len(watch.services()))
    began = time.monotonic()
    stop.set()
    done = await task
    assert time.monotonic() - began < 5
    assert done.probes >= len(watch.services())


async def test_a_look_that_takes_long_doesnt_keep_the_activity_from_beating(
    watched: tuple[AdmissionController, Watch], stage_sandbox: EmbeddedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, watch = watched
    monkeypatch.setattr("activities.health._BEAT_SECONDS", 0.05)
    await configure(controller, "paypal", health=HealthCheck(timeout_seconds=60))
    await stage_sandbox.faults("paypal", mode="slow", delay_ms=60_000)
    beats: list[Any] = []
    env = ActivityEnvironment()
    env.on_heartbeat = lambda *details: beats.append(details)
    doors = RoutingActivities(watch._gateway, controller)
    running = asyncio.ensure_future(env.run(doors.watch_health, WatchStart(seconds=600, tick_seconds=30)))
    await eventually(lambda: len(beats) > 20)
    env.worker_shutdown()
    done = await running
    assert done.changes == 0
