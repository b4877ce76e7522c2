"""Decide, by what is on record, whether a change of a wedding may be requested now. Pure.

The wedding's workflow decides again when the change's turn comes: it knows more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.plans import references
from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.weddings.messages import Decision, Message, StepStatus, TransactionKind, TransactionStatus

#: A transaction with one of these may still change by itself, at once.
RUNNING: tuple[TransactionStatus, ...] = ("running", "rolling_back")
_OVER = ("rolled_back", "cancelled")
_ENDED = ("cancelled", "ended")


class ActiveTransaction(Message):
    """A transaction on record."""

    id: str
    kind: TransactionKind
    status: TransactionStatus
    step_ids: tuple[str, ...] = ()
    #: The step that a decision is about.
    decides: str | None = None
    #: Of an undo: its target, or that it undoes everything.
    target: str | None = None
    everything: bool = False

    def touches(self, other: ActiveTransaction) -> bool:
        """Tell whether it works on what `other` did: by its steps, or because it undoes it."""
        return self.everything or self.target == other.id or not set(self.step_ids).isdisjoint(other.step_ids)


def check_open(wedding_status: str, *, begins: bool) -> None:
    """Raise Conflict when the wedding is over, or is closing and the change `begins` something new."""
    if wedding_status in _ENDED:
        raise Conflict(f"the wedding is {wedding_status}", reason="wedding_over")
    if begins and wedding_status == "closing":
        raise Conflict("the wedding is closing: nothing new is begun", reason="wedding_over")


def check_orchestrate(active: Iterable[ActiveTransaction]) -> None:
    """Raise Conflict while an orchestration stands."""
    for other in active:
        if other.kind == "orchestrate" and other.status not in _OVER:
            detail = f"transaction {other.id} orchestrates this wedding already; undo it first"
            raise Conflict(detail, reason="already_orchestrated")


def check_whole(active: Iterable[ActiveTransaction]) -> None:
    """Raise Conflict, naming it, while a transaction runs: the change touches every step."""
    for other in active:
        if other.status in RUNNING:
            raise _running(other)


def check_cancel(active: Iterable[ActiveTransaction]) -> None:
    """Raise Conflict, naming it, while an undo runs; any other transaction is stopped and then undone."""
    for other in active:
        if other.status in RUNNING and other.kind == "undo":
            raise _running(other)


def _running(other: ActiveTransaction) -> Conflict:
    return Conflict(f"transaction {other.id} ({other.kind}) is {other.status}", reason="transaction_running")


def check_undo(target: ActiveTransaction, active: Iterable[ActiveTransaction]) -> None:
    """Raise Conflict when `target` can't be undone, or not now: another transaction that touches its steps runs.

    The undo waits for a transaction that touches none of them.
    """
    if target.status in _OVER:
        raise Conflict(f"transaction {target.id} is {target.status}", reason="already_undone")
    if target.kind == "undo":
        raise Conflict(f"transaction {target.id} is itself an undo", reason="not_undoable")
    for other in active:
        if other.status in RUNNING and other.id != target.id and other.touches(target):
            raise _running(other)


def check_decision(
    decision: Decision, status: StepStatus | None, active: Iterable[ActiveTransaction], steps: Sequence[PlannedStep]
) -> None:
    """Raise NotFound, InvalidInput, or Conflict when the step does not wait for this decision."""
    step_id = decision.step_id
    planned = next((step for step in steps if step.id == step_id), None)
    if status is None or planned is None:
        raise NotFound(f"the wedding has no step {step_id}")
    if (decision.choice == "use") != (decision.vendor is not None):
        detail = "`use` needs a vendor" if decision.choice == "use" else "a vendor goes with `use` only"
        raise InvalidInput(detail, field="vendor", reason="vendor")
    for other in active:
        if other.status in RUNNING and other.decides == step_id:
            detail = f"transaction {other.id} carries out a decision on {step_id}"
            raise Conflict(detail, reason="transaction_running")
    if status != "held":
        raise Conflict(f"step {step_id} is {status}: it waits for no decision", reason="step_not_held")
    if decision.choice == "skip":
        _check_skip(planned, steps)


def _check_skip(skipped: PlannedStep, steps: Iterable[PlannedStep]) -> None:
    for step in steps:
        for source, result in sorted(references.names(step.inputs)):
            if source == skipped.id and result not in skipped.default_results:
                detail = f"step {step.id} needs the {result} of {skipped.id}, and the plan gives no default"
                raise Conflict(detail, reason="result_needed")
