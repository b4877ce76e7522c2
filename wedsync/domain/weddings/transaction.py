"""Values of a wedding's transaction: its input, its running state, its result."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.weddings.ledger import LedgerEntry, Recheck
from wedsync.domain.weddings.messages import Message, TransactionKind, TransactionStatus
from wedsync.domain.weddings.step import StepError, StepState
from wedsync.domain.weddings.task import StepTask


class TransactionInput(Message):
    """Input of a transaction: all it needs, so that it requests nothing else."""

    organization_id: str
    wedding_id: str
    mode: Literal["normal", "wedding_day"] = "normal"
    locale: str = "en"
    transaction_id: str
    seq: int
    kind: TransactionKind
    origin_tx: str
    parallelism: int
    tasks: tuple[StepTask, ...] = ()
    #: Effects to undo, for an undo; with the needs among their steps.
    undo: tuple[LedgerEntry, ...] = ()
    undo_needs: dict[str, tuple[str, ...]] = {}
    undo_steps: tuple[PlannedStep, ...] = ()
    undo_states: tuple[StepState, ...] = ()
    #: `step.field` that a later transaction has set anew since, among what the undo touches: named in the result.
    superseded: tuple[str, ...] = ()
    #: It undoes and does nothing else, though there may be no effect to undo.
    rolls_back: bool = False
    #: An undo that was requested as `cancel`.
    cancel: bool = False
    #: Rechecks of effects that were found absent after an unknown outcome.
    rechecks: tuple[Recheck, ...] = ()
    #: Results of steps that succeeded before.
    results: dict[str, dict[str, JsonValue]] = {}
    #: Steps outside this transaction that satisfy a need: succeeded or skipped.
    satisfied: tuple[str, ...] = ()

    def step_ids(self) -> tuple[str, ...]:
        """Name its steps."""
        return tuple(dict.fromkeys([task.step.id for task in self.tasks] + [s.step_id for s in self.undo_states]))

    def rechecking(
        self, rechecks: tuple[Recheck, ...], steps: tuple[PlannedStep, ...], states: tuple[StepState, ...]
    ) -> TransactionInput:
        """Recheck these effects, too."""
        return self._with(rechecks=rechecks, undo_steps=steps, undo_states=states)

    def as_settled(self, result: TransactionResult) -> TransactionInput:
        """Leave out what a run before this one had not heard of yet when it settled the transaction so."""
        known = {step.step_id for step in result.steps}
        return self._with(
            tasks=tuple(task for task in self.tasks if task.step.id in known),
            rechecks=tuple(recheck for recheck in self.rechecks if recheck.entry.step_id in known),
        )

    def undoing(
        self,
        entries: tuple[LedgerEntry, ...],
        needs: dict[str, tuple[str, ...]],
        steps: tuple[PlannedStep, ...],
        states: tuple[StepState, ...],
        rechecks: tuple[Recheck, ...],
        superseded: tuple[str, ...],
        *,
        cancel: bool,
    ) -> TransactionInput:
        """Undo these effects and do nothing else."""
        return self._with(
            rolls_back=True,
            undo=entries,
            undo_needs=needs,
            undo_steps=steps,
            undo_states=states,
            rechecks=rechecks,
            superseded=superseded,
            cancel=cancel,
        )


class TransactionResult(Message):
    """Result of a transaction: the wedding applies it, and Postgres keeps it."""

    id: str
    seq: int
    kind: TransactionKind
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    steps: tuple[StepState, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    rechecks: tuple[Recheck, ...] = ()
    superseded: tuple[str, ...] = ()
    #: It undid, or was to undo, its own effects, whether all of them could be undone or not.
    rolled_back: bool = False
    started_at: datetime
    ended_at: datetime
    error: StepError | None = None


class TransactionUpdate(Message):
    """Next status of a transaction."""

    transaction_id: str
    #: Given when the row may be gone and is to be made again.
    kind: TransactionKind | None = None
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    error: StepError | None = None
