from __future__ import annotations

from datetime import timedelta

from temporalio.api.enums.v1 import EventType

from tests.support.plans import booking, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged
from wedsync.domain.quotas.quota import Quota, QuotaPolicy, WindowLimit
from wedsync.kit.clock import utc_now
from wedsync.store.quotas import queries as quotas


async def block(stage: Stage, vendor: str, seconds: float) -> None:
    """As after a 429 of the vendor."""
    until = utc_now() + timedelta(seconds=seconds)
    async with stage.db.system() as conn:
        known = (await quotas.read_all(conn)).get((vendor, "default"), Quota(service=vendor))
        await quotas.swap(conn, known.model_copy(update={"blocked_until": until}), "test")
        await quotas.publish(conn, vendor)


async def waits(stage: Stage, wedding: Staged) -> list[str]:
    """The summaries of the timers that the wedding's transactions set; its own rest is none of them."""
    history = await wedding.handle.fetch_history()
    sealed = [
        event.user_metadata.summary
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]
    summaries = await stage.client.data_converter.decode(sealed, [str] * len(sealed))
    return [summary for summary in summaries if not summary.startswith("until ")]


async def test_a_step_sleeps_until_the_vendor_takes_calls_again_and_has_tried_once(
    stage: Stage, puppet: Puppet
) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    await block(stage, "replayer", 2.5)
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    assert len(puppet.calls(wedding.id, "reserve")) == 1
    assert (await wedding.steps())["hall"].attempts == 1
    (summary,) = await waits(stage, wedding)
    assert "waits for replayer's quota until" in summary


async def test_who_would_wait_too_long_goes_to_the_next_vendor(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", fallbacks=["finder"])
    wedding = await stage.wedding(plan(hall))
    await block(stage, "replayer", 90)
    try:
        await wedding.until(await wedding.request_change(), "completed")
    finally:
        await block(stage, "replayer", -1)
    step = (await wedding.steps())["hall"]
    assert (step.vendor, step.fallback_used) == ("finder", True)


async def test_our_own_congestion_is_no_try_and_no_reason_to_leave_a_vendor(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer", fallbacks=["finder"])))
    puppet.will(wedding.id, "reserve", *["crowded"] * 8)
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    step = (await wedding.steps())["hall"]
    assert (step.vendor, step.fallback_used, step.attempts) == ("replayer", False, 1)
    assert len(puppet.calls(wedding.id, "reserve")) == 9
    assert all("waits for room among the calls to replayer" in summary for summary in await waits(stage, wedding))


async def test_many_steps_share_what_there_is_and_all_are_done(stage: Stage, puppet: Puppet) -> None:
    policy = QuotaPolicy(windows=(WindowLimit(window="second", limit=5),))
    async with stage.db.system() as conn:
        await quotas.put_policy(conn, ("replayer", "default"), policy, "key:test", utc_now())
    try:
        wedding = await stage.wedding(plan(*(booking(f"hall-{n}", "replayer") for n in range(15))))
        row = await wedding.until(await wedding.request_change(), "completed")
        assert row.gaps == []
        assert len(puppet.calls(wedding.id, "reserve")) == 15
        assert (row.ended_at - row.started_at).total_seconds() >= 2
    finally:
        async with stage.db.system() as conn:
            await quotas.put_policy(conn, ("replayer", "default"), QuotaPolicy(), "key:test", utc_now())
