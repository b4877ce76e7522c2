from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.plans import booking, event, plan
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.fill_inputs import facts_of
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.apply_result import apply_result, manually_undone, skip
from wedsync.domain.weddings.closing import open_matters
from wedsync.domain.weddings.ledger import Binding, LedgerEntry, Recheck
from wedsync.domain.weddings.messages import WeddingStart
from wedsync.domain.weddings.requests import left_behind
from wedsync.domain.weddings.step import CompensationResult, StepError, StepState
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.transaction import TransactionInput, TransactionResult
from wedsync.domain.weddings.transaction_state import TransactionState
from wedsync.domain.weddings.wedding_state import KEPT_CARDS, PlanFacts, TransactionCard, WeddingState
from wedsync.vendors.registry import load_registry

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
MANIFESTS = load_registry().manifests
PLAN = plan(booking("venue"), event(at="ceremony - 3d"))
STEPS = compile_plan(PLAN, MANIFESTS)


def entry(step_id: str = "venue", **more: Any) -> LedgerEntry:
    spec = MANIFESTS["generic"].action("booking.request")
    assert spec is not None
    binding = Binding(
        vendor="generic", account="v", inputs={}, round=1, reference="r", spec=spec, transaction_id="t1", bound_at=NOW
    )
    return LedgerEntry(**{"step_id": step_id, "binding": binding, "state": "standing", "done": ("request",), **more})


def wedding(**more: Any) -> WeddingState:
    facts = PlanFacts(
        version=1, locale="en", zone="Europe/Rome", ceremony_local="2027-06-19T16:00", ceremony_at=NOW, ends_at=NOW,
        tzdata_version="x", parallelism=2, steps=STEPS, wedding=facts_of(PLAN),
    )  # fmt: skip
    states = {s.id: StepState(step_id=s.id, status="scheduled" if s.at else "pending") for s in STEPS}
    start = WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19")
    return WeddingState(**{"start": start, "status": "active", "plan": facts, "states": states, **more})


def given(kind: Any = "orchestrate", tx: str = "t1", **more: Any) -> TransactionInput:
    values = {"organization_id": "o", "wedding_id": "w", "transaction_id": tx, "seq": 1, "kind": kind}
    return TransactionInput(**{**values, "origin_tx": "t1", "parallelism": 2, **more})


def result(status: Any = "completed", tx: str = "t1", kind: Any = "orchestrate", **more: Any) -> TransactionResult:
    return TransactionResult(id=tx, seq=1, kind=kind, status=status, started_at=NOW, ended_at=NOW, **more)


def test_what_stands_is_kept_and_what_is_undone_is_forgotten() -> None:
    done = StepState(step_id="venue", status="succeeded")
    taken = apply_result(wedding(), given(), result(steps=(done,), entries=(entry(),))).state
    assert (list(taken.entries), taken.states["venue"].status) == (["venue"], "succeeded")
    for gone in (entry(state="undone"), entry(done=(), state="begun")):
        after = apply_result(taken, given("undo", "t2"), result("rolled_back", "t2", "undo", entries=(gone,)))
        assert after.state.entries == {}


def test_an_orchestration_that_was_undone_leaves_nothing_due() -> None:
    before = wedding(origin="t1")
    after = apply_result(before, given(), result("rolled_back")).state
    assert (after.origin, {s.status for s in after.states.values()}) == ("", {"skipped"})


def test_looks_that_were_made_are_off_the_agenda_and_new_ones_on_it() -> None:
    first = Recheck(entry=entry(), due_at=NOW, look=1)
    second = first.model_copy(update={"look": 2, "due_at": NOW + timedelta(days=1)})
    after = apply_result(
        wedding(rechecks=(first,)),
        given("scheduled", "t2", rechecks=(first,)),
        result("completed", "t2", "scheduled", rechecks=(second,)),
    ).state
    assert after.rechecks == (second,)


def test_an_answer_folds_into_the_transaction_that_waited() -> None:
    card = TransactionCard(id="t1", kind="orchestrate", status="waiting", origin="t1")
    word = VendorEvent(source="s", event_id="e", type="booking.confirmed", vendor_type="x", step_id="venue")
    waiting = StepState(step_id="venue", status="waiting", waits_for="booking.confirmed")
    before = wedding(origin="t1", cards={"t1": card}, events=(word,))
    before = before.model_copy(update={"states": {**before.states, "venue": waiting}, "entries": {"venue": entry()}})
    task = StepTask(kind="answer", step=STEPS[0], entry=entry(), state=waiting)
    done = waiting.model_copy(update={"status": "succeeded"})
    after = apply_result(
        before, given("scheduled", "t2", tasks=(task,)), result("completed", "t2", "scheduled", steps=(done,))
    )
    assert [(u.transaction_id, u.status) for u in after.updates] == [("t1", "completed")]
    assert (after.state.cards["t1"].status, after.state.events) == ("completed", ())


def test_only_the_newest_ended_transactions_are_remembered() -> None:
    cards = {
        f"x{n:03}": TransactionCard(id=f"x{n:03}", kind="timeline", status="completed", origin="t1") for n in range(80)
    }
    cards |= {"open": TransactionCard(id="open", kind="scheduled", status="held", origin="t1")}
    after = apply_result(wedding(cards=cards, origin="t1"), given(), result()).state
    assert {"open", "t1", "x079"} <= set(after.cards)
    assert len(after.cards) <= KEPT_CARDS + 2
    assert "x000" not in after.cards


@pytest.mark.parametrize("state", ["standing", "begun"])
def test_what_a_skipped_step_may_hold_is_looked_for_later(state: Any) -> None:
    held = StepState(step_id="venue", status="held", unknown=True)
    before = wedding()
    before = before.model_copy(
        update={"states": {**before.states, "venue": held}, "entries": {"venue": entry(state=state)}}
    )
    after = skip(before, "venue", "t2", NOW)
    assert (after.states["venue"].status, after.entries) == ("skipped", {})
    assert [(r.look, r.due_at) for r in after.rechecks] == [(1, NOW + timedelta(hours=1))]


def test_the_looks_of_a_transaction_that_broke_are_made_later() -> None:
    look = Recheck(entry=entry(), due_at=NOW, look=2)
    asked = given("scheduled", "t2", rechecks=(look,))
    broke = TransactionState(asked, NOW).broken(StepError(code="internal", detail="a bug"), NOW)
    after = apply_result(wedding(rechecks=(look,)), asked, broke).state
    assert [(r.look, r.due_at) for r in after.rechecks] == [(2, NOW + timedelta(hours=1))]


def test_a_hands_word_settles_what_needed_attention() -> None:
    parked = StepState(step_id="venue", status="failed", compensation=CompensationResult(status="needs_attention"))
    card = TransactionCard(id="t1", kind="orchestrate", status="needs_attention", origin="t1")
    before = wedding(cards={"t1": card})
    before = before.model_copy(
        update={"states": {**before.states, "venue": parked}, "entries": {"venue": entry(state="parked")}}
    )
    after = manually_undone(before, ("venue",))
    assert (after.state.entries, after.state.cards["t1"].status) == ({}, "rolled_back")
    assert [u.status for u in after.updates] == ["rolled_back"]


def at(vendor: str, **more: Any) -> LedgerEntry:
    bare = entry(**more)
    return bare.model_copy(update={"binding": bare.binding.model_copy(update={"vendor": vendor})})


def with_venue(step: StepState, kept: LedgerEntry, **more: Any) -> WeddingState:
    before = wedding(entries={"venue": kept}, **more)
    return before.model_copy(update={"states": {**before.states, "venue": step}})


PARKED = CompensationResult(status="needs_attention")


def test_what_a_vendor_before_the_fallback_holds_stays_on_the_ledger() -> None:
    done = StepState(step_id="venue", status="succeeded", compensation=PARKED)
    look = Recheck(entry=at("first", state="begun"), due_at=NOW, look=2)
    asked = given("scheduled", "t2", rechecks=(look,))
    after = apply_result(
        with_venue(done, at("second"), rechecks=(look,)), asked, result("completed", "t2", "scheduled")
    ).state
    assert [(e.binding.vendor, e.state) for e in after.leftovers] == [("first", "parked")]
    assert after.entries["venue"].binding.vendor == "second"
    assert open_matters(after) == ("venue",)
    (again,) = left_behind(after, None, NOW)
    undo = given("undo", "t3", rechecks=(again,))
    gone = done.model_copy(update={"compensation": CompensationResult(status="undone")})
    undone = result("rolled_back", "t3", "undo", steps=(gone,), entries=(at("second", state="undone"),))
    assert apply_result(after, undo, undone).state.leftovers == ()


def test_a_parked_effect_is_not_forgotten_for_that_of_the_next_try() -> None:
    held = StepState(step_id="venue", status="held", compensation=PARKED)
    done = StepState(step_id="venue", status="succeeded")
    after = apply_result(
        with_venue(held, at("first", state="parked")),
        given("scheduled", "t2"),
        result("completed", "t2", "scheduled", steps=(done,), entries=(at("second"),)),
    ).state
    assert [e.binding.vendor for e in (after.entries["venue"], *after.leftovers)] == ["second", "first"]


def test_a_hands_word_leaves_what_stands_at_another_vendor() -> None:
    done = StepState(step_id="venue", status="succeeded", compensation=PARKED)
    before = with_venue(done, at("second"), leftovers=(at("first", state="parked"),))
    after = manually_undone(before, ("venue",)).state
    assert (after.leftovers, after.entries["venue"].binding.vendor) == ((), "second")


def test_a_word_that_the_run_before_had_not_heard_when_it_settled_is_still_to_be_answered() -> None:
    word = VendorEvent(source="s", event_id="e", type="booking.confirmed", vendor_type="x", step_id="venue")
    waiting = StepState(step_id="venue", status="waiting", waits_for="booking.confirmed")
    before = wedding(events=(word,))
    before = before.model_copy(update={"states": {**before.states, "venue": waiting}, "entries": {"venue": entry()}})
    task = StepTask(kind="answer", step=STEPS[0], entry=entry(), state=waiting)
    other = result("completed", "t2", "scheduled", steps=(StepState(step_id="event", status="succeeded"),))
    asked = given("scheduled", "t2", tasks=(task,), rechecks=(Recheck(entry=entry(), look=1, due_at=NOW),))
    after = apply_result(before, asked.as_settled(other), other)
    assert after.state.events == (word,)
    assert asked.as_settled(other).rechecks == ()
