"""A wedding that is cancelled, or whose time is over, sees to what is still open before it ends."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import text

from tests.support.plans import CEREMONY, booking, email, event, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged
from tests.support.stages import SkippingStage

QUICK = {"compensation": {"deadline": "1s"}}


async def row_of(wedding: Staged) -> Any:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        return (await conn.execute(text("SELECT * FROM weddings WHERE id = :id"), {"id": wedding.id})).one()


async def result_of(wedding: Staged) -> Any:
    async with asyncio.timeout(20):
        return await wedding.handle.result()


async def cancel(wedding: Staged) -> str:
    return await wedding.request_change("undo", everything=True, cancel=True)


async def orchestrated(stage: Stage, *steps: dict[str, Any], **more: Any) -> tuple[Staged, str]:
    wedding = await stage.wedding(plan(*steps, **more))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await wedding.at_rest()
    return wedding, tx


async def test_a_cancelled_wedding_takes_a_persons_word_about_what_is_undone_by_hand(stage: Stage) -> None:
    wedding, tx = await orchestrated(stage, booking("venue"), booking("hall", "half-paper"))
    undo = await cancel(wedding)
    await wedding.until(undo, "needs_attention")
    await wedding.at_rest()
    row = await row_of(wedding)
    assert (row.status, row.ended_at) == ("closing", None)
    assert await wedding.handle.execute_update("repair") == 2
    for kind, more in (("orchestrate", {}), ("timeline", {"ceremony_at": CEREMONY})):
        late = await wedding.until(await wedding.request_change(kind, **more), "cancelled")
        assert late.error["code"] == "wedding_over"
    await wedding.say("hall", "hand.undone", source="link", object_id=None)
    assert await result_of(wedding) == "cancelled"
    row = await row_of(wedding)
    assert (row.status, row.ended_at is not None) == ("cancelled", True)
    assert (await wedding.steps())["hall"].compensation["status"] == "undone"
    assert (await wedding.transaction(tx)).status == "cancelled"


async def test_a_cancellation_asked_for_again_undoes_what_its_vendor_would_not_let_go(stage: Stage) -> None:
    wedding, _ = await orchestrated(stage, booking("venue"), booking("food", "caterer", **QUICK))
    await stage.sandbox.faults("generic", mode="down", operation="caterer.cancel", wedding_id=wedding.id)
    first = await cancel(wedding)
    await wedding.until(first, "needs_attention")
    await stage.sandbox.clear_faults("generic")
    assert (await wedding.until(await cancel(wedding), "rolled_back")).kind == "undo"
    assert await result_of(wedding) == "cancelled"
    assert {entry["state"] for entry in await wedding.ledger()} == {"undone"}
    assert {row.status for row in await wedding.transactions()} == {"cancelled", "rolled_back"}


async def test_a_closing_wedding_begins_nothing_that_its_agenda_holds(stage: Stage) -> None:
    wedding, _ = await orchestrated(stage, booking("hall", "half-paper"), event(needs=["hall"], at="ceremony - 20d"))
    await wedding.until(await cancel(wedding), "needs_attention")
    await wedding.at_rest()
    assert (await wedding.steps())["event"].status == "skipped"
    assert await wedding.handle.query("agenda") == []


async def test_what_was_found_absent_is_looked_at_again_although_the_wedding_is_cancelled(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "finder", timeout="1h")))
    puppet.will(wedding.id, "hall.reserve", "unknown")
    puppet.will(wedding.id, "find", *["absent"] * 40)
    tx = await wedding.request_change()
    await wedding.until_step("hall", "running")
    undo = await cancel(wedding)
    await skipping.until(wedding, tx, "cancelled")
    await skipping.forward(wedding, timedelta(minutes=5))
    await wedding.until(undo, "rolled_back")
    await wedding.at_rest()
    assert (await row_of(wedding)).status == "closing"
    looks = len(puppet.said(wedding.id))
    await skipping.forward(wedding, timedelta(minutes=90))
    await wedding.until_said(puppet, looks + 1)
    assert (await row_of(wedding)).status == "closing"
    puppet.answers[(wedding.id, "find")].clear()
    puppet.effects.update(call.idempotency_key for call in puppet.calls(wedding.id, "reserve"))
    await skipping.forward(wedding, timedelta(hours=25))
    assert await result_of(wedding) == "cancelled"
    assert puppet.said(wedding.id)[-2:] == ["find reserve", "send release"]
    assert (await row_of(wedding)).status == "cancelled"


async def test_a_wedding_past_its_end_waits_for_a_decision_but_not_for_ever(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    zone = ZoneInfo("Europe/Rome")
    ceremony = (datetime.now(zone) + timedelta(days=3)).replace(hour=12, minute=0, second=0, microsecond=0)
    wedding = await skipping.wedding(
        plan(
            booking("hall", "replayer", on_failure="hold", decide_within="20d"),
            email("thanks", at="ceremony + 3d"),
            ceremony=ceremony.strftime("%Y-%m-%dT%H:%M"),
            ends_after="2d",
        )
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    ends_at = ceremony + timedelta(days=2)
    await skipping.forward(wedding, ends_at - await skipping.now(wedding.handle) + timedelta(hours=1))
    assert (await row_of(wedding)).status == "closing"
    await skipping.forward(wedding, timedelta(days=3))
    assert (await wedding.steps())["thanks"].status == "scheduled"
    await skipping.end(wedding)
    assert await wedding.handle.result() == "ended"
    ended = await skipping.now(wedding.handle)
    assert timedelta(days=60) <= ended - ends_at < timedelta(days=61)
    assert (await row_of(wedding)).status == "ended"


async def test_what_waits_behind_a_cancellation_is_refused_and_does_not_run_for_ever(stage: Stage) -> None:
    wedding, tx = await orchestrated(stage, booking("venue"), booking("food", "caterer"))
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.cancel", delay_ms=800, wedding_id=wedding.id)
    undo = await cancel(wedding)
    late = await wedding.request_change("undo", target=tx)
    await wedding.until(undo, "rolled_back")
    assert (await wedding.until(late, "cancelled")).error["code"] == "wedding_over"
