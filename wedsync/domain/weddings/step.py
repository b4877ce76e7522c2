"""State of one step of a wedding. It changes by named methods only, so that no state is half written."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Self

from pydantic import JsonValue

from wedsync.domain.errors import OutcomeUnknown
from wedsync.domain.failure import Failure
from wedsync.domain.weddings.messages import CompensationStatus, Message, StepStatus

#: A queued step waits for this: no vendor's event has this name.
VENDOR_BACK = "vendor.back"
_NOT_WAITING: dict[str, Any] = {
    "waits_for": "",
    "refused_by": (),
    "deadline_at": None,
    "queued_at": None,
    "queued_until": None,
}
#: A hold past its deadline that takes no default is given at least so much more time.
_LEAST_PATIENCE = timedelta(days=1)


class StepError(Message):
    """Why a step is not where it should be. `detail` holds no guest's data."""

    code: str
    detail: str


def step_error(failure: Failure) -> StepError:
    """Name a failure as a step shows it: by its reason where there is one."""
    return StepError(code=failure.reason or failure.code, detail=failure.detail)


class CompensationResult(Message):
    """State of a step's undo."""

    status: CompensationStatus
    attempts: int = 0
    detail: str = ""

    def must_be_undone(self) -> Self:
        """Turn a last recheck that still found something into a person's matter."""
        return self._with(status="needs_attention")


class StepState(Message):
    """State of a step, as the wedding carries it and Postgres shows it."""

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
    #: Results that later steps may refer to.
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

    # ---- on the agenda

    def due(self, at: datetime | None) -> Self:
        """Say when the step is due, or that nobody knows yet."""
        return self if at == self.due_at else self._with(due_at=at)

    def off_the_agenda(self) -> Self:
        """Skip a step that has not begun: what it belonged to was undone."""
        return self._with(status="skipped", due_at=None)

    def reminded(self) -> Self:
        """Note that its people were reminded of the decision."""
        return self._with(remind_at=None)

    def put_off(self, patience: timedelta, now: datetime) -> Self:
        """Give a hold past its deadline as much patience again, at least a day, with a reminder at half of it."""
        more = max(patience, _LEAST_PATIENCE)
        return self._with(deadline_at=now + more, remind_at=now + more / 2)

    # ---- within a transaction

    def of(self, transaction_id: str) -> Self:
        """Name the transaction that works on the step now."""
        return self if self.transaction_id == transaction_id else self._with(transaction_id=transaction_id)

    def begun(self, now: datetime) -> Self:
        """Begin the step, or begin it anew."""
        return self._with(status="running", started_at=self.started_at or now, error=None, compensation=None)

    def running_again(self) -> Self:
        """Go on with a step that waited."""
        return self._with(status="running", error=None)

    def at_vendor(self, vendor: str, account: str, *, is_fallback: bool) -> Self:
        """Turn to a vendor: one more attempt."""
        return self._with(vendor=vendor, account=account, attempts=self.attempts + 1, fallback_used=is_fallback)

    def in_round(self, number: int) -> Self:
        """Note the round that its keys are of."""
        return self if number == self.round else self._with(round=number)

    def tried_again(self) -> Self:
        """Count one more attempt."""
        return self._with(attempts=self.attempts + 1)

    def holding(self, external_id: str | None) -> Self:
        """Name the vendor's object."""
        return self if external_id == self.external_id else self._with(external_id=external_id)

    def answered(self, *, waits: bool, now: datetime) -> Self:
        """Show that the vendor has answered its last call: finally, or with an event to come."""
        return self._with(status="waiting" if waits else "succeeded", ended_at=None if waits else now)

    def succeeded(self, external_id: str | None, results: dict[str, JsonValue], now: datetime) -> Self:
        """End well: the effect stands."""
        return self._with(
            status="succeeded",
            external_id=external_id,
            results=dict(results),
            ended_at=now,
            error=None,
            unknown=False,
            **_NOT_WAITING,
        )

    def changed(self, *, was_uncertain: bool) -> Self:
        """End a change well; it clears what an earlier change that could not be put back had left."""
        cleared = {"compensation": None} if was_uncertain else {}
        return self._with(status="succeeded", error=None, **cleared)

    def answered_from_before(self, results: dict[str, JsonValue], detail: str, now: datetime) -> Self:
        """End a read that nobody can answer now with an older answer, and say how old it is."""
        error = StepError(code="cached_answer", detail=detail)
        return self._with(status="succeeded", error=error, results=dict(results), ended_at=now, **_NOT_WAITING)

    def waiting(
        self, waits_for: str, refused_by: tuple[str, ...], deadline_at: datetime, error: StepError | None = None
    ) -> Self:
        """Wait for the vendor's event, or for a person: all that could be done is done."""
        wait = {**_NOT_WAITING, "waits_for": waits_for, "refused_by": refused_by, "deadline_at": deadline_at}
        return self._with(status="waiting", error=error, unknown=False, **wait)

    def queued(self, failure: Failure, since: datetime, until: datetime, probe_at: datetime) -> Self:
        """Wait for the vendors to come back; `probe_at` is the next try."""
        error = StepError(code=failure.reason or failure.code, detail=f"queued until {until:%Y-%m-%d %H:%M} UTC")
        wait = {**_NOT_WAITING, "waits_for": VENDOR_BACK, "deadline_at": probe_at}
        return self._with(status="waiting", error=error, **{**wait, "queued_at": since, "queued_until": until})

    def held(self, failure: Failure, patience: timedelta, now: datetime, *, unknown: bool) -> Self:
        """Wait for a person's decision, with a reminder when half of the time is gone."""
        code = OutcomeUnknown.code if unknown else failure.reason or failure.code
        wait = {**_NOT_WAITING, "deadline_at": now + patience, "remind_at": now + patience / 2}
        error = StepError(code=code, detail=failure.detail)
        return self._with(status="held", error=error, unknown=unknown, **wait)

    def left_open(self, error: StepError, *, unknown: bool) -> Self:
        """Hold a step whose transaction broke; `unknown`: nobody knows how far it came."""
        return self._with(status="held", error=error, unknown=unknown, **_NOT_WAITING)

    def failed(self, error: StepError, now: datetime) -> Self:
        """Fail for good."""
        return self._with(status="failed", error=error, ended_at=now, **_NOT_WAITING)

    def refused(self, error: StepError) -> Self:
        """Keep the state in effect: its change was refused."""
        return self._with(error=error)

    def skipped(self, results: dict[str, JsonValue], error: StepError | None, now: datetime) -> Self:
        """Go without the step; the results that the plan gives in its place hold."""
        return self._with(
            status="skipped", results=dict(results), error=error, ended_at=now, unknown=False, **_NOT_WAITING
        )

    def not_begun(self) -> Self:
        """Skip a step that was never begun: its transaction rolls back."""
        return self._with(status="skipped")

    def compensated(self, result: CompensationResult | None) -> Self:
        """Note how the undo of the step stands."""
        return self if result == self.compensation else self._with(compensation=result)


def unbegun(step_id: str, at: str | None, before: StepState | None = None) -> StepState:
    """Make the state of a step that has not begun; its rounds go on from an earlier orchestration's."""
    return StepState(step_id=step_id, status="scheduled" if at else "pending", round=before.round if before else 0)
