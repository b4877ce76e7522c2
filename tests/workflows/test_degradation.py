from __future__ import annotations

from datetime import timedelta

from tests.support.plans import booking, email, payment, plan, sms
from tests.support.puppet import Puppet
from tests.support.stage import Stage
from tests.support.stages import SkippingStage

WEATHER = {
    "id": "weather",
    "action": "weather.forecast",
    "service": "weather",
    "inputs": {"latitude": 46.0, "longitude": 9.3},
    "when_down": {"then": "cached", "max_age": "12h"},
}


async def test_a_queued_step_is_done_once_its_vendor_is_back(skipping: SkippingStage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "queue", "max_wait": "2d"})
    wedding = await skipping.wedding(plan(hall, email(needs=["hall"])))
    puppet.will(wedding.id, "reserve", *["down"] * 12)
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    queued = (await wedding.steps())["hall"]
    assert (queued.status, queued.error["code"]) == ("waiting", "vendor_unavailable")
    assert queued.error["detail"].startswith("queued until ")
    assert (await wedding.steps())["email"].status == "pending"
    await skipping.forward(wedding, timedelta(minutes=40))
    await wedding.until(tx, "completed")
    steps = await wedding.steps()
    assert {i: row.status for i, row in steps.items()} == {"hall": "succeeded", "email": "succeeded"}
    assert steps["hall"].error is None
    keys = [call.idempotency_key for call in puppet.calls(wedding.id, "reserve")]
    assert len(keys) == 13
    assert len(puppet.effects & set(keys)) == 1


async def test_a_queued_step_that_then_waits_for_its_vendors_word_is_not_sent_again(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    hall = booking("hall", "slowcoach", timeout="2h", when_down={"then": "queue", "max_wait": "2d"}, on_failure="hold")
    wedding = await skipping.wedding(plan(hall))
    puppet.will(wedding.id, "reserve", *["down"] * 4, "waiting", "waiting", "waiting")
    puppet.will(wedding.id, "look", *["waiting"] * 4)
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(minutes=10))
    assert [w["what"] for w in await wedding.handle.query("waiting")] == ["booking.confirmed"]
    await skipping.forward(wedding, timedelta(hours=3))
    await wedding.until_step("hall", "held")
    assert puppet.said(wedding.id) == ["send reserve"] * 5 + ["look reserve", "send release"]


async def test_a_queued_payment_that_is_never_confirmed_is_taken_once(skipping: SkippingStage) -> None:
    deposit = payment(timeout="2h", fallbacks=[], when_down={"then": "queue", "max_wait": "2d"})
    wedding = await skipping.wedding(plan(deposit))
    await skipping.stage.sandbox.faults("stripe", mode="down", wedding_id=wedding.id)
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await skipping.stage.sandbox.clear_faults("stripe")
    await skipping.forward(wedding, timedelta(hours=6))
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert [entry["state"] for entry in await wedding.ledger()] == ["undone"]


async def test_a_queue_ends_in_what_the_plan_says_of_failures(skipping: SkippingStage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "queue", "max_wait": "1h"}, on_failure="continue")
    wedding = await skipping.wedding(plan(hall, booking("garden", "finder")))
    puppet.will(wedding.id, "hall.reserve", *["down"] * 200)
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await skipping.forward(wedding, timedelta(minutes=50))
    assert (await wedding.steps())["hall"].status == "waiting"
    await skipping.forward(wedding, timedelta(minutes=20))
    row = await wedding.until(tx, "completed")
    assert row.gaps == ["hall"]
    assert (await wedding.steps())["garden"].status == "succeeded"


async def test_a_queued_step_is_undone_without_a_call(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "replayer", when_down={"then": "queue"})))
    puppet.will(wedding.id, "reserve", *["down"] * 4)
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    undo = await wedding.request_change("undo", target=tx)
    await wedding.until(undo, "rolled_back")
    await skipping.forward(wedding, timedelta(hours=2))
    assert "send release" not in puppet.said(wedding.id)
    assert len(puppet.calls(wedding.id, "reserve")) == 4
    assert await wedding.ledger() == []


async def test_a_no_is_never_queued(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "queue"}, on_failure="continue")
    wedding = await stage.wedding(plan(hall))
    puppet.will(wedding.id, "reserve", "down", "reject")
    row = await wedding.until(await wedding.request_change(), "completed")
    assert row.gaps == ["hall"]


async def test_a_person_is_asked_when_the_plan_says_so(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "ask"}, on_failure="continue")
    wedding = await stage.wedding(plan(hall))
    puppet.will(wedding.id, "reserve", *["down"] * 4)
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await wedding.decide("hall", "retry")
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["hall"].status == "succeeded"


async def test_a_wedding_goes_without_what_may_be_skipped(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "skip"}, default_results={"reference": "none"})
    wedding = await stage.wedding(plan(hall, email(text="Your booking: ${hall.reference}")))
    puppet.will(wedding.id, "reserve", *["down"] * 4)
    row = await wedding.until(await wedding.request_change(), "completed")
    steps = await wedding.steps()
    assert {i: step.status for i, step in steps.items()} == {"hall": "skipped", "email": "succeeded"}
    assert steps["hall"].error["code"] == "vendor_unavailable"
    assert row.gaps == []


async def test_an_outcome_that_got_lost_is_resolved_before_anything_is_skipped(stage: Stage, puppet: Puppet) -> None:
    hall = booking("hall", "replayer", when_down={"then": "skip"})
    wedding = await stage.wedding(plan(hall))
    puppet.will(wedding.id, "reserve", "lost", "down", "down", "down", "down")
    await wedding.until(await wedding.request_change(), "completed")
    assert (await wedding.steps())["hall"].status == "succeeded"
    assert len(puppet.calls(wedding.id, "reserve")) == 6


async def test_a_forecast_that_nobody_gives_is_answered_from_before_with_its_age(stage: Stage) -> None:
    before = await stage.wedding(plan(WEATHER))
    await before.until(await before.request_change(), "completed")
    wedding = await stage.wedding(plan(WEATHER, sms(text="Tomorrow: ${weather.summary}")))
    await stage.sandbox.faults("open_meteo", mode="down", wedding_id=wedding.id)
    await wedding.until(await wedding.request_change(), "completed")
    steps = await wedding.steps()
    assert {i: step.status for i, step in steps.items()} == {"weather": "succeeded", "sms": "succeeded"}
    assert steps["weather"].error["code"] == "cached_answer"
    assert steps["weather"].error["detail"].startswith("open_meteo cannot be reached: this answer is ")


async def test_without_a_known_answer_a_read_fails_as_the_plan_says(stage: Stage) -> None:
    elsewhere = {**WEATHER, "inputs": {"latitude": -46.0, "longitude": 9.3}}
    wedding = await stage.wedding(plan(elsewhere))
    await stage.sandbox.faults("open_meteo", mode="down", wedding_id=wedding.id)
    row = await wedding.until(await wedding.request_change(), "completed")
    assert row.gaps == ["weather"]
