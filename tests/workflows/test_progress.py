from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

import activities.weddings as activities_under_test
from tests.support.plans import booking, payment, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged
from wedsync.domain.errors import StoreUnavailable


async def until_undo(wedding: Staged, step_id: str, what: Any) -> Any:
    """The step's row once its undo is as `what` says."""
    await wedding.until_step(step_id, "succeeded", "failed", "skipped")
    for _ in range(1500):
        row = (await wedding.steps())[step_id]
        if row.compensation is not None and what(row.compensation):
            return row
        await asyncio.sleep(0.02)
    raise AssertionError(f"{step_id} stands at {row.compensation}")


async def told(wedding: Staged) -> list[Any]:
    """What watchers were told of the wedding, in order."""
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        rows = await conn.execute(
            text("SELECT type, data FROM wedding_events WHERE wedding_id = :id ORDER BY id"), {"id": wedding.id}
        )
        return list(rows)


async def test_a_rollback_is_seen_while_it_goes_on(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(
        plan(booking("first", "replayer"), booking("second", "replayer", needs=["first"]), payment(needs=["second"]))
    )
    await stage.sandbox.faults("stripe", mode="refuse", wedding_id=wedding.id)
    await stage.sandbox.faults("paypal", mode="refuse", wedding_id=wedding.id)
    puppet.will(wedding.id, "first.release", *(["down"] * 3))
    tx = await wedding.request_change()
    await wedding.until(tx, "rolling_back")
    row = await until_undo(wedding, "first", lambda undo: undo["status"] == "running" and undo["attempts"] > 1)
    assert "vendor_unavailable; tried again at" in row.compensation["detail"]
    # What is undone already and what failed are seen meanwhile, too.
    steps = await wedding.steps()
    assert (await wedding.transaction(tx)).status == "rolling_back"
    assert (steps["second"].compensation["status"], steps["deposit"].status) == ("undone", "failed")
    await wedding.until(tx, "rolled_back")
    final = (await wedding.steps())["first"].compensation
    assert (final["status"], final["attempts"]) == ("undone", 4)
    statuses = [row.data["status"] for row in await told(wedding) if row.type == "transaction"]
    assert statuses == ["running", "rolling_back", "rolled_back"]


async def test_a_step_that_is_held_is_seen_while_others_still_run(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("busy", "harmless"), booking("hall", "replayer", on_failure="hold")))
    puppet.will(wedding.id, "busy.reserve", *(["down"] * 3))
    puppet.will(wedding.id, "hall.reserve", "reject")
    tx = await wedding.request_change()
    held = await wedding.until_step("hall", "held")
    assert held.error["code"] == "date_taken"
    assert (await wedding.transaction(tx)).status == "running"
    await wedding.until(tx, "held")


async def test_a_step_that_is_tried_again_shows_how_often(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    puppet.will(wedding.id, "reserve", *(["down"] * 3))
    tx = await wedding.request_change()
    row = await wedding.until_step("hall", "running", "succeeded")
    while row.attempts < 3 and row.status == "running":
        await asyncio.sleep(0.02)
        row = (await wedding.steps())["hall"]
    assert (row.status, row.attempts >= 3) == ("running", True)
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["hall"].attempts == 4


async def test_an_undo_that_was_refused_is_asked_anew_and_not_answered_by_the_old_refusal(
    stage: Stage, puppet: Puppet
) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    puppet.will(wedding.id, "release", "reject")
    await wedding.until(await wedding.request_change("undo", target=tx), "needs_attention")
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    first, second = puppet.calls(wedding.id, "release")
    assert first.idempotency_key != second.idempotency_key


async def test_an_undo_that_found_its_vendor_down_goes_on_under_its_key(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    puppet.will(wedding.id, "release", "down", "unknown")
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert len({call.idempotency_key for call in puppet.calls(wedding.id, "release")}) == 1


async def test_an_undo_of_several_calls_is_one_attempt(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("shoot", "studio")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed", "waiting")
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    undo = (await wedding.steps())["shoot"].compensation
    assert (undo["attempts"], undo["detail"].count("deleted")) == (1, 2)


async def test_a_step_that_its_vendor_has_answered_is_seen_to_succeed_before_what_waited_for_it_ends(
    stage: Stage, puppet: Puppet
) -> None:
    wedding = await stage.wedding(plan(payment(), booking("after", "replayer", needs=["deposit"])))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    puppet.will(wedding.id, "after.reserve", *(["down"] * 3))
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until_step("deposit", "succeeded")
    assert (await wedding.steps())["after"].status in ("pending", "running")
    await wedding.until(tx, "completed")


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres fails whoever would show how a transaction stands."""

    async def fail(db: Any, wanted: Any) -> Any:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(activities_under_test, "show_progress", fail)


@pytest.mark.usefixtures("unseen")
async def test_a_step_is_tried_again_though_nobody_can_be_shown_it(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    puppet.will(wedding.id, "reserve", *(["down"] * 3))
    await wedding.until(await wedding.request_change(), "completed")
    assert list(await wedding.handle.query("ledger")) == ["hall"]


@pytest.mark.usefixtures("unseen")
async def test_a_rollback_goes_on_though_nobody_can_be_shown_it(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", needs=["venue", "food"], on_failure="rollback")
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer"), hall))
    puppet.will(wedding.id, "reserve", "reject")
    await wedding.until(await wedding.request_change(), "rolled_back")
    assert [entry["state"] for entry in await wedding.ledger()] == ["undone", "undone"]
