"""What a running transaction knows, and how that outlives a pause."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, JsonValue

from wedsync.domain.failure import Failure
from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.ledger import LedgerEntry, Recheck
from wedsync.domain.weddings.messages import Message, StepStatus
from wedsync.domain.weddings.step import CompensationResult, StepError, StepState, step_error
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.transaction import TransactionInput, TransactionResult


class CallProgress(BaseModel):
    """Tries of one operation so far: outlives a pause, so its waits are instants. Changes while it runs."""

    tries: int = 0
    #: The outcome of an earlier try is unknown.
    lost: bool = False
    sent_at: datetime
    first_sent_at: datetime
    #: While it waits for the next try.
    wait_until: datetime | None = None
    #: It waits for the moment from which "not found" counts.
    until_absent: bool = False
    why: str = ""


class RunningTransaction(Message):
    """A transaction at a quiet point, as the wedding carries it into its next run."""

    input: TransactionInput
    started_at: datetime
    phase: Literal["forward", "rollback"]
    tasks: dict[str, StepTask]
    begun: tuple[str, ...]
    paused: tuple[str, ...]
    states: dict[str, StepState]
    entries: dict[str, LedgerEntry]
    before_change: dict[str, LedgerEntry]
    rechecks: tuple[Recheck, ...]
    results: dict[str, dict[str, JsonValue]]
    undo_tries: dict[str, int]
    undo_deadlines: dict[str, datetime]
    undo_turns: dict[str, datetime]
    undo_over: tuple[str, ...]
    calls: dict[str, CallProgress]
    is_stopping: bool
    is_cancelled: bool
    stop_reason: StepError | None
    is_parked: bool


class TransactionState:
    """State of a running transaction: its steps, the effects they may have, and whether to stop."""

    def __init__(self, given: TransactionInput, started_at: datetime) -> None:
        self.input = given
        self.started_at = started_at
        self.phase: Literal["forward", "rollback"] = "forward"
        self.tasks: dict[str, StepTask] = {task.step.id: task for task in given.tasks}
        #: The tasks that were begun.
        self.begun: set[str] = set()
        #: Of these the ones that a pause interrupted.
        self.paused: set[str] = set()
        self.steps: dict[str, PlannedStep] = {task.step.id: task.step for task in given.tasks}
        self.steps.update({step.id: step for step in given.undo_steps})
        self.states: dict[str, StepState] = {state.step_id: state for state in given.undo_states}
        for task in given.tasks:
            self.states[task.step.id] = task.state or StepState(step_id=task.step.id, status="pending")
        self.entries: dict[str, LedgerEntry] = {entry.step_id: entry for entry in given.undo}
        #: The effects before a change, to change back to.
        self.before_change: dict[str, LedgerEntry] = {}
        self.rechecks: list[Recheck] = []
        self.results: dict[str, dict[str, JsonValue]] = dict(given.results)
        #: How often each step's undo was sent, when each is given up, when its turn came, and which are over.
        self.undo_tries: dict[str, int] = {}
        self.undo_deadlines: dict[str, datetime] = {}
        self.undo_turns: dict[str, datetime] = {}
        self.undo_over: set[str] = set()
        #: The undos that an error of ours ended.
        self.undo_broken: set[str] = set()
        #: The operations under way, by `step/purpose/operation`.
        self.calls: dict[str, CallProgress] = {}
        #: Set when nothing new may start: a step failed for good, or a person stopped it.
        self.stopping = False
        self.cancelled = given.cancel
        self.stop_reason: StepError | None = None
        self.parked = False
        #: Set when the run's history is long: nothing new starts, calls under way are awaited, the rest is carried.
        self.pausing = False

    @property
    def transaction_id(self) -> str:
        """Return the transaction's id."""
        return self.input.transaction_id

    # ---- over a pause

    def carried(self) -> RunningTransaction:
        """Give the state at a quiet point, to go on from in another run."""
        return RunningTransaction(
            input=self.input,
            started_at=self.started_at,
            phase=self.phase,
            tasks=self.tasks,
            begun=tuple(sorted(self.begun)),
            paused=tuple(sorted(self.paused)),
            states=self.states,
            entries=self.entries,
            before_change=self.before_change,
            rechecks=tuple(self.rechecks),
            results=self.results,
            undo_tries=self.undo_tries,
            undo_deadlines=self.undo_deadlines,
            undo_turns=self.undo_turns,
            undo_over=tuple(sorted(self.undo_over)),
            calls=self.calls,
            is_stopping=self.stopping,
            is_cancelled=self.cancelled,
            stop_reason=self.stop_reason,
            is_parked=self.parked,
        )

    @classmethod
    def resumed(cls, carried: RunningTransaction) -> TransactionState:
        """Go on from what an earlier run carried."""
        state = cls(carried.input, carried.started_at)
        state.phase, state.tasks, state.begun = carried.phase, dict(carried.tasks), set(carried.begun)
        state.paused = set(carried.paused)
        state.states, state.entries = dict(carried.states), dict(carried.entries)
        state.before_change, state.rechecks = dict(carried.before_change), list(carried.rechecks)
        state.results = dict(carried.results)
        state.undo_tries, state.undo_deadlines = dict(carried.undo_tries), dict(carried.undo_deadlines)
        state.undo_turns = dict(carried.undo_turns)
        state.undo_over, state.calls = set(carried.undo_over), dict(carried.calls)
        state.stopping, state.cancelled = carried.is_stopping, carried.is_cancelled
        state.stop_reason, state.parked = carried.stop_reason, carried.is_parked
        return state

    # ---- steps

    def step(self, step_id: str) -> StepState:
        """Give the step's state as this transaction's."""
        return self.states[step_id].of(self.transaction_id)

    def put_step(self, state: StepState) -> None:
        """Keep a step's new state, as this transaction's."""
        self.states[state.step_id] = state.of(self.transaction_id)

    def succeeded(self, step_id: str, entry: LedgerEntry, now: datetime) -> None:
        """End the step well: its effect stands."""
        self.put(entry.in_state("standing"))
        self.results[step_id] = dict(entry.facts)
        self.put_step(self.step(step_id).succeeded(entry.external_id, entry.facts, now))

    def skipped(self, step_id: str, failure: Failure, now: datetime) -> None:
        """Go without the step, as its plan says; the results that the plan gives in its place hold."""
        results = self.steps[step_id].default_results
        self.results[step_id] = dict(results)
        detail = f"skipped, as the plan says: {failure.detail}"
        error = StepError(code=failure.reason or failure.code, detail=detail)
        self.put_step(self.step(step_id).skipped(results, error, now))

    def answered_from_before(self, step_id: str, results: dict[str, JsonValue], detail: str, now: datetime) -> None:
        """End a read that nobody can answer now with an older answer."""
        self.results[step_id] = dict(results)
        self.put_step(self.step(step_id).answered_from_before(results, detail, now))

    def held(self, step_id: str, failure: Failure, now: datetime, *, unknown: bool) -> None:
        """Let the step wait for a person."""
        patience = timedelta(seconds=self.steps[step_id].decide_within_seconds)
        self.put_step(self.step(step_id).held(failure, patience, now, unknown=unknown))

    def failed(self, step_id: str, failure: Failure, now: datetime) -> None:
        """Fail the step for good."""
        self.put_step(self.step(step_id).failed(step_error(failure), now))

    def compensation(self, step_id: str, result: CompensationResult | None) -> None:
        """Note the state of a step's undo."""
        self.put_step(self.step(step_id).compensated(result))
        if saga.needs_attention(result):
            self.parked = True

    def statuses(self) -> dict[str, StepStatus]:
        """Give each step's status."""
        return {step_id: state.status for step_id, state in self.states.items()}

    def ordered_states(self) -> tuple[StepState, ...]:
        """Give all states, in the order of the steps; an undo also covers steps that have no effect to undo."""
        order: Iterable[str] = dict.fromkeys((*self.steps, *self.states))
        return tuple(self.states[step_id] for step_id in order if step_id in self.states)

    # ---- effects

    def put(self, entry: LedgerEntry) -> LedgerEntry:
        """Keep an effect, with this transaction as the one that set it where nobody did before."""
        kept = entry.set_in(self.transaction_id, self.input.origin_tx)
        self.entries[entry.step_id] = kept
        return kept

    def is_at(self, step_id: str, vendor: str) -> bool:
        """Tell whether the effect is bound to this vendor: a vendor that refuses its inputs is left before that."""
        entry = self.entries.get(step_id)
        return entry is not None and entry.binding.vendor == vendor

    def needs(self) -> dict[str, tuple[str, ...]]:
        """Map each step known here to its needs."""
        return {**self.input.undo_needs, **{step.id: step.needs for step in self.steps.values()}}

    def undoable(self) -> list[LedgerEntry]:
        """Give the effects that may exist and are this transaction's to undo."""
        kept = self.set_before()
        return [e for e in self.entries.values() if saga.may_have_happened(e) and e.step_id not in kept]

    def set_before(self) -> set[str]:
        """Name the steps that this transaction only goes on with.

        Their effects are undone with the transactions that set them.
        """
        kept = set()
        for task in self.input.tasks:
            entry = self.entries.get(task.step.id, task.entry)
            if task.entry is None or task.kind == "change" or entry is None:
                continue
            if saga.may_have_happened(entry) or entry.state == "waiting":
                effect = entry.fields.get("effect")
                if effect is not None and effect.set_by_tx != self.transaction_id:
                    kept.add(task.step.id)
        return kept

    def lost(self) -> list[StepState]:
        """Give the steps of which a vendor may hold an effect that no ledger knows."""
        known = set(self.entries) | {task.step.id for task in self.input.tasks if task.entry is not None}
        return [state for step_id, state in self.states.items() if state.unknown and step_id not in known]

    def vendors(self) -> list[str]:
        """Name the vendors in play."""
        return sorted({entry.binding.vendor for entry in self.entries.values()})

    # ---- its end

    def stop(self, reason: StepError, *, cancel: bool = False) -> None:
        """Start nothing new; the first reason counts."""
        self.cancelled = self.cancelled or cancel
        if not self.stopping:
            self.stopping = True
            self.stop_reason = reason

    def result(self, now: datetime, error: StepError | None = None) -> TransactionResult:
        """Make the transaction's result; `error` ends it as `needs_attention`, whatever its steps say."""
        states, rolled_back = self.ordered_states(), self.phase == "rollback"
        status = saga.transaction_status(
            states,
            rolled_back=rolled_back,
            cancelled=self.cancelled and rolled_back and self.input.kind != "undo",
            parked=self.parked or error is not None,
        )
        return TransactionResult(
            id=self.transaction_id,
            seq=self.input.seq,
            kind=self.input.kind,
            status=status,
            gaps=() if rolled_back else saga.gaps(states),
            steps=states,
            entries=tuple(self.entries.values()),
            rechecks=tuple(self.rechecks),
            superseded=self.input.superseded,
            rolled_back=rolled_back,
            started_at=self.started_at,
            ended_at=now,
            error=error or (self.stop_reason if rolled_back else None),
        )

    def broken(self, error: StepError, now: datetime) -> TransactionResult:
        """Make the result of a transaction that an error of ours ended: a person checks what was under way."""
        for step_id, state in list(self.states.items()):
            if state.status == "running":
                self.put_step(state.left_open(error, unknown=True))
            elif state.status == "pending" and step_id not in self.begun:
                self.put_step(state.not_begun() if self.phase == "rollback" else state.left_open(error, unknown=False))
        for step_id in sorted(self.undo_deadlines.keys() - self.undo_over):
            self._leave_undo_open(step_id, error)
        left = {(r.entry.step_id, r.look) for r in self.rechecks}
        again = [r.put_off(now) for r in self.input.rechecks if (r.entry.step_id, r.look) not in left]
        self.rechecks.extend(again)
        return self.result(now, error)

    def _leave_undo_open(self, step_id: str, error: StepError) -> None:
        """Leave an unfinished undo to a person, unless there is nothing to undo."""
        entry = self.entries[step_id]
        plan, why = saga.undo_plan(entry, self.steps[step_id])
        if plan in ("leave", "nothing"):
            self.compensation(step_id, CompensationResult(status="nothing_to_undo", detail=why))
            return
        self.entries[step_id] = entry.in_state("parked")
        self.compensation(step_id, CompensationResult(status="needs_attention", detail=error.detail))
