"""What a running transaction knows: the state of its steps, the effects they may have, and whether to stop."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import JsonValue
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.errors import Failure
    from wedsync.domain.errors import OutcomeUnknown
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.degradation import VENDOR_BACK
    from wedsync.domain.weddings.ledger import (
        CompensationResult,
        Field,
        LedgerEntry,
        Recheck,
        StepError,
        StepState,
        TransactionInput,
    )
    from wedsync.domain.weddings.messages import StepStatus
    from wedsync.domain.weddings.plan import PlannedStep

#: Room for so many writes of one transaction; the wedding's own writes come after.
VERSIONS_PER_TRANSACTION = 1_000_000
WEDDING_VERSIONS_FROM = 500_000
_NOT_QUEUED: dict[str, object] = {"queued_at": None, "queued_until": None}


class Board:
    """The mutable heart of one `RunTransaction`."""

    def __init__(self, given: TransactionInput) -> None:
        self.given = given
        self.steps: dict[str, PlannedStep] = {deed.step.id: deed.step for deed in given.deeds}
        self.steps.update({step.id: step for step in given.undo_steps})
        self.states: dict[str, StepState] = {state.step_id: state for state in given.undo_states}
        for deed in given.deeds:
            self.states[deed.step.id] = deed.state or StepState(step_id=deed.step.id, status="pending")
        self.entries: dict[str, LedgerEntry] = {entry.step_id: entry for entry in given.undo}
        #: What stood before a change, to change back to.
        self.before_change: dict[str, LedgerEntry] = {}
        self.rechecks: list[Recheck] = []
        self.results: dict[str, dict[str, JsonValue]] = dict(given.results)
        #: How often each step's undo was sent.
        self.undo_tries: dict[str, int] = {}
        #: Set when nothing new may start: a step failed for good, or a person asked.
        self.stopping = False
        self.stop_reason: StepError | None = None
        self.parked = False
        self._writes = 0

    def next_version(self) -> int:
        """The version of the next write: grows within the transaction and over the wedding's transactions."""
        self._writes += 1
        return self.given.seq * VERSIONS_PER_TRANSACTION + self._writes

    def update(self, step_id: str, **changes: object) -> StepState:
        """Change a step's state."""
        changed = self.states[step_id].model_copy(update={"transaction_id": self.given.transaction_id, **changes})
        self.states[step_id] = changed
        return changed

    def stop(self, reason: StepError) -> None:
        """Start nothing new; the first reason counts."""
        if not self.stopping:
            self.stopping = True
            self.stop_reason = reason

    def statuses(self) -> dict[str, StepStatus]:
        """Each step's status."""
        return {step_id: state.status for step_id, state in self.states.items()}

    def succeeded(self, step_id: str, entry: LedgerEntry, now: datetime) -> None:
        """The step is done and its effect stands."""
        self.put(entry.model_copy(update={"state": "standing"}))
        self.results[step_id] = dict(entry.facts)
        self.update(
            step_id,
            status="succeeded",
            external_id=entry.external_id,
            results=dict(entry.facts),
            ended_at=now,
            error=None,
            waits_for="",
            refused_by=(),
            deadline_at=None,
            unknown=False,
            **_NOT_QUEUED,
        )

    def waiting(
        self,
        step_id: str,
        waits_for: str,
        refused_by: tuple[str, ...],
        deadline_at: datetime,
        error: StepError | None = None,
    ) -> None:
        """All that could be done is done: the step waits for its vendor's word, or a person's."""
        self.update(
            step_id,
            status="waiting",
            waits_for=waits_for,
            refused_by=refused_by,
            deadline_at=deadline_at,
            error=error,
            unknown=False,
            **_NOT_QUEUED,
        )

    def queued(self, step_id: str, failure: Failure, since: datetime, until: datetime, look_at: datetime) -> None:
        """The step waits for its vendors to come back."""
        self.update(
            step_id,
            status="waiting",
            error=StepError(code=failure.reason or failure.code, detail=f"queued until {until:%Y-%m-%d %H:%M} UTC"),
            waits_for=VENDOR_BACK,
            refused_by=(),
            deadline_at=look_at,
            queued_at=since,
            queued_until=until,
        )

    def skipped(self, step_id: str, failure: Failure, now: datetime) -> None:
        """The wedding goes without the step; what the plan gives in its place stands."""
        results = self.steps[step_id].default_results
        self.results[step_id] = dict(results)
        self.update(
            step_id,
            status="skipped",
            error=StepError(code=failure.reason or failure.code, detail=f"skipped, as the plan says: {failure.detail}"),
            results=results,
            ended_at=now,
            deadline_at=None,
            **_NOT_QUEUED,
        )

    def answered_from_before(
        self, step_id: str, results: dict[str, JsonValue], failure: Failure, age: str, now: datetime
    ) -> None:
        """A read that nobody can answer now has an older answer, and says how old."""
        self.results[step_id] = dict(results)
        detail = f"{failure.vendor or 'the vendor'} cannot be reached: this answer is {age} old"
        self.update(
            step_id,
            status="succeeded",
            error=StepError(code="cached_answer", detail=detail),
            results=dict(results),
            ended_at=now,
            deadline_at=None,
            **_NOT_QUEUED,
        )

    def held(self, step_id: str, failure: Failure, now: datetime, *, unknown: bool) -> None:
        """The step waits for a person, who is reminded when half of the time is gone."""
        patience = timedelta(seconds=self.steps[step_id].decide_within_seconds)
        code = OutcomeUnknown.code if unknown else failure.reason or failure.code
        self.update(
            step_id,
            status="held",
            error=StepError(code=code, detail=failure.detail),
            deadline_at=now + patience,
            remind_at=now + patience / 2,
            unknown=unknown,
            waits_for="",
            refused_by=(),
            **_NOT_QUEUED,
        )

    def failed(self, step_id: str, failure: Failure, now: datetime) -> None:
        """The step failed for good."""
        self.update(
            step_id,
            status="failed",
            error=StepError(code=failure.reason or failure.code, detail=failure.detail),
            ended_at=now,
            waits_for="",
            refused_by=(),
            deadline_at=None,
            **_NOT_QUEUED,
        )

    def put(self, entry: LedgerEntry) -> LedgerEntry:
        """Keep an effect, with this transaction as the one that set it where nobody did before."""
        fields = dict(entry.fields)
        fields.setdefault("effect", Field(value=entry.external_id, set_by_tx=self.given.transaction_id))
        if entry.external_id and fields["effect"].value is None:
            fields["effect"] = Field(value=entry.external_id, set_by_tx=fields["effect"].set_by_tx)
        fields.setdefault("inputs", Field(value=None, set_by_tx=self.given.transaction_id))
        kept = entry.model_copy(update={"fields": fields, "origin_tx": entry.origin_tx or self.given.origin_tx})
        self.entries[entry.step_id] = kept
        return kept

    def is_at(self, step_id: str, vendor: str) -> bool:
        """Whether the step's effect is bound to this vendor: one that refuses its inputs is left before that."""
        entry = self.entries.get(step_id)
        return entry is not None and entry.binding.vendor == vendor

    def compensation(self, step_id: str, result: CompensationResult) -> None:
        """Note how a step's undo stands."""
        self.update(step_id, compensation=result)
        if result.status == "needs_attention":
            self.parked = True

    def needs(self) -> dict[str, tuple[str, ...]]:
        """Who needs whom, among all steps known here."""
        return {**self.given.undo_needs, **{step.id: step.needs for step in self.steps.values()}}

    def undoable(self) -> list[LedgerEntry]:
        """The effects that may exist and are this transaction's to undo."""
        kept = self.set_before()
        return [e for e in self.entries.values() if saga.may_have_happened(e) and e.step_id not in kept]

    def set_before(self) -> set[str]:
        """The steps that this one only goes on with: what they hold is undone with the transactions that set it."""
        kept = set()
        for deed in self.given.deeds:
            entry = self.entries.get(deed.step.id, deed.entry)
            if deed.entry is None or deed.kind == "change" or entry is None:
                continue
            if saga.may_have_happened(entry) or entry.state == "waiting":
                effect = entry.fields.get("effect")
                if effect is not None and effect.set_by_tx != self.given.transaction_id:
                    kept.add(deed.step.id)
        return kept

    def lost(self) -> list[StepState]:
        """The steps of which a vendor may hold what no ledger knows."""
        known = set(self.entries) | {deed.step.id for deed in self.given.deeds if deed.entry is not None}
        return [state for step_id, state in self.states.items() if state.unknown and step_id not in known]

    def vendors(self) -> list[str]:
        """The vendors in play, for the search attribute."""
        return sorted({entry.binding.vendor for entry in self.entries.values()})

    def ordered_states(self) -> tuple[StepState, ...]:
        """All states, in the order of the steps; an undo also speaks of steps that have no effect to undo."""
        order: Iterable[str] = dict.fromkeys((*self.steps, *self.states))
        return tuple(self.states[step_id] for step_id in order if step_id in self.states)
