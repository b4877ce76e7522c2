from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.plans import booking, plan
from wedsync.domain.weddings.compile import compile_plan
from wedsync.domain.weddings.ledger import Binding, Field, LedgerEntry
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.transaction import TransactionInput
from wedsync.usecases.routing.registry import load_registry
from workflows.board import Board

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


def board(deed: StepTask) -> Board:
    return Board(
        TransactionInput(
            organization_id="o", wedding_id="w", reference="r", wedding_date="2027-06-19", phase="preparation",
            plan_version=1, transaction_id="t2", seq=2, kind="scheduled", origin_tx="t1", parallelism=2, deeds=(deed,),
        )
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
    deed = StepTask(kind=kind, step=VENUE, entry=entry("t1"), state=StepState(step_id="venue", status="waiting"))
    seen = board(deed)
    seen.entries["venue"] = found
    assert (seen.set_before() == {"venue"}) is stays
    assert [e.step_id for e in seen.undoable()] == ([] if stays or not _may_stand(found) else ["venue"])


def _may_stand(found: LedgerEntry) -> bool:
    return found.state != "undone" and bool(found.done or found.unknown_operation)


def test_what_was_not_begun_with_stays_as_it_was() -> None:
    deed = StepTask(kind="late", step=VENUE, entry=entry("t1"), state=StepState(step_id="venue", status="waiting"))
    assert board(deed).set_before() == {"venue"}


def test_a_step_that_begins_here_is_undone_here() -> None:
    seen = board(StepTask(kind="do", step=VENUE))
    seen.put(entry("t2"))
    assert (seen.set_before(), [e.step_id for e in seen.undoable()]) == (set(), ["venue"])
