from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from tests.support.plans import CEREMONY, booking, email, event, payment, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged
from wedsync.dispatch.weddings import dispatch, redispatch_transactions
from wedsync.domain.weddings.messages import TransactionRequest
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id

LATER = (datetime.fromisoformat(CEREMONY) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M")


async def completed(stage: Stage, *steps: dict[str, Any], **more: Any) -> tuple[Staged, str]:
    wedding = await stage.wedding(plan(*steps, **more))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await wedding.at_rest()
    return wedding, tx


async def starts(wedding: Staged) -> dict[str, str]:
    """Where each object stands at its vendor, by step."""
    return {entry["step_id"]: entry["state"] for entry in await wedding.ledger()}


async def operations(stage: Stage, wedding: Staged, vendor: str) -> list[str]:
    requests = await stage.sandbox.requests(vendor)
    return [r["operation"] for r in requests if r["wedding_id"] == wedding.id]


# -- undo, cancel, everything


async def test_a_settled_transaction_is_undone_by_its_id(stage: Stage) -> None:
    wedding, tx = await completed(stage, booking("venue"), event(needs=["venue"]))
    undo = await wedding.request_change("undo", target=tx)
    await wedding.until(undo, "rolled_back")
    await wedding.until(tx, "rolled_back")
    assert await starts(wedding) == {"venue": "undone", "event": "undone"}
    assert {step.compensation["status"] for step in (await wedding.steps()).values()} == {"undone"}


async def test_an_undo_of_what_was_undone_says_so_and_touches_nothing(stage: Stage) -> None:
    wedding, tx = await completed(stage, booking("venue"))
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    await wedding.until(tx, "rolled_back")
    before = await operations(stage, wedding, "generic")
    again = await wedding.request_change("undo", target=tx)
    row = await wedding.until(again, "cancelled", "rolled_back")
    assert await operations(stage, wedding, "generic") == before
    assert (row.error or {}).get("code", "already_undone") == "already_undone"


async def test_an_undone_wedding_can_be_orchestrated_again_under_new_keys(stage: Stage) -> None:
    wedding, tx = await completed(stage, booking("venue"))
    refused = await wedding.request_change()
    assert (await wedding.until(refused, "cancelled")).error["code"] == "already_orchestrated"
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    await wedding.until(tx, "rolled_back")
    again = await wedding.request_change()
    await wedding.until(again, "completed")
    assert sorted(e["state"] for e in await wedding.ledger()) == ["active", "undone"]
    assert len({e["idempotency_key"] for e in await wedding.ledger()}) == 2


async def test_undoing_a_running_transaction_stops_it_and_undoes_what_was_done(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(booking("venue"), booking("food", "caterer", needs=["venue"]), email(needs=["food"]))
    )
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.request", delay_ms=700, wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until_step("venue", "succeeded")
    undo = await wedding.request_change("undo", target=tx)
    await wedding.until(tx, "rolled_back")
    assert (await wedding.until(undo, "rolled_back")).kind == "undo"
    assert set((await starts(wedding)).values()) == {"undone"}
    assert await operations(stage, wedding, "resend") == []
    assert (await operations(stage, wedding, "generic")).count("confirm") == 1


async def answered(stage: Stage, *more: dict[str, Any]) -> tuple[Staged, str]:
    """A wedding whose caterer is being booked, now that its deposit was paid; and the transaction that does so."""
    food = booking("food", "caterer", needs=["deposit"])
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"]), food, *more))
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.request", delay_ms=700, wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until_step("food", "running")
    return wedding, (await wedding.transactions("scheduled"))[0].id


async def test_undoing_what_runs_leaves_what_earlier_transactions_had_set(stage: Stage) -> None:
    wedding, running = await answered(stage)
    await wedding.until(await wedding.request_change("undo", target=running), "rolled_back")
    await wedding.at_rest()
    held = {entry["step_id"]: entry["state"] for entry in await wedding.ledger()}
    assert held == {"venue": "active", "deposit": "active", "food": "undone"}
    steps = await wedding.steps()
    assert {i: step.status for i, step in steps.items()} == {
        "venue": "succeeded",
        "deposit": "succeeded",
        "food": "failed",
    }
    assert (steps["deposit"].compensation, set(await wedding.handle.query("ledger"))) == (None, {"venue", "deposit"})


async def test_cancelling_everything_undoes_what_was_answered_meanwhile(stage: Stage) -> None:
    wedding, _ = await answered(stage)
    await wedding.until(await wedding.request_change("undo", everything=True, cancel=True), "rolled_back", "cancelled")
    assert {entry["state"] for entry in await wedding.ledger()} == {"undone"}


async def test_undoing_what_goes_on_with_an_answered_step_leaves_it_to_a_person(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach")))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "finish", *["down"] * 6)
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.say("hall", "booking.confirmed")
    await wedding.until_step("hall", "running")
    running = (await wedding.transactions("scheduled"))[0].id
    await wedding.until(await wedding.request_change("undo", target=running), "rolled_back")
    assert (await wedding.until_step("hall", "held")).error["code"] == "outcome_unknown"
    puppet.answers[(wedding.id, "finish")].clear()
    await wedding.decide("hall", "retry")
    await wedding.until_step("hall", "succeeded")
    assert "send release" not in puppet.said(wedding.id)


async def test_an_answer_that_was_not_gone_on_with_is_not_waited_for_again(stage: Stage, puppet: Puppet) -> None:
    steps = [booking(name, "slowcoach") for name in ("hall", "garden")]
    wedding = await stage.wedding(plan(*steps, booking("busy", "harmless"), parallelism=1))
    puppet.will(wedding.id, "hall.reserve", "waiting")
    puppet.will(wedding.id, "garden.reserve", "waiting")
    puppet.will(wedding.id, "busy.reserve", "down", "down")
    puppet.will(wedding.id, "finish", *["down"] * 6)
    tx = await wedding.request_change()
    for step_id in ("hall", "garden"):
        await wedding.say(step_id, "booking.confirmed", source="slowcoach", object_id=None)
    await wedding.until(tx, "waiting")
    await wedding.until_step("hall", "running")
    running = (await wedding.transactions("scheduled"))[0].id
    await wedding.until(await wedding.request_change("undo", target=running), "rolled_back")
    assert {(await wedding.until_step(i, "held")).error["code"] for i in ("hall", "garden")} == {"outcome_unknown"}


async def test_a_cancelled_transaction_ends_as_cancelled(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"])))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.until(await wedding.request_change("undo", target=tx, cancel=True), "rolled_back")
    await wedding.until(tx, "cancelled")
    assert set((await starts(wedding)).values()) == {"undone"}


async def test_cancelling_everything_ends_the_wedding_and_later_requests_are_refused(stage: Stage) -> None:
    wedding, tx = await completed(stage, booking("venue"), event(at="ceremony - 30d"))
    await wedding.until(await wedding.request_change("undo", everything=True, cancel=True), "rolled_back")
    assert await wedding.handle.result() == "cancelled"
    await wedding.until(tx, "cancelled")
    async with stage.db.tenant(wedding.organization_id) as conn:
        row = (await conn.execute(text("SELECT * FROM weddings WHERE id = :id"), {"id": wedding.id})).one()
    assert (row.status, row.ended_at is not None) == ("cancelled", True)
    assert {s.status for s in (await wedding.steps()).values()} <= {"succeeded", "skipped"}
    late = await wedding.request_change("undo", target=tx)
    assert (await wedding.until(late, "cancelled")).error["code"] == "wedding_over"


async def test_cancelling_everything_stops_what_runs_and_undoes_it(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(booking("venue"), booking("food", "caterer", needs=["venue"]), email(needs=["food"]))
    )
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.request", delay_ms=700, wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until_step("venue", "succeeded")
    undo = await wedding.request_change("undo", everything=True, cancel=True)
    await wedding.until(tx, "cancelled")
    await wedding.until(undo, "rolled_back")
    async with asyncio.timeout(20):
        assert await wedding.handle.result() == "cancelled"
    assert set((await starts(wedding)).values()) == {"undone"}
    assert await operations(stage, wedding, "resend") == []


# -- timeline


async def test_a_new_time_moves_bookings_and_events_at_their_vendors(stage: Stage) -> None:
    wedding, _ = await completed(
        stage, booking("venue"), booking("photos", "studio"), event(needs=["venue"]), email(at="ceremony - 20d")
    )
    await wedding.until_step("photos", "succeeded", "waiting")
    due = (await wedding.steps())["email"].due_at
    tx = await wedding.request_change("timeline", ceremony_at=LATER)
    row = await wedding.until(tx, "completed", "rolled_back", "needs_attention")
    assert (row.status, row.error) == ("completed", None)
    await wedding.at_rest()
    assert (await operations(stage, wedding, "generic"))[-1] == "change"
    assert (await operations(stage, wedding, "google_calendar"))[-1] == "update_event"
    assert (await wedding.steps())["email"].due_at == due + timedelta(days=7)
    ledger = await wedding.handle.query("ledger")
    assert {e["fields"]["inputs"]["set_by_tx"] for e in ledger.values()} == {tx}


async def test_a_vendor_that_refuses_the_new_time_has_all_put_back(stage: Stage) -> None:
    fixed = booking("fixed", "florist", inputs={"starts": CEREMONY})
    wedding, _ = await completed(
        stage,
        booking("venue"),
        booking("food", "exclusive-cook"),
        fixed,
        event(at="ceremony - 20d"),
        services={"exclusive-cook": {"role": "catering", "vendor": "generic"}},
    )
    await completed(
        stage,
        booking("food", "exclusive-cook"),
        ceremony=LATER,
        services={"exclusive-cook": {"role": "catering", "vendor": "generic"}},
    )
    due = (await wedding.steps())["event"].due_at
    tx = await wedding.request_change("timeline", ceremony_at=LATER)
    row = await wedding.until(tx, "rolled_back", "completed", "needs_attention")
    assert (row.status, row.error["code"]) == ("rolled_back", "date_taken")
    await wedding.at_rest()
    assert set((await starts(wedding)).values()) == {"active"}
    steps = await wedding.steps()
    assert {steps[i].status for i in ("venue", "food", "fixed")} == {"succeeded"}
    assert steps["event"].due_at == due
    again = await wedding.request_change(
        "timeline", ceremony_at=(datetime.fromisoformat(CEREMONY) + timedelta(days=21)).strftime("%Y-%m-%dT%H:%M")
    )
    assert (await wedding.until(again, "completed", "rolled_back")).status == "completed"
    await wedding.at_rest()
    assert (await wedding.steps())["event"].due_at == due + timedelta(days=21)
    async with stage.db.tenant(wedding.organization_id) as conn:
        versions = list(
            await conn.scalars(text("SELECT version FROM plans WHERE wedding_id = :id ORDER BY 1"), {"id": wedding.id})
        )
    assert versions == [1, 2, 3]


async def test_a_vendor_that_cannot_change_leaves_all_as_it_was(stage: Stage, puppet: Puppet) -> None:
    wedding, _ = await completed(stage, booking("venue"), booking("hall", "finder", on_failure="continue"))
    row = await wedding.until(await wedding.request_change("timeline", ceremony_at=LATER), "rolled_back", "completed")
    assert (row.status, row.error["code"]) == ("rolled_back", "cannot_change")
    assert puppet.said(wedding.id) == ["send reserve"]
    assert set((await starts(wedding)).values()) == {"active"}
    assert {s.status for s in (await wedding.steps()).values()} == {"succeeded"}


async def test_what_cannot_be_put_back_is_reported(stage: Stage, puppet: Puppet) -> None:
    wedding, _ = await completed(
        stage, booking("hall", "replayer"), booking("room", "finder", needs=["hall"]), booking("venue")
    )
    puppet.will(wedding.id, "move", "ok", "reject")
    row = await wedding.until(
        await wedding.request_change("timeline", ceremony_at=LATER), "rolled_back", "needs_attention"
    )
    assert row.status == "needs_attention"
    steps = await wedding.steps()
    assert steps["hall"].compensation["status"] == "needs_attention"


async def test_a_change_of_time_waits_for_no_open_step(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"])))
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.at_rest()
    row = await wedding.until(await wedding.request_change("timeline", ceremony_at=LATER), "cancelled")
    assert (row.error["code"], "deposit" in row.error["detail"]) == ("steps_open", True)


async def test_a_time_that_the_clock_skips_is_refused(stage: Stage) -> None:
    wedding, _ = await completed(stage, booking("venue", inputs={"starts": CEREMONY}))
    year = datetime.now(ZoneInfo("Europe/Rome")).year + 1
    march = max(day for day in range(25, 32) if datetime(year, 3, day).weekday() == 6)  # noqa: DTZ001
    tx = await wedding.request_change("timeline", ceremony_at=f"{year}-03-{march}T02:30")
    assert (await wedding.until(tx, "cancelled")).error["code"] == "nonexistent_time"


async def test_undoing_a_change_of_time_moves_all_back(stage: Stage) -> None:
    wedding, first = await completed(stage, booking("venue"), event(at="ceremony - 20d"))
    due = (await wedding.steps())["event"].due_at
    moved = await wedding.request_change("timeline", ceremony_at=LATER)
    await wedding.until(moved, "completed")
    undo = await wedding.request_change("undo", target=moved)
    await wedding.until(undo, "completed", "rolled_back")
    await wedding.until(moved, "rolled_back")
    await wedding.at_rest()
    assert (await wedding.steps())["event"].due_at == due
    assert set((await starts(wedding)).values()) == {"active"}
    assert (await wedding.transaction(first)).status == "completed"


async def test_a_change_that_was_superseded_cannot_be_undone(stage: Stage) -> None:
    wedding, _ = await completed(stage, booking("venue"))
    first = await wedding.request_change("timeline", ceremony_at=LATER)
    await wedding.until(first, "completed")
    latest = (datetime.fromisoformat(CEREMONY) + timedelta(days=14)).strftime("%Y-%m-%dT%H:%M")
    second = await wedding.request_change("timeline", ceremony_at=latest)
    await wedding.until(second, "completed")
    row = await wedding.until(await wedding.request_change("undo", target=first), "cancelled")
    assert (row.error["code"], second in row.error["detail"]) == ("superseded", True)


async def test_a_move_stands_again_once_the_one_after_it_is_undone(stage: Stage) -> None:
    wedding, first = await completed(stage, booking("venue"))
    latest = (datetime.fromisoformat(CEREMONY) + timedelta(days=14)).strftime("%Y-%m-%dT%H:%M")
    moves = []
    for at in (LATER, latest):
        moves.append(await wedding.request_change("timeline", ceremony_at=at))
        await wedding.until(moves[-1], "completed")
    for move in reversed(moves):
        row = await wedding.until(await wedding.request_change("undo", target=move), "completed", "cancelled")
        assert (row.status, row.error) == ("completed", None)
        await wedding.until(move, "rolled_back")
    await wedding.at_rest()
    async with stage.db.tenant(wedding.organization_id) as conn:
        local = await conn.scalar(text("SELECT ceremony_local FROM weddings WHERE id = :id"), {"id": wedding.id})
    assert local == CEREMONY
    undo = await wedding.request_change("undo", target=first)
    assert (await wedding.until(undo, "rolled_back")).result["superseded"] == ["venue.inputs"]


# -- telling


async def test_a_repeated_request_answers_the_same_and_runs_once(stage: Stage) -> None:
    wedding, tx = await completed(stage, booking("venue"))
    again = TransactionRequest(id=tx, kind="orchestrate", seq=1)
    assert await wedding.handle.execute_update("submit", again, id=new_id(), result_type=str) == tx
    await wedding.at_rest()
    assert len(await wedding.ledger()) == 1


async def test_requests_that_come_while_a_transaction_runs_take_their_turn(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer")))
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.request", delay_ms=800, wedding_id=wedding.id)
    tx = await wedding.request_change()
    moved = await wedding.request_change("timeline", ceremony_at=LATER)
    second = await wedding.request_change()
    assert (await wedding.until(moved, "completed", "cancelled")).status == "completed"
    assert (await wedding.until(second, "cancelled")).error["code"] == "already_orchestrated"
    assert (await wedding.transaction(tx)).status == "completed"


@pytest.mark.parametrize("kind", ["detail", "amendment"])
async def test_a_kind_that_nobody_can_ask_for_is_refused(stage: Stage, kind: str) -> None:
    wedding, _ = await completed(stage, booking("venue"))
    assert (await wedding.until(await wedding.request_change(kind), "cancelled")).error["code"] == "unknown_kind"


async def test_the_sweep_hands_over_what_nobody_told(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue")))
    tx = await wedding.request_change(undispatched=True)
    # Other tests of this database may have left some of theirs, which are handed over, too.
    await redispatch_transactions(stage.db, stage.client, utc_now())
    assert (await wedding.transaction(tx)).handed_off_at is None
    handed_over, failed = await redispatch_transactions(stage.db, stage.client, utc_now() + timedelta(seconds=11))
    assert (handed_over >= 1, failed) == (True, 0)
    await wedding.until(tx, "completed")
    assert (await wedding.transaction(tx)).handed_off_at is not None
    assert await dispatch(stage.db, stage.client, tx)
