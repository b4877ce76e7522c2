"""The watch on a service with several endpoints, on real Postgres and over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.routing import configure, open_switchboard, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.health.status import Look
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.services import ServiceConfig
from wedsync.domain.routing.strategy import Endpoint
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.registry import load_registry
from wedsync.usecases.routing.switchboard import Switchboard
from wedsync.usecases.routing.watch_health import POLICY, Watch

__all__ = ["stage_sandbox"]

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0}
DEAD = Endpoint(name="far", base_url="http://127.0.0.1:9")


@pytest.fixture
async def watched(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> AsyncIterator[tuple[Switchboard, Watch]]:
    """Stripe has two endpoints, one of which is dead."""
    pool = new_pool()
    url = fresh_database_urls.app
    async with open_switchboard(url) as board:
        gateway = VendorGateway(stage_settings(url, stage_sandbox, tmp_path), load_registry(), pool, board)
        near = Endpoint(name="near", base_url=gateway.account("stripe", "default").base_url)
        await configure(board, circuit=STUCK, endpoints=(DEAD, near))
        yield board, Watch(gateway, board)
    await pool.aclose()


async def look(watch: Watch, seconds: float) -> None:
    """Every look that is due so many seconds from now."""
    now = utc_now() + timedelta(seconds=seconds)
    await watch.chores(now)
    await watch.look_at_due(now)


async def test_an_endpoint_that_is_dead_is_left_though_another_is_well(watched: tuple[Switchboard, Watch]) -> None:
    board, watch = watched
    for seconds in range(30):
        await look(watch, seconds)
        if board.book.circuit("stripe", "far").state == "open":
            break
    assert POLICY.recheck_seconds <= seconds < 30
    assert board.book.circuit("stripe", "far").reason == "probes_say_down"
    assert board.book.circuit("stripe", "near").state == "closed"
    (record,) = await rows(board, "SELECT endpoint, actor FROM failovers")
    assert (record.endpoint, record.actor) == ("far", "health")
    (found,) = await rows(board, "SELECT status FROM service_health WHERE service = 'stripe'")
    assert found.status == "healthy"


async def test_one_that_is_known_to_be_dead_is_not_hurried_after(watched: tuple[Switchboard, Watch]) -> None:
    _, watch = watched
    for seconds in range(20):
        await look(watch, seconds)
    assert "stripe" not in watch._unsure


async def test_a_person_is_asked_once_about_an_endpoint_that_stays_dead(watched: tuple[Switchboard, Watch]) -> None:
    board, watch = watched
    await configure(board, endpoints=board.book.config("stripe").endpoints, failover=FailoverPolicy(strategy="manual"))
    for number in range(6):
        await look(watch, number * 61)
    assert [row.status for row in await rows(board, "SELECT status FROM failovers")] == ["proposed"]


async def test_what_was_changed_while_it_was_probed_is_not_left_for_what_it_was(
    watched: tuple[Switchboard, Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, watch = watched
    before = board.book.config("stripe").endpoints

    async def dead_and_turned_round(_: VendorGateway, config: ServiceConfig, endpoint: Endpoint) -> Look:
        if config.service == "stripe" and endpoint.name == "far":
            await configure(
                board, circuit=STUCK, endpoints=(before[1], Endpoint(name="far", base_url="http://[::1]:9"))
            )
        return Look(ok=config.service != "stripe", detail="no answer")

    for number in range(POLICY.down_after):
        if number == POLICY.down_after - 1:
            monkeypatch.setattr("wedsync.usecases.routing.watch_health.probe", dead_and_turned_round)
        await look(watch, number * 61)
    assert board.book.circuit("stripe", "far").state == "closed"
