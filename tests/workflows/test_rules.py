from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType

from tests.support.plans import booking, email, event, payment, plan, sms
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged

QUICK = {"compensation": {"deadline": "1s"}}


async def log(stage: Stage, wedding: Staged, *vendors: str) -> list[tuple[str, str]]:
    """`(step, operation)` of each request to these vendors; in order for one vendor."""
    found = []
    for vendor in vendors:
        for request in await stage.sandbox.requests(vendor):
            if request["wedding_id"] == wedding.id:
                found.append((request["step_id"], request["operation"]))
    return found


async def compensations(wedding: Staged) -> dict[str, str]:
    return {i: row.compensation["status"] for i, row in (await wedding.steps()).items() if row.compensation}


async def states(wedding: Staged) -> dict[str, str]:
    return {entry["step_id"]: entry["state"] for entry in await wedding.ledger()}


async def activities(wedding: Staged, tx: str) -> list[str]:
    history = await wedding.handle.fetch_history()
    scheduled = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    return [
        e.activity_task_scheduled_event_attributes.activity_type.name
        for e in history.events
        if e.event_type == scheduled
    ]


# -- forward


async def test_a_typical_wedding_completes_after_the_payments_event(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"]), event(needs=["venue"]), email()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    steps = await wedding.steps()
    assert {i: row.status for i, row in steps.items()} == {
        "venue": "succeeded",
        "deposit": "waiting",
        "event": "succeeded",
        "email": "pending",
    }
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
    assert set((await states(wedding)).values()) == {"active"}
    assert {row.status for row in (await wedding.steps()).values()} == {"succeeded"}


async def test_a_wait_for_a_vendors_word_asks_nobody(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.at_rest()
    length = (await wedding.handle.describe()).history_length
    calls = await activities(wedding, tx)
    waiting = await wedding.handle.query("waiting")
    assert [(w["step_id"], w["what"]) for w in waiting] == [("deposit", "payment.succeeded")]
    assert calls == ["vendor.call", "vendor.call"]
    assert (await wedding.handle.describe()).history_length == length


async def test_steps_run_as_wide_as_their_needs_allow(stage: Stage) -> None:
    names = [f"b{n}" for n in range(6)]
    wedding = await stage.wedding(
        plan(*(booking(n, "florist") for n in names), booking("last", "caterer", needs=names))
    )
    await stage.sandbox.faults("generic", mode="slow", operation="request", delay_ms=300, wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    rows = await wedding.steps()
    assert max(rows[n].started_at for n in names) < min(rows[n].ended_at for n in names)
    assert rows["last"].started_at >= max(rows[n].ended_at for n in names)


@pytest.mark.parametrize("most", [1, 2])
async def test_no_more_steps_run_at_once_than_the_plan_allows(stage: Stage, most: int) -> None:
    names = [f"b{n}" for n in range(5)]
    wedding = await stage.wedding(plan(*(booking(n, "florist") for n in names), parallelism=most))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    history = await wedding.handle.fetch_history()
    running = widest = 0
    for happened in history.events:
        if happened.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            running += 1
        elif happened.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            running -= 1
        widest = max(widest, running)
    assert widest == most


async def test_an_early_event_is_kept_until_its_step_waits(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"])))
    await stage.sandbox.faults("generic", mode="slow", operation="request", delay_ms=500, wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.say("deposit", "payment.succeeded", source="stripe", object_id=None)
    await wedding.until(tx, "completed")


async def test_a_known_event_is_dropped_and_one_of_another_object_is_ignored(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment("first"), payment("second", "10.00")))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("first", "payment.succeeded", object_id="pi_of_somebody_else")
    await wedding.at_rest()
    assert (await wedding.steps())["first"].status == "waiting"
    for _ in range(3):
        await wedding.say("first", "payment.succeeded", event_id="evt_same")
    await wedding.until_step("first", "succeeded")
    await wedding.at_rest()
    assert (await wedding.transaction(tx)).status == "waiting"
    assert len(await wedding.transactions("scheduled")) == 1
    await wedding.say("second", "payment.succeeded")
    await wedding.until(tx, "completed")


async def test_a_vendors_refusal_by_event_is_looked_at_and_goes_to_the_fallback(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    # The word and the vendor's own books disagree: the books count.
    await wedding.say("deposit", "payment.failed")
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["deposit"].vendor == "stripe"


async def test_messages_wait_for_critical_steps_unless_they_are_early(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), email("booked"), email("soon", early=True)))
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "rolled_back")
    assert {step for step, _ in await log(stage, wedding, "resend")} <= {"soon"}
    steps = await wedding.steps()
    assert (steps["booked"].status, steps["booked"].attempts) == ("skipped", 0)


async def test_a_failed_optional_step_leaves_a_gap_and_fails_what_needs_it(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer"), event(needs=["food"])))
    await stage.sandbox.faults("generic", mode="refuse", operation="caterer.request", wedding_id=wedding.id)
    tx = await wedding.request_change()
    row = await wedding.until(tx, "completed")
    assert row.gaps == ["event", "food"]
    assert (await wedding.steps())["event"].error["code"] == "needs_failed"


# -- rollback


async def test_a_rollback_undoes_in_reverse_order_of_need(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(
            booking("a", "florist"),
            booking("b", "florist", needs=["a"]),
            booking("c", "florist", needs=["b"]),
            booking("d", "florist", needs=["a"]),
            booking("last", "villa", needs=["c", "d"]),
        )
    )
    await stage.sandbox.faults("generic", mode="refuse", operation="villa.request", wedding_id=wedding.id)
    tx = await wedding.request_change()
    row = await wedding.until(tx, "rolled_back")
    assert row.error["code"] == "unavailable"
    undone = [step for step, operation in await log(stage, wedding, "generic") if operation == "cancel"]
    assert sorted(undone) == ["a", "b", "c", "d"]
    assert undone.index("c") < undone.index("b") < undone.index("a")
    assert undone.index("d") < undone.index("a")
    assert await compensations(wedding) == dict.fromkeys("abcd", "undone")
    assert set((await states(wedding)).values()) == {"undone"}


async def test_an_undo_past_its_deadline_is_parked_and_stops_nothing_else(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(
            booking("a", "florist"),
            booking("b", "caterer", needs=["a"], **QUICK),
            booking("last", "villa", needs=["b"]),
        )
    )
    await stage.sandbox.faults("generic", mode="refuse", operation="villa.request", wedding_id=wedding.id)
    await stage.sandbox.faults("generic", mode="down", operation="caterer.cancel", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "needs_attention")
    assert await compensations(wedding) == {"a": "undone", "b": "needs_attention"}
    assert await states(wedding) == {"a": "undone", "b": "active"}
    cancels = [step for step, operation in await log(stage, wedding, "generic") if operation == "cancel"]
    assert cancels[-1] == "a"
    # Once the vendor is back, undoing the transaction again finishes what was left.
    await stage.sandbox.clear_faults("generic")
    undo = await wedding.request_change("undo", target=(await wedding.transactions())[0].id)
    await wedding.until(undo, "rolled_back")
    assert set((await states(wedding)).values()) == {"undone"}


async def test_a_message_is_undone_by_the_plans_words_or_not_at_all(stage: Stage) -> None:
    text = "About ${wedding.date}: the booking was undone."
    wedding = await stage.wedding(
        plan(
            email("told", early=True, compensation={"text": text}),
            email("untold", early=True),
            booking("venue", needs=["told", "untold"]),
        )
    )
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "rolled_back")
    assert await compensations(wedding) == {"told": "undone", "untold": "nothing_to_undo"}
    bodies = [
        base64.b64decode(r["body_base64"]).decode()
        for r in await stage.sandbox.requests("resend")
        if r["wedding_id"] == wedding.id
    ]
    assert len(bodies) == 3
    assert "the booking was undone" in bodies[-1]


async def test_what_the_plan_leaves_to_people_is_left_to_people(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(
        plan(
            booking("kept", "florist", compensation={"by": "none"}),
            booking("hand", "florist", compensation={"by": "hand"}),
            booking("half", "half-paper"),
            booking("venue", needs=["kept", "hand", "half"]),
        )
    )
    await stage.sandbox.faults("generic", mode="refuse", operation="villa.request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "needs_attention")
    assert await compensations(wedding) == {
        "kept": "nothing_to_undo",
        "hand": "needs_attention",
        "half": "needs_attention",
    }
    assert "http" in (await wedding.steps())["half"].compensation["detail"]
    for step in ("hand", "half"):
        await wedding.say(step, "hand.undone")
    await wedding.until((await wedding.transactions())[0].id, "rolled_back")
    assert set((await compensations(wedding)).values()) == {"nothing_to_undo", "undone"}


async def test_a_cancellation_from_outside_is_a_wish_to_undo(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer", needs=["venue"])))
    await stage.sandbox.faults("generic", mode="slow", operation="caterer.request", delay_ms=600, wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until_step("food", "running")
    await wedding.handle.cancel()
    await wedding.until(tx, "rolled_back", "cancelled")
    assert set((await states(wedding)).values()) == {"undone"}


# -- unknown outcomes and fallbacks


async def test_find_adopts_the_effect_of_a_dropped_call(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), event(needs=["venue"])))
    drop = {"mode": "commit_then_drop", "times": 1, "wedding_id": wedding.id}
    await stage.sandbox.faults("generic", operation="request", **drop)
    await stage.sandbox.faults("google_calendar", operation="insert_event", **drop)
    await wedding.until(await wedding.request_change(), "completed")
    assert sorted((e["step_id"], e["state"]) for e in await wedding.ledger()) == [
        ("event", "active"),
        ("venue", "active"),
    ]
    asked = await log(stage, wedding, "generic")
    assert asked.count(("venue", "request")) == 1
    assert ("venue", "find") in asked


async def test_replay_repeats_with_the_same_key_and_the_same_body(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    for operation in ("create_intent", "confirm_intent"):
        await stage.sandbox.faults(
            "stripe", mode="commit_then_drop", times=2, operation=operation, wedding_id=wedding.id
        )
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    for operation in ("create_intent", "confirm_intent"):
        sent = [r for r in await stage.sandbox.requests("stripe", operation) if r["wedding_id"] == wedding.id]
        assert len(sent) == 3
        assert len({(r["headers"]["idempotency-key"], r["body_base64"], r["url"]) for r in sent}) == 1
    charged = [e for e in await wedding.ledger() if e["state"] == "active"]
    assert len({e["object_id"] for e in charged}) == 1


async def test_an_unsafe_call_with_an_unknown_outcome_becomes_a_hold(stage: Stage) -> None:
    wedding = await stage.wedding(plan(email("mail", "post", fallbacks=["resend"])))
    await stage.sandbox.faults("sendgrid", mode="commit_then_drop", wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    step = (await wedding.steps())["mail"]
    assert (step.status, step.error["code"]) == ("held", "outcome_unknown")
    assert len(await log(stage, wedding, "sendgrid")) == 1
    assert await log(stage, wedding, "resend") == []
    await wedding.at_rest()
    refused = await wedding.decide("mail", "use", "resend")
    assert (await wedding.until(refused, "cancelled")).error["code"] == "outcome_unknown"
    await wedding.until(await wedding.decide("mail", "rollback"), "needs_attention", "rolled_back")
    assert (await compensations(wedding))["mail"] == "needs_attention"


@pytest.mark.parametrize(
    ("delivery", "sent", "status"), [("at_most_once", 1, "failed"), ("may_repeat", 2, "succeeded")]
)
async def test_a_plan_may_choose_what_an_unknown_message_becomes(
    stage: Stage, delivery: str, sent: int, status: str
) -> None:
    wedding = await stage.wedding(plan(email("mail", "post", delivery=delivery)))
    await stage.sandbox.faults("sendgrid", mode="commit_then_drop", times=1, wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "completed")
    assert (await wedding.steps())["mail"].status == status
    assert len([e for e in await wedding.ledger() if e["step_id"] == "mail"]) == sent


async def test_a_vendor_that_refuses_is_followed_by_its_fallback_and_lets_go_first(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    await stage.sandbox.faults("stripe", mode="refuse", operation="confirm_intent", wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting", "completed")
    step = (await wedding.steps())["deposit"]
    assert (step.vendor, step.fallback_used) == ("paypal", True)
    money = [(e["vendor"], e["state"]) for e in await wedding.ledger() if e["amount_minor"]]
    assert [vendor for vendor, state in money if state == "active"] == ["paypal"]
    assert ("deposit", "release_payment") in await log(stage, wedding, "stripe")


async def test_a_vendor_that_is_down_is_left_after_four_tries(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment()))
    await stage.sandbox.faults("stripe", mode="down", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "waiting", "completed")
    assert (await wedding.steps())["deposit"].vendor == "paypal"
    assert len(await log(stage, wedding, "stripe")) == 4


async def test_no_other_vendor_is_asked_while_a_payment_may_have_been_taken(stage: Stage) -> None:
    wedding = await stage.wedding(plan(payment(timeout="3s", on_failure="hold")))
    await stage.sandbox.faults("stripe", mode="commit_then_drop", operation="confirm_intent", wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    assert (await wedding.steps())["deposit"].error["code"] == "outcome_unknown"
    assert await log(stage, wedding, "paypal") == []
    await stage.sandbox.clear_faults("stripe")
    await wedding.at_rest()
    await wedding.decide("deposit", "retry")
    await wedding.until_step("deposit", "waiting")
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
    keys = {
        r["headers"]["idempotency-key"]
        for r in await stage.sandbox.requests("stripe", "confirm_intent")
        if r["wedding_id"] == wedding.id
    }
    assert len(keys) == 1


async def test_a_busy_vendor_is_asked_again_when_it_said(stage: Stage) -> None:
    wedding = await stage.wedding(plan(sms()))
    await stage.sandbox.faults("twilio", mode="throttle", times=2, retry_after_seconds=1, wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "completed")
    assert len(await log(stage, wedding, "twilio")) >= 3
    assert len([e for e in await wedding.ledger() if e["state"] == "active"]) == 1


# -- the puppet's odd answers


async def held_or_done(wedding: Staged) -> Any:
    return await wedding.until(await wedding.request_change())


@pytest.mark.parametrize("answer", ["unauthorized", "reject"])
async def test_a_definite_failure_is_final(stage: Stage, puppet: Puppet, answer: Any) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    puppet.will(wedding.id, "reserve", answer)
    assert (await held_or_done(wedding)).gaps == ["hall"]
    assert puppet.said(wedding.id) == ["send reserve"]


async def test_a_fault_of_our_own_code_counts_as_unknown(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer", fallbacks=["finder"])))
    puppet.will(wedding.id, "reserve", "bug")
    assert (await held_or_done(wedding)).status == "held"
    assert puppet.said(wedding.id) == ["send reserve"]


async def test_a_harmless_call_that_got_lost_allows_a_fallback(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "harmless", fallbacks=["replayer"])))
    puppet.will(wedding.id, "reserve", *["unknown"] * 4)
    assert (await held_or_done(wedding)).status == "completed"
    assert (await wedding.steps())["hall"].vendor == "replayer"


async def test_an_object_that_is_not_there_after_all_is_a_refusal(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    puppet.will(wedding.id, "reserve", "absent")
    assert (await held_or_done(wedding)).gaps == ["hall"]


async def test_an_undo_that_finds_nothing_says_so(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer"), booking("venue", needs=["hall"])))
    puppet.will(wedding.id, "release", "absent")
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    assert (await held_or_done(wedding)).status == "rolled_back"
    assert await compensations(wedding) == {"hall": "nothing_to_undo"}


async def test_an_undo_of_a_lost_call_replays_it_first_and_a_vendor_that_is_down_is_no_answer(
    stage: Stage, puppet: Puppet
) -> None:
    """The call was under way when the transaction stopped; its own key tells what became of it."""
    wedding = await stage.wedding(plan(booking("hall", "replayer"), booking("venue")))
    puppet.will(wedding.id, "reserve", "lost", "down", "ok")
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "rolled_back", "needs_attention")
    assert await compensations(wedding) == {"hall": "undone"}
    assert puppet.said(wedding.id) == ["send reserve", "send reserve", "send reserve", "send release"]
    assert len({call.idempotency_key for call in puppet.calls(wedding.id, "reserve")}) == 1


async def test_an_undo_of_a_lost_call_that_was_refused_has_nothing_to_undo(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer"), booking("venue")))
    puppet.will(wedding.id, "reserve", "unknown", "reject")
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "rolled_back")
    assert await compensations(wedding) == {"hall": "nothing_to_undo"}


async def test_a_lost_call_that_nobody_can_ask_about_is_parked_at_its_deadline(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer", **QUICK), booking("venue")))
    puppet.will(wedding.id, "reserve", "unknown", *["down"] * 9)
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "needs_attention")
    assert await compensations(wedding) == {"hall": "needs_attention"}


async def test_a_lost_call_that_is_not_ours_to_ask_about_is_parked_at_once(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer"), booking("venue")))
    puppet.will(wedding.id, "reserve", "unknown", "unauthorized")
    await stage.sandbox.faults("generic", mode="refuse", operation="request", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "needs_attention")
    assert await compensations(wedding) == {"hall": "needs_attention"}
    assert len(puppet.calls(wedding.id, "reserve")) == 2


async def test_an_answer_goes_on_with_what_is_left_of_the_step(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach")))
    puppet.will(wedding.id, "reserve", "waiting")
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("hall", "booking.confirmed")
    await wedding.until(tx, "completed")
    assert puppet.said(wedding.id) == ["send reserve", "send finish"]


@pytest.mark.parametrize(
    ("answers", "status", "code"), [(["reject"], "failed", "date_taken"), (["bug"], "held", "outcome_unknown")]
)
async def test_what_fails_after_an_answer_is_let_go_or_held(
    stage: Stage, puppet: Puppet, answers: Any, status: str, code: str
) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach")))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "finish", *answers)
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.say("hall", "booking.confirmed")
    row = await wedding.until_step("hall", status)
    assert code in row.error["code"]
    assert ("send release" in puppet.said(wedding.id)) == (status == "failed")


async def test_a_no_by_event_lets_go_and_tries_the_next_vendor(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach", fallbacks=["replayer"])))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "look", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("hall", "booking.declined")
    await wedding.until(tx, "completed")
    assert puppet.said(wedding.id) == ["send reserve", "look reserve", "send release", "send reserve"]
    assert (await wedding.steps())["hall"].vendor == "replayer"


async def test_nobody_else_is_asked_while_a_vendor_will_not_let_go(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach", fallbacks=["replayer"])))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "look", "reject")
    puppet.will(wedding.id, "release", "reject")
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.say("hall", "booking.declined")
    await wedding.until_step("hall", "held")
    assert puppet.said(wedding.id) == ["send reserve", "look reserve", "send release"]
    await wedding.at_rest()
    assert (await wedding.until(await wedding.decide("hall", "use", "replayer"), "cancelled")).error[
        "code"
    ] == "outcome_unknown"


async def test_what_has_no_api_waits_for_a_persons_word(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("hall", "paper"), booking("room", "paper")))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    step = (await wedding.steps())["hall"]
    assert step.error["code"] == "by_hand"
    assert "/api/v1/vendor-links/" in step.error["detail"]
    await wedding.say("hall", "hand.confirmed")
    await wedding.say("room", "hand.declined")
    row = await wedding.until(tx, "completed")
    assert {i: row.status for i, row in (await wedding.steps()).items()} == {"hall": "succeeded", "room": "failed"}
    assert row.gaps == ["room"]


# -- holds


async def held(stage: Stage, puppet: Puppet, *more: dict[str, Any], **hall: Any) -> tuple[Staged, str]:
    wedding = await stage.wedding(plan(booking("hall", "replayer", on_failure="hold", **hall), *more))
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await wedding.at_rest()
    return wedding, tx


async def test_a_held_step_is_tried_again_under_a_new_key(stage: Stage, puppet: Puppet) -> None:
    wedding, tx = await held(stage, puppet, event(needs=["hall"]))
    assert (await wedding.steps())["event"].status == "pending"
    await wedding.decide("hall", "retry")
    await wedding.until(tx, "completed")
    assert len({call.idempotency_key for call in puppet.calls(wedding.id, "reserve")}) == 2
    assert (await wedding.steps())["event"].status == "succeeded"


async def test_a_held_step_is_skipped_unless_a_later_input_needs_it(stage: Stage, puppet: Puppet) -> None:
    later = event(inputs={"notes": "Ref ${hall.reference}"})
    wedding, tx = await held(stage, puppet, later)
    refused = await wedding.until(await wedding.decide("hall", "skip"), "cancelled")
    assert refused.error["code"] == "result_needed"
    wedding, tx = await held(stage, puppet, later, default_results={"reference": "none"})
    await wedding.decide("hall", "skip")
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["hall"].status == "skipped"


async def test_using_another_vendor_writes_a_new_plan_version(stage: Stage, puppet: Puppet) -> None:
    wedding, tx = await held(stage, puppet)
    await wedding.decide("hall", "use", "finder")
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["hall"].vendor == "finder"
    assert len(await wedding.plan_versions()) == 2
    assert (await wedding.plan_versions())[1]["steps"][0]["fallbacks"][0] == "finder"


@pytest.mark.parametrize("vendor", ["stripe", "nobody"])
async def test_a_vendor_that_cannot_do_it_is_refused_and_the_hold_stays(
    stage: Stage, puppet: Puppet, vendor: str
) -> None:
    wedding, tx = await held(stage, puppet)
    row = await wedding.until(await wedding.decide("hall", "use", vendor), "cancelled")
    assert row.error
    assert (await wedding.transaction(tx)).status == "held"
    assert len(await wedding.plan_versions()) == 1


async def test_a_hold_can_end_in_a_rollback_even_when_there_is_nothing_to_undo(stage: Stage, puppet: Puppet) -> None:
    wedding, tx = await held(stage, puppet)
    await wedding.until(await wedding.decide("hall", "rollback"), "rolled_back")
    await wedding.until(tx, "rolled_back")
    assert (await wedding.steps())["hall"].status == "failed"


async def test_only_a_held_step_takes_a_decision(stage: Stage, puppet: Puppet) -> None:
    wedding, _ = await held(stage, puppet, booking("venue"))
    for step in ("venue", "nowhere"):
        row = await wedding.until(await wedding.decide(step, "retry"), "cancelled")
        assert row.error["code"] == "not_held"
    assert (await wedding.until(await wedding.decide("hall", "use"), "cancelled")).error["code"] == "vendor_missing"


async def test_weddings_do_not_wait_for_one_another(stage: Stage) -> None:
    weddings = [await stage.wedding(plan(booking("venue"))) for _ in range(8)]
    asked = await asyncio.gather(*(wedding.request_change() for wedding in weddings))
    rows = await asyncio.gather(*(w.until(tx, "completed") for w, tx in zip(weddings, asked, strict=True)))
    assert len(rows) == 8
