"""What a wedding's workflow carries: the state of each step, the ledger and the agenda. Values only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.routing.vendor import ActionSpec, OperationSpec
from wedsync.domain.weddings.messages import (
    CompensationStatus,
    Decision,
    Message,
    StepStatus,
    TransactionKind,
    TransactionStatus,
)
from wedsync.domain.weddings.plan import PlannedStep


class StepError(Message):
    """Why a step is not where it should be. `detail` holds no guest's data."""

    code: str
    detail: str


class CompensationResult(Message):
    """How the undo of a step stands."""

    status: CompensationStatus
    attempts: int = 0
    detail: str = ""


class Binding(Message):
    """Who is called, and with what: decided by an activity, in history before the deed."""

    vendor: str
    account: str
    #: Materialized inputs, in the shape of `wedsync.domain.routing.inputs`.
    inputs: dict[str, JsonValue]
    #: Raised only after a known non-effect.
    round: int
    #: Our name for the effect at the vendor.
    reference: str
    spec: ActionSpec
    endpoints: dict[str, JsonValue] = {}
    timeout_seconds: float = 8.0
    #: How long the vendor honours an idempotency key; 0: it has none.
    idempotency_hours: float = 0
    #: The transaction that bound it: part of its idempotency keys for ever.
    transaction_id: str
    #: Where the vendor, or a person, says that what has no API is done. Signed; empty where an API does it.
    hand_link: str = ""
    #: The counter-message's text, references filled in; empty: none is sent.
    counter_text: str = ""
    bound_at: datetime


class Field(Message):
    """One field of the ledger: its value and who set it last."""

    value: JsonValue
    set_by_tx: str


class LedgerEntry(Message):
    """What a step did, or may have done, at a vendor: enough to undo it."""

    step_id: str
    binding: Binding
    #: begun: may hold an effect, outcome unknown. standing: done. waiting: the vendor's word is still to come.
    #: parked: its undo needs a person. undone: nothing of it is left.
    state: Literal["begun", "standing", "waiting", "parked", "undone"]
    external_id: str | None = None
    facts: dict[str, JsonValue] = {}
    #: The vendor's version of the object, and the digest of what we wrote: to notice what others changed there.
    etag: str | None = None
    content: str | None = None
    #: A change failed and could not be put back: `binding.inputs` may not be what the vendor holds.
    uncertain: bool = False
    #: The operations whose outcome is known to have taken effect, in order.
    done: tuple[str, ...] = ()
    #: The operation that was under way when the outcome got lost.
    unknown_operation: str | None = None
    #: When that operation was last sent.
    last_sent_at: datetime | None = None
    #: How often the vendor refused each operation of the undo: asked again, it is asked under a new key.
    undo_rounds: dict[str, int] = {}
    #: `effect` and `inputs`, each with the transaction that set it.
    fields: dict[str, Field] = {}
    #: The transaction that put the step on the agenda: undoing it undoes this too.
    origin_tx: str = ""

    def set_by(self, transaction_id: str) -> bool:
        """Whether undoing `transaction_id` undoes this effect."""
        effect = self.fields.get("effect")
        return self.origin_tx == transaction_id or (effect is not None and effect.set_by_tx == transaction_id)

    def last_operation(self) -> OperationSpec:
        """The newest operation that is known to have taken effect. Raises StopIteration when none is."""
        return next(o for o in self.binding.spec.operations if self.done and o.name == self.done[-1])


class StepState(Message):
    """Where a step stands, as the wedding carries it and Postgres shows it."""

    step_id: str
    status: StepStatus
    transaction_id: str | None = None
    vendor: str | None = None
    account: str | None = None
    fallback_used: bool = False
    attempts: int = 0
    #: The number of the newest try: see the idempotency key.
    round: int = 0
    external_id: str | None = None
    #: What later steps may refer to.
    results: dict[str, JsonValue] = {}
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: StepError | None = None
    compensation: CompensationResult | None = None
    #: While waiting: the events that end it.
    waits_for: str = ""
    refused_by: tuple[str, ...] = ()
    #: While waiting or held: when the wedding stops waiting; of a queued step, when it is tried again.
    deadline_at: datetime | None = None
    #: While its vendors are all down and the plan lets it wait for them: since when, and until when.
    queued_at: datetime | None = None
    queued_until: datetime | None = None
    #: While held: when its people are reminded; None once they were.
    remind_at: datetime | None = None
    #: While held: whether the vendor may hold an effect, so that no other vendor may be tried.
    unknown: bool = False


class Recheck(Message):
    """An effect that was found absent after an unknown outcome, to be looked for again."""

    entry: LedgerEntry
    due_at: datetime
    #: 1: after an hour; 2: after a day.
    look: int


class Deed(Message):
    """One thing a transaction has to do about one step."""

    kind: Literal["do", "answer", "late", "change"]
    step: PlannedStep
    #: The round to start at.
    round: int = 1
    #: The vendors to try, in order.
    vendors: tuple[str, ...] = ()
    #: For answer, late, change, and a `do` after an unknown outcome: what stands already.
    entry: LedgerEntry | None = None
    state: StepState | None = None
    #: For answer: what the vendor said.
    event_type: str = ""
    event_facts: dict[str, JsonValue] = {}

    @property
    def is_retry(self) -> bool:
        """Whether a person, who was to decide, wants it tried again."""
        return self.state is not None and self.state.status == "held"

    def standing(self) -> LedgerEntry:
        """What stands already. Raises ValueError for a deed that was given nothing."""
        if self.entry is None:
            raise ValueError("a deed about a standing step comes with its ledger entry")
        return self.entry


class TransactionInput(Message):
    """The input of the workflow `RunTransaction`."""

    organization_id: str
    wedding_id: str
    reference: str
    #: Venue-local date of the ceremony, for the search attribute.
    wedding_date: str
    phase: str
    mode: Literal["normal", "wedding_day"] = "normal"
    locale: str = "en"
    plan_version: int
    transaction_id: str
    seq: int
    kind: TransactionKind
    origin_tx: str
    parallelism: int
    deeds: tuple[Deed, ...] = ()
    #: Effects to undo, for an undo; with the needs among their steps.
    undo: tuple[LedgerEntry, ...] = ()
    undo_needs: dict[str, tuple[str, ...]] = {}
    undo_steps: tuple[PlannedStep, ...] = ()
    undo_states: tuple[StepState, ...] = ()
    #: `step.field` of what the undo touches that a later transaction has set anew: named in the result.
    superseded: tuple[str, ...] = ()
    #: It undoes and does nothing else, though there may be no effect to undo.
    rolls_back: bool = False
    #: An undo that was asked for as `cancel`.
    cancel: bool = False
    #: Looks again at effects that were found absent after an unknown outcome.
    rechecks: tuple[Recheck, ...] = ()
    #: Results of steps that succeeded before.
    results: dict[str, dict[str, JsonValue]] = {}
    #: Steps outside this transaction that satisfy a need: succeeded or skipped.
    satisfied: tuple[str, ...] = ()
    decision: Decision | None = None
    #: Who tells the wedding what it came to: the workflow itself (those started before 0.1), or the activity that
    #: settles it, which costs the history nothing.
    told_by: Literal["workflow", "settling"] = "workflow"

    def step_ids(self) -> frozenset[str]:
        """The steps it is about."""
        return frozenset(deed.step.id for deed in self.deeds) | {state.step_id for state in self.undo_states}


class TransactionResult(Message):
    """What a transaction came to. Given to the wedding by signal and kept in Postgres."""

    id: str
    seq: int
    kind: TransactionKind
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    steps: tuple[StepState, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    rechecks: tuple[Recheck, ...] = ()
    superseded: tuple[str, ...] = ()
    #: It undid what it had done, or was to undo, whether all of that could be undone or not.
    rolled_back: bool = False
    started_at: datetime
    ended_at: datetime
    error: StepError | None = None
