"""State that the `Wedding` workflow carries from run to run. Values only; stays small (ADR 0002)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, Self

from pydantic import JsonValue

from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.binding import WeddingFacts
from wedsync.domain.weddings.ledger import LedgerEntry, Recheck
from wedsync.domain.weddings.messages import (
    Message,
    TransactionKind,
    TransactionRequest,
    TransactionStatus,
    WeddingStart,
)
from wedsync.domain.weddings.projection import WeddingRow, WeddingStatus
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.transaction_state import RunningTransaction

ClosingStatus = Literal["cancelled", "ended"]
Mode = Literal["normal", "wedding_day"]
#: The wedding is over: nothing more is done for it.
OVER: frozenset[WeddingStatus] = frozenset({"cancelled", "ended"})
#: Terminal transactions beyond these leave only their ids: their results are rows in Postgres.
KEPT_CARDS = 50
#: Ids of requests and of events that are remembered, so that a repeated one is known.
KEPT_IDS = 1000
#: Events that came before the step they belong to began to wait.
KEPT_EVENTS = 200


class TransactionCard(Message):
    """A transaction as the wedding remembers it."""

    id: str
    kind: TransactionKind
    status: TransactionStatus
    #: For a scheduled one the transaction that put its steps on the agenda.
    origin: str
    gaps: tuple[str, ...] = ()
    #: The ceremony's wall time and zone before a timeline change.
    before_at: str = ""
    before_zone: str = ""
    #: Of a timeline change: who had set the ceremony's time before it; empty: the plan.
    set_before: str = ""
    #: Its undo was requested as `cancel`: once all of it is undone it is `cancelled`.
    cancels: bool = False

    def became(self, status: TransactionStatus, gaps: tuple[str, ...] | None = None) -> Self:
        """Move its status on."""
        return self._with(status=status, gaps=self.gaps if gaps is None else gaps)

    def undone_as(self, status: TransactionStatus, *, cancels: bool) -> Self:
        """Note its undo's result, and whether that was requested as `cancel`."""
        return self._with(status=status, cancels=cancels)

    def moved_from(self, at: str, zone: str, set_by: str) -> Self:
        """Remember, of a timeline change, what the ceremony's time was before it and who had set that."""
        return self._with(before_at=at, before_zone=zone, set_before=set_by)


class Closing(Message):
    """An ending wedding with open matters."""

    becomes: ClosingStatus
    #: Then it ends, whatever is open.
    until: datetime


class PlanFacts(Message):
    """A compiled plan, and its times as they were last resolved."""

    version: int
    locale: str
    zone: str
    ceremony_local: str
    ceremony_at: datetime
    ends_at: datetime
    tzdata_version: str
    parallelism: int
    steps: tuple[PlannedStep, ...]
    #: Values that inputs are filled in with.
    wedding: WeddingFacts


class Course(Message):
    """Purpose of a transaction: it decides what is done once the transaction has settled."""

    request: TransactionRequest | None = None
    #: Of an undo: the transaction to undo; None: everything.
    target: str | None = None
    is_undo: bool = False
    #: Of a timeline change: the plan before it, and the change that it undoes.
    before: PlanFacts | None = None
    undoes: str = ""


class Interrupted(Message):
    """A transaction that goes on in the next run."""

    course: Course
    transaction: RunningTransaction


class WeddingState(Message):
    """Everything that outlives a run of the workflow."""

    start: WeddingStart
    status: WeddingStatus = "planned"
    closing: Closing | None = None
    plan: PlanFacts | None = None
    phase: str = "preparation"
    mode: Mode = "normal"
    #: The transaction that set the ceremony's time last; empty: the plan.
    ceremony_set_by: str = ""
    #: The first orchestration that stands: what the agenda's steps belong to.
    origin: str = ""
    states: dict[str, StepState] = {}
    entries: dict[str, LedgerEntry] = {}
    #: Effects at vendors that a step has left for another one, whose undo needs a person.
    leftovers: tuple[LedgerEntry, ...] = ()
    rechecks: tuple[Recheck, ...] = ()
    cards: dict[str, TransactionCard] = {}
    queue: tuple[TransactionRequest, ...] = ()
    #: Answers given to update ids: request id → transaction id.
    seen: tuple[str, ...] = ()
    events: tuple[VendorEvent, ...] = ()
    known_events: tuple[str, ...] = ()
    #: The number of the newest transaction run.
    seq: int = 0
    #: Counts the writes of what users list; a write's version.
    writes: int = 10
    #: The transaction that a long history interrupted.
    interrupted: Interrupted | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more is done for the wedding."""
        return self.status in OVER

    @property
    def compiled(self) -> PlanFacts:
        """Return the compiled plan. Raises RuntimeError before the wedding's first transaction has begun."""
        if self.plan is None:
            raise RuntimeError("the plan is read when the first transaction begins")
        return self.plan

    def results(self) -> dict[str, dict[str, JsonValue]]:
        """Give the results that later steps may refer to."""
        return {step_id: state.results for step_id, state in self.states.items() if state.results}

    # ---- requests and events

    def asked(self, request: TransactionRequest) -> Self:
        """Take a request into the queue."""
        return self._with(seen=(*self.seen, request.id)[-KEPT_IDS:], queue=(*self.queue, request))

    def without_first_request(self) -> Self:
        """Take the oldest request out of the queue: its turn has come."""
        return self._with(queue=self.queue[1:])

    def knows(self, key: str) -> Self:
        """Remember an event's key, so that its copies are known."""
        return self._with(known_events=(*self.known_events, key)[-KEPT_IDS:])

    def keeping(self, events: Iterable[VendorEvent]) -> Self:
        """Keep these events and no others."""
        return self._with(events=tuple(events))

    # ---- the plan and the agenda

    def opened(self, plan: PlanFacts, states: Mapping[str, StepState]) -> Self:
        """Take the plan in: the wedding is active."""
        return self._with(plan=plan, states=dict(states), status="active")

    def planned_anew(self, plan: PlanFacts) -> Self:
        """Go by another version of the plan."""
        return self if plan == self.plan else self._with(plan=plan)

    def orchestrated(self, origin: str, states: Mapping[str, StepState]) -> Self:
        """Begin anew with every step, in the name of this transaction."""
        return self._with(origin=origin, states=dict(states))

    def with_steps(self, *changed: StepState) -> Self:
        """Replace the states of some steps."""
        return self._with(states={**self.states, **{state.step_id: state for state in changed}})

    def due(self, due: Mapping[str, datetime], later: Iterable[str]) -> Self:
        """Note when the steps in `later` are due, by instants that were resolved just now."""
        changed = {step_id: self.states[step_id].due(due.get(step_id)) for step_id in later}
        return self if all(self.states[i] is s for i, s in changed.items()) else self.with_steps(*changed.values())

    def at_hour(self, phase: str, mode: Mode, status: WeddingStatus) -> Self:
        """Turn to the phase, the mode and the status of the hour."""
        return self._with(phase=phase, mode=mode, status=status)

    def ending_as(self, status: WeddingStatus, closing: Closing | None) -> Self:
        """End the wedding, or close it while something of it is open."""
        return self._with(status=status, closing=closing or self.closing)

    # ---- its transactions

    def numbered(self) -> Self:
        """Count one more transaction."""
        return self._with(seq=self.seq + 1)

    def having_written(self, writes: int) -> Self:
        """Note how many writes there were."""
        return self._with(writes=writes)

    def row(self) -> WeddingRow | None:
        """Give the wedding's own row as users read it; None: the plan was not read yet."""
        if self.plan is None:
            return None
        return WeddingRow(
            status=self.status,
            phase=self.phase,
            mode=self.mode,
            plan_version=self.plan.version,
            ceremony_local=self.plan.ceremony_local,
            zone=self.plan.zone,
            ceremony_at=self.plan.ceremony_at,
        )

    def interrupted_at(self, interrupted: Interrupted | None) -> Self:
        """Carry a transaction into the next run, or take it from there."""
        return self._with(interrupted=interrupted)

    def with_ledger(
        self,
        *,
        states: Mapping[str, StepState],
        entries: Mapping[str, LedgerEntry],
        rechecks: Iterable[Recheck] | None = None,
        leftovers: Iterable[LedgerEntry] | None = None,
    ) -> Self:
        """Replace the steps' states and what is booked."""
        return self._with(
            states=dict(states),
            entries=dict(entries),
            rechecks=self.rechecks if rechecks is None else tuple(rechecks),
            leftovers=self.leftovers if leftovers is None else tuple(leftovers),
        )

    def with_cards(self, cards: Mapping[str, TransactionCard]) -> Self:
        """Replace what is remembered of its transactions."""
        return self._with(cards=dict(cards))

    def without_origin(self) -> Self:
        """Note that no orchestration stands any more."""
        return self._with(origin="")

    def ceremony_by(self, transaction_id: str) -> Self:
        """Note which transaction set the ceremony's time; empty: the plan."""
        return self._with(ceremony_set_by=transaction_id)


class Waiting(Message):
    """One thing that a wedding waits for, for the operator (query `waiting`)."""

    step_id: str
    #: `payment.succeeded`, `decision`, `due`, `recheck`.
    what: str
    object_id: str | None = None
    until: datetime | None = None
