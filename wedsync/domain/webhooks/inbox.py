"""The rules of the inbox: which lane an event takes, whose it is, and what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.routing.vendor import Value, VendorEvent
from wedsync.domain.webhooks.messages import Lane

State = Literal["received", "processed", "unmatched", "dead"]

CRITICAL, HIGH, NORMAL, LOW = 1, 2, 3, 4

#: After this many faults of its own an event is dead: kept with its reason, tried no more by itself.
MAX_ATTEMPTS = 5
#: The wait after the first, second, ... fault.
BACKOFF = (timedelta(seconds=10), timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
#: How long an event that nobody claims is looked at again: its reference is written only after the vendor's answer,
#: and the event may overtake that answer.
UNMATCHED_PATIENCE = timedelta(minutes=10)
#: The shortest wait between two looks at an unclaimed event; each wait is as long as the event is old.
UNMATCHED_FIRST_WAIT = timedelta(seconds=1)
#: The most of an error's text that is kept.
MAX_ERROR_LENGTH = 500
#: The type of events that no step waits for.
OTHER = "other"


class NewRow(Value):
    """One event as it is recorded."""

    event: VendorEvent
    priority: int
    #: The exact bytes received, encrypted.
    sealed_body: bytes


class ClaimedRow(Value):
    """One recorded event as a drain takes it in hand."""

    id: int
    source: str
    event_id: str
    #: A stored `VendorEvent`; an older release may have written it.
    event: dict[str, JsonValue]
    attempts: int
    received_at: datetime


class Reference(Value):
    """An object at a vendor that a step of a wedding holds."""

    vendor: str
    object_id: str
    organization_id: str
    wedding_id: str
    step_id: str


class WeddingRow(Value):
    """As much of a wedding as matching asks for."""

    id: str
    organization_id: str
    #: Cancelled or over: its workflow may be gone.
    ended: bool


class Match(Value):
    """Whose event it is."""

    organization_id: str
    wedding_id: str
    step_id: str | None
    ended: bool


class Verdict(Value):
    """What becomes of one row."""

    state: State
    attempts: int
    #: Why it is not simply processed; a note when it is.
    error: str | None = None
    match: Match | None = None
    #: When it is due again; None: settled.
    due_at: datetime | None = None


def priority_of(event_type: str) -> int:
    """How urgent an event is by its type alone; events of weddings in wedding-day mode are raised to critical.

    Payments' and businesses' answers let steps go on (high); the rest reports (normal); `other` is only kept (low).
    """
    if event_type == OTHER:
        return LOW
    return HIGH if event_type.partition(".")[0] in ("payment", "booking") else NORMAL


def lane_of(priority: int) -> Lane:
    """Critical rows have a lane of their own."""
    return "critical" if priority <= CRITICAL else "normal"


def find_match(
    source: str,
    event: VendorEvent,
    weddings: Mapping[str, WeddingRow],
    references: Mapping[tuple[str, str], Sequence[Reference]],
) -> Match | None:
    """Whose event it is: by the wedding it names, else by the object it is about; None: nobody's, or several weddings'.

    `references` are keyed by (vendor, object id). A wedding that we don't have is not believed.
    """
    held = references.get((source, event.object_id), ()) if event.object_id else ()
    named = weddings.get(event.wedding_id) if event.wedding_id else None
    if named is None:
        if len({ref.wedding_id for ref in held}) != 1:
            return None
        named = weddings.get(held[0].wedding_id)
        if named is None:
            return None
    steps = {ref.step_id for ref in held if ref.wedding_id == named.id}
    by_object = next(iter(steps)) if len(steps) == 1 else None
    is_told_by_event = event.wedding_id == named.id and event.step_id is not None
    return Match(
        organization_id=named.organization_id,
        wedding_id=named.id,
        step_id=event.step_id if is_told_by_event else by_object,
        ended=named.ended,
    )


def processed(row: ClaimedRow, match: Match | None = None, note: str | None = None) -> Verdict:
    """Done with it."""
    return Verdict(state="processed", attempts=row.attempts, error=note, match=match)


def unclaimed(row: ClaimedRow, now: datetime) -> Verdict:
    """Nobody's, as far as is known: looked at again while it is young, at ages of about 1, 2, 4, 8, ... seconds."""
    due_at = now + max(UNMATCHED_FIRST_WAIT, now - row.received_at)
    is_young = due_at <= row.received_at + UNMATCHED_PATIENCE
    return Verdict(
        state="unmatched",
        attempts=row.attempts,
        error="no wedding claims it",
        due_at=due_at if is_young else None,
    )


def after_fault(row: ClaimedRow, reason: str, now: datetime, match: Match | None = None) -> Verdict:
    """A fault of the event itself: put off by `BACKOFF`, dead at the `MAX_ATTEMPTS`th."""
    attempts = row.attempts + 1
    is_dead = attempts >= MAX_ATTEMPTS
    return Verdict(
        state="dead" if is_dead else "received",
        attempts=attempts,
        error=reason[:MAX_ERROR_LENGTH],
        match=match,
        due_at=None if is_dead else now + BACKOFF[attempts - 1],
    )


def after_silence(row: ClaimedRow, match: Match, now: datetime) -> Verdict:
    """The wedding's workflow does not run: nobody needs the event, unless the wedding should still live."""
    if match.ended:
        return processed(row, match, "the wedding has ended")
    return after_fault(row, "the wedding's workflow does not run", now, match)
