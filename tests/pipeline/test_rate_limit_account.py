"""Many callers and a small limit: who waits in the process, and what the others are told. On real Postgres."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.routing import eventually, open_admission_controller
from wedsync.domain.errors import ThrottledUntil
from wedsync.domain.quotas import quota as rules
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.quotas import queries as quotas

KEY = ("stripe", "default")


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        yield opened


async def limit(controller: AdmissionController, calls: int) -> None:
    policy = QuotaPolicy(windows=(WindowLimit(window="second", limit=calls),))
    async with controller.breakers.db.system() as conn:
        await quotas.put_policy(conn, KEY, policy, "key:test", utc_now())
    await controller.routing_table.load()


async def crowd(
    controller: AdmissionController, callers: int, priority: int
) -> tuple[int, list[ThrottledUntil], float]:
    """So many at once: how many had leave, what the others were told, how long the last one waited."""
    began = time.monotonic()
    waiters = [controller.rate_limiter.acquire(*KEY, priority) for _ in range(callers)]
    ends = await asyncio.gather(*waiters, return_exceptions=True)
    refused = [end for end in ends if isinstance(end, ThrottledUntil)]
    given = sum(isinstance(end, int) for end in ends)
    assert given + len(refused) == callers
    return given, refused, time.monotonic() - began


@pytest.mark.parametrize("priority", [rules.ORDINARY, rules.WEDDING_DAY])
async def test_of_many_callers_few_wait_here_and_each_other_one_is_told_a_moment_of_its_own(
    controller: AdmissionController, priority: int
) -> None:
    await limit(controller, 10)
    given, refused, longest = await crowd(controller, 150, priority)
    assert given >= 5
    # All of their moments lie 15 s apart.
    assert longest < 5
    moments = sorted(one.until for one in refused)
    assert all((later - earlier).total_seconds() > 0.099 for earlier, later in pairwise(moments))
    assert (moments[-1] - moments[0]).total_seconds() > 10


async def test_who_comes_again_at_its_moment_is_served_and_nobody_starves(controller: AdmissionController) -> None:
    await limit(controller, 50)
    tries: list[int] = []

    async def one() -> None:
        for number in range(1, 100):
            try:
                await controller.rate_limiter.acquire(*KEY, rules.ORDINARY)
            except ThrottledUntil as refused:
                await asyncio.sleep(refused.retry_after_seconds)
                continue
            tries.append(number)
            return

    await asyncio.gather(*(one() for _ in range(120)))
    assert len(tries) == 120
    # On a busy machine some come late.
    assert sum(tries) / len(tries) < 4


async def test_who_is_told_later_is_not_in_the_way_of_who_comes_when_nobody_does(
    controller: AdmissionController,
) -> None:
    await limit(controller, 5)
    _, refused, _ = await crowd(controller, 60, rules.ORDINARY)
    assert max((one.until - utc_now()).total_seconds() for one in refused) > 5
    # None of them comes again.
    await asyncio.sleep(1.5)
    assert await controller.rate_limiter.acquire(*KEY, rules.ORDINARY) is not None
    _, refused, _ = await crowd(controller, 6, rules.ORDINARY)
    assert all((one.until - utc_now()).total_seconds() < 4 for one in refused)


async def test_a_caller_who_has_gone_takes_nothing(controller: AdmissionController) -> None:
    await limit(controller, 5)
    await crowd(controller, 10, rules.ORDINARY)
    gone = [asyncio.create_task(controller.rate_limiter.acquire(*KEY, rules.ORDINARY)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await eventually(lambda: not controller.rate_limiter._accounts[KEY].waiting)
