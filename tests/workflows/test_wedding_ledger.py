"""How a wedding takes in what its transactions came to."""

from __future__ import annotations

from datetime import UTC, datetime

from wedsync.domain.weddings.ledger import StepState, TransactionInput, TransactionResult
from wedsync.domain.weddings.messages import StepStatus, TransactionKind, WeddingStart
from wedsync.domain.weddings.wedding_state import TransactionCard, WeddingState
from workflows.wedding_ledger import Absorbed, absorb

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def card(tx: str, kind: TransactionKind) -> TransactionCard:
    return TransactionCard(id=tx, kind=kind, status="waiting", origin="first")


def scheduled(state: WeddingState, tx: str, *steps: tuple[str, StepStatus]) -> Absorbed:
    given = TransactionInput(
        organization_id="o", wedding_id="w", reference="r", wedding_date="2027-06-19", phase="preparation",
        plan_version=1, transaction_id=tx, seq=9, kind="scheduled", origin_tx="first", parallelism=1,
    )  # fmt: skip
    states = tuple(StepState(step_id=name, status=status, transaction_id=tx) for name, status in steps)
    status = "waiting" if any(step.status == "waiting" for step in states) else "completed"
    result = TransactionResult(
        id=tx, seq=9, kind="scheduled", status=status, steps=states, started_at=NOW, ended_at=NOW
    )
    return absorb(state, given, result)


def waiting_wedding() -> WeddingState:
    states = {
        "venue": StepState(step_id="venue", status="succeeded", transaction_id="second"),
        "photos": StepState(step_id="photos", status="waiting", transaction_id="first"),
        "deposit": StepState(step_id="deposit", status="waiting", transaction_id="second"),
    }
    return WeddingState(
        start=WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1),
        status="active",
        origin="first",
        states=states,
        cards={"first": card("first", "orchestrate"), "second": card("second", "scheduled")},
    )


def test_a_transaction_that_was_answered_by_a_later_one_waits_no_more() -> None:
    absorbed = scheduled(waiting_wedding(), "third", ("deposit", "succeeded"))
    assert {c.id: c.status for c in absorbed.state.cards.values()} == {
        "first": "waiting",
        "second": "completed",
        "third": "completed",
    }
    assert [(news.transaction_id, news.status) for news in absorbed.news] == [("second", "completed")]


def test_the_origin_waits_until_every_step_is_answered() -> None:
    once = scheduled(waiting_wedding(), "third", ("deposit", "succeeded"))
    absorbed = scheduled(once.state, "fourth", ("photos", "succeeded"))
    assert [(news.transaction_id, news.status) for news in absorbed.news] == [("first", "completed")]


def test_a_transaction_whose_own_step_still_waits_goes_on_waiting() -> None:
    absorbed = scheduled(waiting_wedding(), "third", ("photos", "succeeded"))
    assert absorbed.state.cards["second"].status == "waiting"
    assert absorbed.news == ()
