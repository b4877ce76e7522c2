from __future__ import annotations

from tests.support.plans import booking, plan, sms
from tests.support.puppet import Puppet
from tests.support.stage import Stage

#: Given in place of the hall's results, it makes a text that is too long to be sent.
ENDLESS = {"when_down": {"then": "skip"}, "default_results": {"reference": "x" * 3000}}
TEXT = "Your booking: ${hall.reference}"


async def test_a_step_whose_inputs_cannot_be_filled_in_fails_alone(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("hall", "paper"), sms(text=TEXT)))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    # Who confirms by hand gives no reference.
    await wedding.say("hall", "hand.confirmed")
    row = await wedding.until(tx, "completed")
    steps = await wedding.steps()
    assert {i: step.status for i, step in steps.items()} == {
        "venue": "succeeded",
        "hall": "succeeded",
        "sms": "failed",
    }
    assert (row.gaps, steps["sms"].error["code"]) == (["sms"], "missing_result")
    assert set(await wedding.handle.query("ledger")) == {"venue", "hall"}


async def test_inputs_that_do_not_fit_roll_back_what_was_done(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(
        plan(booking("venue"), booking("hall", "replayer", **ENDLESS), sms(text=TEXT, on_failure="rollback"))
    )
    puppet.will(wedding.id, "reserve", *["down"] * 4)
    await wedding.until(await wedding.request_change(), "rolled_back")
    assert [entry["state"] for entry in await wedding.ledger()] == ["undone"]


async def test_a_fallback_that_cannot_do_it_leaves_the_first_vendor_let_go_once(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "slowcoach", fallbacks=["resend"], on_failure="hold")))
    puppet.will(wedding.id, "finish", "reject")
    puppet.will(wedding.id, "release", "reject")
    await wedding.until(await wedding.request_change(), "held")
    assert puppet.said(wedding.id) == ["send reserve", "send finish", "send release"]
    waiting = await wedding.when("waiting", lambda found: any(w["what"] == "recheck" for w in found))
    assert [w["what"] for w in waiting] == ["decision", "recheck"]
