"""What the `Wedding` workflow carries from run to run. Values only; stays small (ADR 0002)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.routing.vendor import VendorEvent
from wedsync.domain.weddings.ledger import LedgerEntry, Recheck, StepState
from wedsync.domain.weddings.messages import (
    Message,
    TransactionKind,
    TransactionRequest,
    TransactionStatus,
    WeddingStart,
)
from wedsync.domain.weddings.plan import PlannedStep

#: closing: cancelled, or past its end, while something of it is still open.
WeddingStatus = Literal["planned", "active", "closing", "cancelled", "ended"]
ClosingStatus = Literal["cancelled", "ended"]
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
    #: Its undo was asked for as `cancel`: once all of it is undone it is `cancelled`.
    cancels: bool = False


class Closing(Message):
    """How a wedding ends whose open matters are still seen to."""

    becomes: ClosingStatus
    #: Then it ends, whatever is open.
    until: datetime


class PlanFacts(Message):
    """The compiled plan, and what its times meant when it was last resolved."""

    version: int
    locale: str
    zone: str
    ceremony_local: str
    ceremony_at: datetime
    ends_at: datetime
    tzdata_version: str
    parallelism: int
    steps: tuple[PlannedStep, ...]


class WeddingState(Message):
    """Everything that outlives a run of the workflow."""

    start: WeddingStart
    status: WeddingStatus = "planned"
    closing: Closing | None = None
    plan: PlanFacts | None = None
    phase: str = "preparation"
    mode: Literal["normal", "wedding_day"] = "normal"
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
    #: Counts the wedding's own writes to Postgres.
    writes: int = 10

    def results(self) -> dict[str, dict[str, JsonValue]]:
        """What later steps may refer to."""
        return {step_id: state.results for step_id, state in self.states.items() if state.results}


class Waiting(Message):
    """What a wedding waits for, for the operator (query `waiting`)."""

    step_id: str
    #: `payment.succeeded`, `decision`, `due`, `recheck`.
    what: str
    object_id: str | None = None
    until: datetime | None = None
