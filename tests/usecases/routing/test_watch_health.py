from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.routing import a_call, configure, eventually, open_switchboard, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing.messages import WatchStart
from wedsync.domain.routing.services import HealthCheck
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.registry import load_registry
from wedsync.usecases.routing.switchboard import Switchboard
from wedsync.usecases.routing.watch_health import RECHECK_SECONDS, Watch

__all__ = ["stage_sandbox"]


@asynccontextmanager
async def watching(url: str, sandbox: EmbeddedSandbox, folder: Path) -> AsyncIterator[tuple[Switchboard, Watch]]:
    pool = new_pool()
    async with open_switchboard(url) as board:
        gateway = VendorGateway(stage_settings(url, sandbox, folder), load_registry(), pool, board)
        yield board, Watch(gateway, board)
    await pool.aclose()


@pytest.fixture
async def watched(
    fresh_database_urls: Any, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> AsyncIterator[tuple[Switchboard, Watch]]:
    async with watching(fresh_database_urls.app, stage_sandbox, tmp_path) as found:
        yield found
    await stage_sandbox.clear_faults()


async def health(board: Switchboard, service: str = "stripe") -> Any:
    (row,) = await rows(board, "SELECT * FROM service_health WHERE service = :service", service=service)
    return row


async def test_every_service_is_probed_when_it_is_due_and_a_look_without_news_makes_no_history(
    watched: tuple[Switchboard, Watch],
) -> None:
    board, watch = watched
    now = utc_now()
    await watch.chores(now)
    assert await watch.look_at_due(now) == len(watch.services())
    assert await watch.look_at_due(now) == 0
    assert await watch.look_at_due(now + timedelta(seconds=11)) == 3
    assert await watch.look_at_due(now + timedelta(seconds=61)) == len(watch.services())
    assert {row.status for row in await rows(board, "SELECT status FROM service_health")} == {"healthy"}
    changes = await rows(board, "SELECT service FROM health_changes")
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
        counts = await asyncio.gather(one.look_at_due(now), two.look_at_due(now))
        assert sum(counts) == len(one.services())


async def test_an_outage_without_traffic_is_found_and_left_within_thirty_seconds(
    watched: tuple[Switchboard, Watch], stage_sandbox: EmbeddedSandbox
) -> None:
    board, watch = watched
    now = utc_now()
    await watch.chores(now)
    await watch.look_at_due(now)
    await stage_sandbox.faults("stripe", mode="down")
    at, seconds = now, 0.0
    while (await health(board)).status != "down":
        seconds += 1
        at = now + timedelta(seconds=seconds)
        await watch.look_at_due(at)
        assert seconds < 30
    circuit = board.book.circuit("stripe", "default")
    assert (circuit.state, circuit.reason) == ("open", "probes_say_down")
    with pytest.raises(VendorUnavailable):
        await board.admit(a_call())
    (record,) = await rows(board, "SELECT to_service, actor FROM failovers")
    assert (record.to_service, record.actor) == ("paypal", "health")
    assert seconds >= 2 * RECHECK_SECONDS


async def test_a_wedding_that_is_near_has_its_services_watched_closely(watched: tuple[Switchboard, Watch]) -> None:
    board, watch = watched
    await configure(board, health=HealthCheck(url="/v1/balance", interval_seconds=60))
    assert watch._interval("stripe") == 60
    watch._near = {"stripe"}
    assert watch._interval("stripe") == 10


async def test_a_watch_beats_and_ends_when_it_is_told(watched: tuple[Switchboard, Watch]) -> None:
    _, watch = watched
    beats, stop = [0], asyncio.Event()

    def beat() -> None:
        beats[0] += 1

    task = asyncio.create_task(watch.run(WatchStart(seconds=600, tick_seconds=0.05), beat, stop))
    await eventually(lambda: beats[0] > 2)
    began = time.monotonic()
    stop.set()
    done = await task
    assert time.monotonic() - began < 5
    assert done.probes >= len(watch.services())
