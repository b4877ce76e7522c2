"""Values of one atomic write to a wedding's rows that users read, and of what it changed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import JsonValue

from wedsync.domain.outbox.catalogue import CeremonyTime
from wedsync.domain.weddings.messages import Message, TransactionKind, TransactionStatus
from wedsync.domain.weddings.step import StepError, StepState
from wedsync.domain.weddings.transaction import TransactionResult

#: closing: cancelled, or past its end, while a matter is still open.
WeddingStatus = Literal["planned", "active", "closing", "cancelled", "ended"]


class StepWrite(Message):
    """A step's present state, and the version of this write."""

    state: StepState
    version: int


class TransactionBegin(Message):
    """A transaction that a workflow run claims and begins; its row is made if the wedding's own agenda started it."""

    id: str
    kind: TransactionKind
    request: dict[str, JsonValue] = {}
    step_ids: tuple[str, ...] = ()
    #: The workflow run that claims it.
    run_id: str
    #: The run that this one continues and takes over from.
    continued_from: str = ""


class AuditRow(Message):
    """An act of the system itself, for the audit log. At least once: a repeated write appends it again."""

    action: str
    subject: str
    detail: dict[str, JsonValue] = {}


class TransactionOutcome(Message):
    """Result of a transaction: written once and never changed."""

    result: TransactionResult
    version: int
    #: Appended when the outcome is new.
    audit: AuditRow | None = None


class TransactionMove(Message):
    """Next status of a transaction."""

    id: str
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    error: StepError | None = None
    version: int


class WeddingRow(Message):
    """State of the wedding itself."""

    status: WeddingStatus
    phase: str
    mode: str
    plan_version: int
    ceremony_local: str
    zone: str
    ceremony_at: datetime
    version: int = 0

    def at(self, version: int) -> Self:
        """Number the write."""
        return self._with(version=version)


class Reference(Message):
    """A vendor's object that belongs to a step."""

    vendor: str
    account: str
    object_id: str
    step_id: str
    transaction_id: str


class EventRow(Message):
    """One more row for watchers; of `step`, `transaction` or `wedding`, it changes none of these."""

    type: Literal["step", "transaction", "wedding"]
    data: dict[str, JsonValue]


class Answer(Message):
    """A read's answer, kept for the time when its vendors are down; an older one never replaces a newer."""

    question: str
    vendor: str
    facts: dict[str, JsonValue]


class ProjectionWrite(Message):
    """One caller's write to one wedding: all of it takes effect or, if a row is at fault, nothing.

    Rows whose version is not newer, or that change nothing, stay as they are and notify nobody.
    """

    organization_id: str
    wedding_id: str
    now: datetime
    #: The workflow run that writes; empty: none does. Versions count within the runs' order: those of a run that took
    #: the wedding over are newer than all before. A run that does not hold the wedding writes nothing.
    run_id: str = ""
    #: The run that this one replaces, if that one holds the wedding.
    takes_from: str = ""
    begin: TransactionBegin | None = None
    #: The id of a running transaction that now rolls back.
    rolling_back: str | None = None
    references: tuple[Reference, ...] = ()
    steps: tuple[StepWrite, ...] = ()
    outcome: TransactionOutcome | None = None
    moves: tuple[TransactionMove, ...] = ()
    events: tuple[EventRow, ...] = ()
    wedding: WeddingRow | None = None
    audit: tuple[AuditRow, ...] = ()
    answer: Answer | None = None

    def taking_from(self, run_id: str) -> Self:
        """Take the wedding over from this run."""
        return self._with(takes_from=run_id)

    def audited(self, *rows: AuditRow) -> Self:
        """Append these to the audit log, too."""
        return self._with(audit=(*rows, *self.audit))


class Claim(Message):
    """A run that holds a transaction, and the status once it has settled: then it must not run."""

    run_id: str
    settled_status: TransactionStatus | None = None
    settled_result: TransactionResult | None = None


class Written(Message):
    """Changes that a write made."""

    #: Nothing: this other run holds the wedding.
    contested_by: str | None = None
    #: The numbers of the first and the last event that it made.
    first_event: int | None = None
    last_event: int | None = None
    #: The outcome was new.
    has_settled: bool = False
    #: Of `begin`.
    claim: Claim | None = None
    #: The ceremony's time before this write moved it.
    previous_ceremony: CeremonyTime | None = None
