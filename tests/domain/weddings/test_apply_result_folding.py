"""How a wedding takes in what later transactions made of earlier ones, and what looks parked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings.apply_result import Applied, apply_result
from wedsync.domain.weddings.ledger import Binding, LedgerEntry, Recheck
from wedsync.domain.weddings.messages import StepStatus, TransactionKind, WeddingStart
from wedsync.domain.weddings.step import CompensationResult, StepState
from wedsync.domain.weddings.transaction import TransactionInput, TransactionResult
from wedsync.domain.weddings.wedding_state import TransactionCard, WeddingState

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def card(tx: str, kind: TransactionKind) -> TransactionCard:
    return TransactionCard(id=tx, kind=kind, status="waiting", origin="first")


def scheduled(state: WeddingState, tx: str, *steps: tuple[str, StepStatus]) -> Applied:
    given = TransactionInput(
        organization_id="o", wedding_id="w", transaction_id=tx, seq=9, kind="scheduled", origin_tx="first",
        parallelism=1,
    )  # fmt: skip
    states = tuple(StepState(step_id=name, status=status, transaction_id=tx) for name, status in steps)
    status = "waiting" if any(step.status == "waiting" for step in states) else "completed"
    result = TransactionResult(
        id=tx, seq=9, kind="scheduled", status=status, steps=states, started_at=NOW, ended_at=NOW
    )
    return apply_result(state, given, result)


def waiting_wedding() -> WeddingState:
    states = {
        "venue": StepState(step_id="venue", status="succeeded", transaction_id="second"),
        "photos": StepState(step_id="photos", status="waiting", transaction_id="first"),
        "deposit": StepState(step_id="deposit", status="waiting", transaction_id="second"),
    }
    return WeddingState(
        start=WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19"),
        status="active",
        origin="first",
        states=states,
        cards={"first": card("first", "orchestrate"), "second": card("second", "scheduled")},
    )


def test_a_transaction_that_was_answered_by_a_later_one_waits_no_more() -> None:
    applied = scheduled(waiting_wedding(), "third", ("deposit", "succeeded"))
    assert {c.id: c.status for c in applied.state.cards.values()} == {
        "first": "waiting",
        "second": "completed",
        "third": "completed",
    }
    assert [(update.transaction_id, update.status) for update in applied.updates] == [("second", "completed")]


def test_the_origin_waits_until_every_step_is_answered() -> None:
    once = scheduled(waiting_wedding(), "third", ("deposit", "succeeded"))
    applied = scheduled(once.state, "fourth", ("photos", "succeeded"))
    assert [(update.transaction_id, update.status) for update in applied.updates] == [("first", "completed")]


def test_a_transaction_whose_own_step_still_waits_goes_on_waiting() -> None:
    applied = scheduled(waiting_wedding(), "third", ("photos", "succeeded"))
    assert applied.state.cards["second"].status == "waiting"
    assert applied.updates == ()


def entry(**more: Any) -> LedgerEntry:
    spec = ActionSpec(name="booking.request", undo="exact", operations=(OperationSpec(name="do"),))
    binding = Binding(
        vendor="generic",
        account="villa",
        inputs={},
        round=1,
        reference="r",
        spec=spec,
        transaction_id="t",
        bound_at=NOW,
    )
    return LedgerEntry(**{"step_id": "venue", "binding": binding, "state": "begun", "done": ("do",), **more})


def looked(compensation: Any, *, again: bool = False) -> WeddingState:
    recheck = Recheck(entry=entry(), due_at=NOW, look=2)
    before = WeddingState(
        start=WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19"),
        states={"venue": StepState(step_id="venue", status="failed")},
        rechecks=(recheck,),
    )
    given = TransactionInput(
        organization_id="o", wedding_id="w", transaction_id="t2", seq=9, kind="scheduled", origin_tx="t2",
        parallelism=1, rechecks=(recheck,),
    )  # fmt: skip
    state = StepState(step_id="venue", status="failed", compensation=CompensationResult(status=compensation))
    next_recheck = (recheck.model_copy(update={"due_at": NOW + timedelta(days=1), "look": 3}),) if again else ()
    result = TransactionResult(
        id="t2", seq=9, kind="scheduled", status="needs_attention", steps=(state,), rechecks=next_recheck,
        started_at=NOW, ended_at=NOW,
    )  # fmt: skip
    return apply_result(before, given, result).state


@pytest.mark.parametrize(
    ("compensation", "again", "kept"),
    [("needs_attention", False, "parked"), ("needs_attention", True, None), ("undone", False, None)],
)
def test_what_a_last_look_parks_stays_on_the_ledger(compensation: str, again: bool, kept: str | None) -> None:
    found = looked(compensation, again=again).entries.get("venue")
    assert (found.state if found else None) == kept
