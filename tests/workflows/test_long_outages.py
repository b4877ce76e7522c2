from __future__ import annotations

from datetime import timedelta

from tests.support.plans import booking, event, plan
from tests.support.puppet import Puppet
from tests.support.stage import Staged
from tests.support.stages import SkippingStage


async def events_in(skipping: SkippingStage, wedding: Staged, duration: timedelta) -> int:
    """How long the workflow's history is after so much time."""
    handle = skipping.env.client.get_workflow_handle(wedding.handle.id)
    await skipping.env.fast_forward(handle, duration)
    return (await handle.describe()).history_length


async def test_an_undo_outlasts_hours_without_its_vendor(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "replayer"), booking("room", "replayer")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    puppet.will(wedding.id, "release", *["down"] * 500)
    undo = await wedding.request_change("undo", target=tx)
    await wedding.until(undo, "rolling_back")
    assert await events_in(skipping, wedding, timedelta(hours=8)) < 5_000
    puppet.answers[(wedding.id, "release")].clear()
    await skipping.until(wedding, undo, "rolled_back", step=timedelta(minutes=10))


async def test_looks_before_an_undo_outlast_hours_without_their_vendor(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(event(), event("second", starts="ceremony - 3h")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await skipping.stage.sandbox.faults("google_calendar", mode="down", wedding_id=wedding.id)
    undo = await wedding.request_change("undo", target=tx)
    await wedding.until(undo, "rolling_back")
    assert await events_in(skipping, wedding, timedelta(hours=8)) < 4_000
    await skipping.stage.sandbox.clear_faults("google_calendar")
    await skipping.until(wedding, undo, "rolled_back", step=timedelta(minutes=10))
