from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from temporalio.api.enums.v1 import EventType

from tests.support.plans import CEREMONY, booking, email, event, payment, plan
from tests.support.puppet import Answer, Puppet
from tests.support.stage import Staged
from tests.support.stages import SkippingStage

ROME = ZoneInfo("Europe/Rome")
CEREMONY_AT = datetime.fromisoformat(CEREMONY).replace(tzinfo=ROME).astimezone(UTC)


def before_ceremony(at: datetime | None = None) -> timedelta:
    return CEREMONY_AT - (at or datetime.now(UTC))


async def ends(wedding: Staged) -> dict[str, datetime | None]:
    return {step_id: row.ended_at for step_id, row in (await wedding.steps()).items()}


async def audited(wedding: Staged) -> list[tuple[str, str | None]]:
    """What the audit log says of the wedding's steps, with why, in order."""
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        query = text("SELECT action, detail FROM audit_log WHERE subject LIKE :subject ORDER BY at, id")
        rows = await conn.execute(query, {"subject": f"step/{wedding.id}/%"})
        return [(row.action, row.detail.get("code")) for row in rows]


async def test_a_step_runs_when_it_is_due_and_not_before(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(booking("venue"), event(at="ceremony - 30d"), email(at="event + 2d")))
    await wedding.until(await wedding.request_change(), "completed")
    due = CEREMONY_AT - timedelta(days=30)
    assert await wedding.when("agenda", lambda agenda: all(entry["status"] != "pending" for entry in agenda)) == [
        {"step_id": "event", "status": "scheduled", "due_at": due.isoformat().replace("+00:00", "Z")},
        {"step_id": "email", "status": "scheduled", "due_at": None},
    ]
    await skipping.forward(wedding, before_ceremony() - timedelta(days=30, hours=1))
    assert (await wedding.steps())["event"].status == "scheduled"
    await skipping.forward(wedding, timedelta(hours=2))
    await wedding.until_step("event", "succeeded")
    done = (await ends(wedding))["event"]
    assert done is not None
    assert timedelta(0) <= done - due < timedelta(minutes=10)
    assert (await wedding.steps())["email"].due_at == done + timedelta(days=2)
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("email", "succeeded")


async def test_no_timer_is_longer_than_thirty_days(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(booking("venue"), event(at="ceremony - 1d")))
    await wedding.until(await wedding.request_change(), "completed")
    await skipping.forward(wedding, timedelta(days=100))
    history = await wedding.handle.fetch_history()
    timers = [
        e.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        for e in history.events
        if e.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]
    assert len(timers) >= 4
    assert max(timers) == timedelta(days=30)
    resolved = [e for e in history.events if e.event_type == EventType.EVENT_TYPE_MARKER_RECORDED]
    assert len(resolved) > len(timers)


async def test_a_step_keeps_its_hour_on_the_wall_across_daylight_saving(skipping: SkippingStage) -> None:
    year = datetime.now(UTC).year + 1
    wedding = await skipping.wedding(
        plan(booking("venue"), event(at="ceremony - 7d"), ceremony=f"{year}-10-31T16:00", zone="Europe/Rome")
    )
    await wedding.until(await wedding.request_change(), "completed")
    due = (await wedding.steps())["event"].due_at
    assert due.astimezone(ROME).strftime("%m-%dT%H:%M") == "10-24T16:00"
    offsets = {due.astimezone(ROME).utcoffset(), datetime(year, 10, 31, 16, tzinfo=ROME).utcoffset()}
    assert len(offsets) == 2


async def test_a_scheduled_step_whose_need_failed_long_ago_fails_once(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "replayer"), event(at="ceremony - 30d", needs=["hall"])))
    puppet.will(wedding.id, "reserve", "reject")
    row = await wedding.until(await wedding.request_change(), "completed")
    assert row.gaps == ["hall"]
    await skipping.forward(wedding, before_ceremony() - timedelta(days=29))
    await wedding.until_step("event", "failed")
    step = (await wedding.steps())["event"]
    assert step.error["code"] == "needs_failed"
    assert len(await wedding.transactions("scheduled")) == 1


async def test_a_scheduled_step_that_fails_asks_a_person_and_rolls_nothing_back(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(
        plan(booking("venue"), booking("hall", "replayer", at="ceremony - 30d", on_failure="rollback"))
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await skipping.forward(wedding, before_ceremony() - timedelta(days=30) + timedelta(hours=1))
    await wedding.until_step("hall", "held")
    assert (await wedding.steps())["venue"].compensation is None
    assert [e["state"] for e in await wedding.ledger()] == ["active"]


@pytest.mark.parametrize("otherwise", [None, "rollback"])
async def test_a_rollback_of_what_came_after_a_scheduled_step_leaves_what_had_settled(
    skipping: SkippingStage, puppet: Puppet, otherwise: str | None
) -> None:
    more: dict[str, Any] = {"otherwise": otherwise} if otherwise else {}
    wedding = await skipping.wedding(
        plan(
            booking("venue"),
            booking("tent", "florist", at="ceremony - 30d", needs=["venue"]),
            booking("hall", "replayer", needs=["tent"], on_failure="hold", decide_within="2d", **more),
            event(at="ceremony - 5d"),
        )
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await skipping.forward(wedding, before_ceremony() - timedelta(days=30) + timedelta(hours=1))
    await wedding.until_step("hall", "held")
    await wedding.at_rest()
    if otherwise:
        await skipping.forward(wedding, timedelta(days=2))
    else:
        await wedding.until(await wedding.decide("hall", "rollback"), "rolled_back")
    await wedding.until_step("hall", "failed")
    await wedding.until(tx, "completed")
    assert {e["step_id"]: e["state"] for e in await wedding.ledger()} == {"venue": "active", "tent": "undone"}
    assert (await wedding.steps())["event"].status == "scheduled"


@pytest.mark.parametrize(("otherwise", "becomes"), [("retry", "succeeded"), ("skip", "skipped"), (None, "held")])
async def test_a_hold_reminds_at_half_time_and_takes_its_default_at_the_deadline(
    skipping: SkippingStage, puppet: Puppet, otherwise: str | None, becomes: str
) -> None:
    more: dict[str, Any] = {"otherwise": otherwise} if otherwise else {}
    wedding = await skipping.wedding(
        plan(booking("hall", "replayer", on_failure="hold", decide_within="2d", **more), booking("venue"))
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await skipping.forward(wedding, timedelta(hours=23))
    assert await wedding.reminders() == []
    await skipping.forward(wedding, timedelta(hours=2))
    assert await wedding.reminders() == ["hall"]
    assert (await wedding.steps())["hall"].status == "held"
    await skipping.forward(wedding, timedelta(hours=24))
    await wedding.until_step("hall", becomes)
    await wedding.until(tx, "held" if becomes == "held" else "completed")
    assert await wedding.reminders() == (["hall"] if otherwise else ["hall", "hall"])


@pytest.mark.parametrize(("otherwise", "why"), [(None, "no_default"), ("skip", "result_needed")])
async def test_a_hold_that_takes_no_default_is_told_and_reminded_of_again_and_again(
    skipping: SkippingStage, puppet: Puppet, otherwise: str | None, why: str
) -> None:
    more: dict[str, Any] = {"otherwise": otherwise} if otherwise else {}
    wedding = await skipping.wedding(
        plan(
            booking("hall", "replayer", on_failure="hold", decide_within="1h", **more),
            event(inputs={"notes": "${hall.reference}"}),
        )
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await skipping.forward(wedding, timedelta(hours=2))
    told = [("step.overdue", why)]
    assert await audited(wedding) == [("step.reminded", None), *told]
    await skipping.forward(wedding, timedelta(hours=13))
    await skipping.forward(wedding, timedelta(hours=13))
    assert await audited(wedding) == [("step.reminded", None), *told] * 2
    (waiting,) = await wedding.handle.query("waiting")
    assert (waiting["what"], waiting["until"] is not None) == ("decision", True)
    await wedding.until(await wedding.decide("hall", "retry"), "completed")


async def test_a_hold_whose_default_is_rollback_is_undone_at_the_deadline(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(
        plan(booking("venue"), booking("hall", "replayer", on_failure="hold", decide_within="2d", otherwise="rollback"))
    )
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "held")
    await skipping.forward(wedding, timedelta(days=2, hours=1))
    await wedding.until(tx, "rolled_back")
    assert [row.status for row in await wedding.transactions()] == ["rolled_back", "rolled_back"]
    assert [e["state"] for e in await wedding.ledger()] == ["undone"]


async def test_a_late_answer_is_asked_for_and_completes_the_step(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "slowcoach", timeout="2d"), payment(timeout="30d")))
    puppet.will(wedding.id, "reserve", "waiting")
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(days=1))
    assert (await wedding.steps())["hall"].status == "waiting"
    await skipping.forward(wedding, timedelta(days=2))
    await wedding.until_step("hall", "succeeded")
    assert puppet.said(wedding.id) == ["send reserve", "look reserve", "send finish"]


async def test_an_answer_that_never_comes_lets_go_of_the_vendor_and_holds(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "slowcoach", timeout="2d", on_failure="hold")))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "look", "waiting")
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("hall", "held")
    step = (await wedding.steps())["hall"]
    assert (step.error["code"], puppet.said(wedding.id)) == (
        "no_answer",
        ["send reserve", "look reserve", "send release"],
    )
    waiting = await wedding.handle.query("waiting")
    assert [(w["step_id"], w["what"]) for w in waiting] == [("hall", "decision")]


async def test_a_vendor_that_cannot_be_asked_at_the_deadline_makes_a_hold(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "slowcoach", timeout="2d")))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "look", *["down"] * 4)
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("hall", "held")
    assert puppet.said(wedding.id) == ["send reserve", *["look reserve"] * 4]


async def held_unasked(skipping: SkippingStage, puppet: Puppet, *looks: Answer) -> Staged:
    """A wedding whose hall has booked, and could not be asked at its deadline what became of that."""
    wedding = await skipping.wedding(plan(booking("hall", "slowcoach", timeout="2d")))
    puppet.will(wedding.id, "reserve", "waiting")
    puppet.will(wedding.id, "look", *["down"] * 4, *looks)
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("hall", "held")
    return wedding


async def test_a_retry_asks_who_could_not_be_asked_and_goes_on(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await held_unasked(skipping, puppet)
    await wedding.decide("hall", "retry")
    await wedding.until_step("hall", "succeeded")
    assert puppet.said(wedding.id) == ["send reserve", *["look reserve"] * 5, "send finish"]


async def test_a_retry_waits_again_for_who_has_not_answered_yet(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await held_unasked(skipping, puppet, "waiting", "waiting")
    await wedding.decide("hall", "retry")
    waiting = await wedding.until_step("hall", "waiting")
    assert waiting.error is None
    assert [w["what"] for w in await wedding.handle.query("waiting")] == ["booking.confirmed"]
    await wedding.say("hall", "booking.confirmed")
    await wedding.until_step("hall", "succeeded")
    assert puppet.said(wedding.id) == ["send reserve", *["look reserve"] * 5, "send finish"]


async def test_a_retry_holds_again_while_the_vendor_cannot_be_asked(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await held_unasked(skipping, puppet, *["down"] * 4)
    await wedding.until(await wedding.decide("hall", "retry"), "held")
    assert puppet.said(wedding.id) == ["send reserve", *["look reserve"] * 8]


async def test_a_retried_payment_is_not_taken_for_made_before_its_vendor_says_so(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(payment(timeout="2d")))
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.stage.sandbox.faults("stripe", mode="down", wedding_id=wedding.id)
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("deposit", "held")
    await skipping.stage.sandbox.clear_faults("stripe")
    asked = len(await skipping.stage.sandbox.requests("stripe"))
    await wedding.decide("deposit", "retry")
    await wedding.until_step("deposit", "succeeded", "waiting", "failed")
    assert [r["method"] for r in (await skipping.stage.sandbox.requests("stripe"))[asked:]] == ["GET"]


async def test_a_retry_asks_a_person_again_who_has_not_answered(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "paper", decide_within="2d")))
    await wedding.until(await wedding.request_change(), "waiting")
    await skipping.forward(wedding, timedelta(days=2, hours=1))
    await wedding.until_step("hall", "held")
    await wedding.decide("hall", "retry")
    asked = await wedding.until_step("hall", "waiting", "succeeded")
    assert (asked.status, asked.error["code"]) == ("waiting", "by_hand")
    await wedding.say("hall", "hand.confirmed")
    await wedding.until_step("hall", "succeeded")


async def test_an_effect_that_surfaces_after_it_was_found_absent_is_undone(
    skipping: SkippingStage, puppet: Puppet
) -> None:
    wedding = await skipping.wedding(
        plan(booking("hall", "finder", timeout="1h"), booking("room", "replayer", on_failure="rollback"))
    )
    puppet.will(wedding.id, "hall.reserve", "unknown")
    puppet.will(wedding.id, "room.reserve", "reject")
    puppet.will(wedding.id, "find", *["absent"] * 40)
    tx = await wedding.request_change()
    await skipping.until(wedding, tx, "rolled_back", "held", "needs_attention")
    row = await wedding.until(tx)
    assert (row.status, (await wedding.steps())["hall"].compensation["status"]) == ("rolled_back", "nothing_to_undo")
    await skipping.forward(wedding, timedelta(minutes=5))
    looks = len(puppet.said(wedding.id))
    waiting = await wedding.handle.query("waiting")
    assert [w["what"] for w in waiting] == ["recheck"]
    await skipping.forward(wedding, timedelta(minutes=90))
    await wedding.until_said(puppet, looks + 1)
    puppet.answers[(wedding.id, "find")].clear()
    puppet.effects.update(call.idempotency_key for call in puppet.calls(wedding.id, "reserve"))
    await skipping.forward(wedding, timedelta(hours=25))
    await wedding.until_said(puppet, looks + 3)
    assert puppet.said(wedding.id)[-2:] == ["find reserve", "send release"]
    assert (await wedding.steps())["hall"].compensation["status"] == "undone"
    assert await wedding.handle.query("waiting") == []


@pytest.mark.parametrize(
    ("later", "status"),
    [(["waiting", "ok"], "undone"), (["absent", "absent"], "undone"), (["waiting", "waiting"], "needs_attention")],
)
async def test_an_undo_that_is_not_final_blocks_nothing_and_is_looked_at_until_it_is(
    skipping: SkippingStage, puppet: Puppet, later: list[Answer], status: str
) -> None:
    wedding = await skipping.wedding(
        plan(booking("hall", "replayer"), booking("room", "replayer", on_failure="rollback"))
    )
    puppet.will(wedding.id, "room.reserve", "reject")
    puppet.will(wedding.id, "hall.release", "waiting", *later)
    row = await wedding.until(await wedding.request_change(), "rolled_back")
    assert (row.status, (await wedding.steps())["hall"].compensation["status"]) == ("rolled_back", "undone")
    assert len(puppet.calls(wedding.id, "release")) == 1
    waiting = await wedding.handle.query("waiting")
    assert [w["what"] for w in waiting] == ["recheck"]
    said = len(puppet.said(wedding.id))
    await skipping.forward(wedding, timedelta(minutes=90))
    await wedding.until_said(puppet, said + 1)
    await skipping.forward(wedding, timedelta(hours=25))
    await wedding.until_said(puppet, said + 2)
    await skipping.forward(wedding, timedelta(minutes=5))
    assert (await wedding.steps())["hall"].compensation["status"] == status
    assert await wedding.handle.query("waiting") == []
