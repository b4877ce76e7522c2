from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.plans import booking, plan
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.plan import Compensation
from wedsync.domain.weddings.ledger import Binding, Field, LedgerEntry, first_recheck
from wedsync.domain.weddings.step import CompensationResult, StepError, StepState
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.transaction import TransactionInput
from wedsync.domain.weddings.transaction_state import CallProgress, RunningTransaction, TransactionState
from wedsync.vendors.registry import load_registry

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
MANIFESTS = load_registry().manifests
(VENUE,) = compile_plan(plan(booking("venue")), MANIFESTS)


def entry(set_by: str, **more: Any) -> LedgerEntry:
    spec = MANIFESTS["generic"].action("booking.request")
    assert spec is not None
    binding = Binding(
        vendor="generic", account="v", inputs={}, round=1, reference="r", spec=spec, transaction_id="t1", bound_at=NOW
    )
    values: dict[str, Any] = {"step_id": "venue", "binding": binding, "state": "waiting", "done": ("request",)}
    return LedgerEntry(**{**values, "fields": {"effect": Field(value=None, set_by_tx=set_by)}, **more})


def running(task: StepTask) -> TransactionState:
    return TransactionState(
        TransactionInput(
            organization_id="o", wedding_id="w", transaction_id="t2", seq=2, kind="scheduled", origin_tx="t1",
            parallelism=2, tasks=(task,),
        ),
        NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "found", "stays"),
    [
        ("answer", entry("t1"), True),
        ("answer", entry("t1", state="standing"), True),
        # Who does it by hand is asked before anything is known to be done.
        ("do", entry("t1", done=()), True),
        ("do", entry("t1", state="begun", done=(), unknown_operation="request"), True),
        # Its vendor has let go, or has said for certain that nothing came of it.
        ("answer", entry("t1", state="undone"), False),
        ("do", entry("t1", state="begun", done=()), False),
        # Another vendor took it over here; a change is put back, not kept.
        ("answer", entry("t2"), False),
        ("change", entry("t1", state="standing"), False),
    ],
)
def test_a_rollback_leaves_what_earlier_transactions_set_and_may_stand(
    kind: Any, found: LedgerEntry, stays: bool
) -> None:
    task = StepTask(kind=kind, step=VENUE, entry=entry("t1"), state=StepState(step_id="venue", status="waiting"))
    seen = running(task)
    seen.entries["venue"] = found
    assert (seen.set_before() == {"venue"}) is stays
    assert [e.step_id for e in seen.undoable()] == ([] if stays or not _may_stand(found) else ["venue"])


def _may_stand(found: LedgerEntry) -> bool:
    return found.state != "undone" and bool(found.done or found.unknown_operation)


def test_what_was_not_begun_with_stays_as_it_was() -> None:
    task = StepTask(kind="late", step=VENUE, entry=entry("t1"), state=StepState(step_id="venue", status="waiting"))
    assert running(task).set_before() == {"venue"}


def test_a_step_that_begins_here_is_undone_here() -> None:
    seen = running(StepTask(kind="do", step=VENUE))
    seen.put(entry("t2"))
    assert (seen.set_before(), [e.step_id for e in seen.undoable()]) == (set(), ["venue"])


# -- an end by an error of ours

WHY = StepError(code="internal", detail="an error of ours")
SOON = NOW + timedelta(hours=1)


def two(**more: Any) -> TransactionState:
    given = TransactionInput(
        organization_id="o", wedding_id="w", transaction_id="t2", seq=2, kind="scheduled", origin_tx="t1",
        parallelism=2, **more,
    )  # fmt: skip
    return TransactionState(given, NOW)


def test_a_transaction_that_broke_leaves_its_steps_to_a_person_and_what_ran_may_have_happened() -> None:
    cake = VENUE.model_copy(update={"id": "cake"})
    state = two(tasks=(StepTask(kind="do", step=VENUE), StepTask(kind="late", step=cake, entry=entry("t1"))))
    state.begun.add("venue")
    state.put_step(state.step("venue").begun(NOW))
    broke = state.broken(WHY, NOW)
    assert (broke.status, broke.error) == ("needs_attention", WHY)
    assert {s.step_id: (s.status, s.unknown, s.transaction_id) for s in broke.steps} == {
        "venue": ("held", True, "t2"),
        "cake": ("held", False, "t2"),
    }


def test_a_rollback_that_broke_begins_nothing_more() -> None:
    state = two(tasks=(StepTask(kind="do", step=VENUE),))
    state.phase = "rollback"
    broke = state.broken(WHY, NOW)
    assert (broke.status, [s.status for s in broke.steps]) == ("needs_attention", ["skipped"])


@pytest.mark.parametrize(("by", "kept", "shown"), [("vendor", "parked", "needs_attention"), ("none", "standing", None)])
def test_an_undo_that_broke_leaves_to_a_person_what_it_was_to_undo(by: Any, kept: str, shown: str | None) -> None:
    planned = VENUE.model_copy(update={"compensation": Compensation(by=by)})
    done = StepState(step_id="venue", status="succeeded")
    state = two(undo=(entry("t1", state="standing"),), undo_steps=(planned,), undo_states=(done,))
    state.phase, state.undo_deadlines = "rollback", {"venue": SOON}
    broke = state.broken(WHY, NOW)
    assert (broke.status, [e.state for e in broke.entries]) == ("needs_attention", [kept])
    assert [s.compensation and s.compensation.status for s in broke.steps] == [shown or "nothing_to_undo"]


def test_an_undo_that_was_over_before_the_break_stays_as_it_came_out() -> None:
    done = StepState(step_id="venue", status="succeeded", compensation=CompensationResult(status="undone"))
    state = two(undo=(entry("t1", state="undone"),), undo_steps=(VENUE,), undo_states=(done,))
    state.phase, state.undo_deadlines, state.undo_over = "rollback", {"venue": SOON}, {"venue"}
    broke = state.broken(WHY, NOW)
    assert [e.state for e in broke.entries] == ["undone"]
    assert [s.compensation and s.compensation.status for s in broke.steps] == ["undone"]


# -- over a pause


def test_a_transaction_goes_on_from_what_it_carried() -> None:
    state = two(tasks=(StepTask(kind="do", step=VENUE),))
    state.begun, state.paused, state.phase = {"venue"}, {"venue"}, "rollback"
    state.put(entry("t2", state="standing"))
    state.succeeded("venue", state.entries["venue"], NOW)
    state.calls["venue/do/request"] = CallProgress(tries=3, lost=True, sent_at=NOW, first_sent_at=NOW, wait_until=SOON)
    state.undo_deadlines, state.undo_turns, state.undo_tries = {"venue": SOON}, {"venue": NOW}, {"venue": 2}
    state.before_change["venue"] = entry("t1")
    state.rechecks.append(first_recheck(entry("t1"), NOW))
    state.stop(WHY, cancel=True)
    state.parked = True
    carried = RunningTransaction.model_validate_json(state.carried().model_dump_json())
    again = TransactionState.resumed(carried)
    assert again.carried() == state.carried()
    # What a new run finds out for itself is not carried.
    assert {name for name, value in vars(again).items() if value != vars(state)[name]} == set()


def test_the_first_reason_to_stop_counts() -> None:
    state = two()
    state.stop(WHY)
    state.stop(StepError(code="cancelled", detail="on request"), cancel=True)
    assert (state.stop_reason, state.cancelled) == (WHY, True)
