from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.support.plans import email, plan, sms
from tests.support.stage import Stage
from tests.support.stages import SkippingStage


def waits(text: str = "You are booked.", **more: Any) -> dict[str, Any]:
    return sms(text=text, done_when="delivered", early=True, **more)


async def test_a_message_whose_delivery_the_plan_waits_for_is_done_by_its_vendor_s_word(stage: Stage) -> None:
    wedding = await stage.wedding(plan(waits(), email(needs=["sms"], early=True)))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    steps = await wedding.steps()
    assert (steps["sms"].status, steps["email"].status) == ("waiting", "pending")
    waiting = await wedding.handle.query("waiting")
    assert [(one["step_id"], one["what"]) for one in waiting] == [("sms", "message.delivered")]
    await wedding.say("sms", "message.delivered")
    await wedding.until(tx, "completed")
    assert {row.status for row in (await wedding.steps()).values()} == {"succeeded"}


async def test_a_message_that_can_not_be_delivered_goes_to_the_next_vendor_and_takes_nothing_back(
    stage: Stage,
) -> None:
    step = waits(fallbacks=["vonage"], compensation={"text": "Never mind."})
    wedding = await stage.wedding(plan(step))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("sms", "message.failed")
    await wedding.until_step("sms", "running")
    await wedding.until_step("sms", "waiting")
    row = (await wedding.steps())["sms"]
    assert (row.vendor, row.fallback_used) == ("vonage", True)
    await wedding.say("sms", "message.delivered")
    await wedding.until(tx, "completed")
    sent = {name: await stage.sandbox.requests(name) for name in ("twilio", "vonage")}
    ours = {name: [one for one in found if one["wedding_id"] == wedding.id] for name, found in sent.items()}
    assert {name: len(found) for name, found in ours.items()} == {"twilio": 1, "vonage": 1}


async def test_a_message_that_nobody_can_deliver_fails(stage: Stage) -> None:
    wedding = await stage.wedding(plan(waits()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("sms", "message.failed")
    row = await wedding.until_step("sms", "failed")
    assert row.error["code"] == "message.failed"
    assert (await wedding.until(tx, "completed")).gaps == ["sms"]


async def test_a_message_is_otherwise_done_when_its_vendor_took_it(stage: Stage) -> None:
    wedding = await stage.wedding(plan(sms(early=True)))
    await wedding.until(await wedding.request_change(), "completed")


async def test_without_a_word_in_time_a_message_counts_as_accepted(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(waits()))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await skipping.forward(wedding, timedelta(minutes=16))
    await wedding.until(tx, "completed")
    assert (await wedding.steps())["sms"].status == "succeeded"
