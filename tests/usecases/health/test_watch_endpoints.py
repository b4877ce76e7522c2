"""The watch on a service with several endpoints, on real Postgres and over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.routing import configure, open_admission_controller, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.health.status import ProbeResult
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.vendor_config import ServiceConfig
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.usecases.health.watch import POLICY, Watch
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0}
DEAD = Endpoint(name="far", base_url="http://127.0.0.1:9")


@pytest.fixture
async def watched(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> AsyncIterator[tuple[AdmissionController, Watch]]:
    """Stripe has two endpoints, one of which is dead."""
    pool = new_pool()
    url = fresh_database_urls.app
    async with open_admission_controller(url) as controller:
        gateway = VendorGateway(stage_settings(url, stage_sandbox, tmp_path), load_registry(), pool, controller)
        near = Endpoint(name="near", base_url=gateway.account("stripe", "default").base_url)
        await configure(controller, circuit=STUCK, endpoints=(DEAD, near))
        yield controller, Watch(gateway, controller)
    await pool.aclose()


async def result(watch: Watch, seconds: float) -> None:
    """Every look that is due so many seconds from now."""
    now = utc_now() + timedelta(seconds=seconds)
    await watch.chores(now)
    await watch.probe_due(now)


async def test_an_endpoint_that_is_dead_is_left_though_another_is_well(
    watched: tuple[AdmissionController, Watch],
) -> None:
    controller, watch = watched
    for seconds in range(30):
        await result(watch, seconds)
        if controller.routing_table.circuit("stripe", "far").state == "open":
            break
    assert POLICY.recheck_seconds <= seconds < 30
    assert controller.routing_table.circuit("stripe", "far").reason == "probes_say_down"
    assert controller.routing_table.circuit("stripe", "near").state == "closed"
    (record,) = await rows(controller, "SELECT endpoint, actor FROM failovers")
    assert (record.endpoint, record.actor) == ("far", "health")
    (found,) = await rows(controller, "SELECT status FROM service_health WHERE service = 'stripe'")
    assert found.status == "healthy"


async def test_one_that_is_known_to_be_dead_is_not_hurried_after(watched: tuple[AdmissionController, Watch]) -> None:
    _, watch = watched
    for seconds in range(20):
        await result(watch, seconds)
    assert "stripe" not in watch._unsure


async def test_a_person_is_asked_once_about_an_endpoint_that_stays_dead(
    watched: tuple[AdmissionController, Watch],
) -> None:
    controller, watch = watched
    await configure(
        controller,
        endpoints=controller.routing_table.config("stripe").endpoints,
        failover=FailoverPolicy(strategy="manual"),
    )
    for number in range(6):
        await result(watch, number * 61)
    assert [row.status for row in await rows(controller, "SELECT status FROM failovers")] == ["proposed"]


async def test_what_was_changed_while_it_was_probed_is_not_left_for_what_it_was(
    watched: tuple[AdmissionController, Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, watch = watched
    before = controller.routing_table.config("stripe").endpoints

    async def dead_and_turned_round(_: VendorGateway, config: ServiceConfig, endpoint: Endpoint) -> ProbeResult:
        if config.service == "stripe" and endpoint.name == "far":
            await configure(
                controller, circuit=STUCK, endpoints=(before[1], Endpoint(name="far", base_url="http://[::1]:9"))
            )
        return ProbeResult(ok=config.service != "stripe", detail="no answer")

    for number in range(POLICY.down_after):
        if number == POLICY.down_after - 1:
            monkeypatch.setattr("wedsync.usecases.health.watch.probe", dead_and_turned_round)
        await result(watch, number * 61)
    assert controller.routing_table.circuit("stripe", "far").state == "closed"
