"""Processes whose machines' clocks disagree, on one real Postgres."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine

from tests.support.routing import a_call, configure, eventually, fail, open_admission_controller, rows
from wedsync.domain.errors import ThrottledUntil, VendorUnavailable
from wedsync.kit.clock import utc_now

LONG = {"min_calls": 4, "window_seconds": 600.0, "open_seconds": 3600.0, "open_cap_seconds": 3600.0}


@pytest.mark.parametrize("skew", [timedelta(minutes=-10), timedelta(hours=3)])
async def test_circuits_are_kept_by_postgres_clock(fresh_database_urls: Any, skew: timedelta) -> None:
    url = fresh_database_urls.app
    async with open_admission_controller(url) as controller:
        await configure(controller, circuit=LONG)
        await fail(controller, 2)
        await controller.call_recorder.flush()
    with time_machine.travel(utc_now() + skew, tick=True):
        async with open_admission_controller(url) as controller:
            # What the other process has counted counts.
            await fail(controller, 2)
            await eventually(lambda: controller.routing_table.circuit("stripe", "default").state == "open")
            with pytest.raises(VendorUnavailable):
                await controller.admit(a_call())
    async with open_admission_controller(url) as controller:
        statement = "SELECT open_until - clock_timestamp() AS left FROM circuits WHERE service = 'stripe'"
        (row,) = await rows(controller, statement)
        assert timedelta(minutes=55) < row.left <= timedelta(hours=1)


@pytest.mark.parametrize("skew", [timedelta(seconds=-30), timedelta(seconds=30)])
async def test_a_call_without_quota_is_told_how_long_by_the_fleet_s_clock(
    fresh_database_urls: Any, skew: timedelta
) -> None:
    with time_machine.travel(utc_now() + skew, tick=True):
        async with open_admission_controller(fresh_database_urls.app) as controller:
            controller.rate_limiter.block("stripe", "default", 20.0)
            with pytest.raises(ThrottledUntil) as refused:
                await controller.admit(a_call())
    assert 18 < refused.value.retry_after_seconds <= 20
