"""The rules of the inbox: which lane an event takes, whose it is, and what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

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
    error: str | None = None
    match: Match | None = None


def priority_of(event_type: str) -> int:
    """How urgent an event is by its type alone; events of weddings in wedding-day mode are raised to critical.

    Payments' and businesses' answers let steps go on (high); the rest reports (normal); `other` is only kept (low).
    """
    if event_type == "other":
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
    if named is not None:
        step = event.step_id or next((ref.step_id for ref in held if ref.wedding_id == named.id), None)
        return Match(organization_id=named.organization_id, wedding_id=named.id, step_id=step, ended=named.ended)
    owners = {ref.wedding_id for ref in held}
    if len(owners) != 1:
        return None
    ref = held[0]
    row = weddings.get(ref.wedding_id)
    steps = {other.step_id for other in held}
    return Match(
        organization_id=ref.organization_id,
        wedding_id=ref.wedding_id,
        step_id=ref.step_id if len(steps) == 1 else None,
        ended=row.ended if row is not None else False,
    )


def after_fault(attempts: int, reason: str) -> Verdict:
    """The verdict after one more fault of the event itself, `attempts` earlier ones counted: put off, or dead."""
    state: State = "dead" if attempts + 1 >= MAX_ATTEMPTS else "received"
    return Verdict(state=state, attempts=attempts + 1, error=reason[:MAX_ERROR_LENGTH])


def after_lost_wedding(attempts: int, match: Match) -> Verdict:
    """The verdict when the wedding's workflow does not run: nobody needs the event, unless the wedding still lives."""
    if match.ended:
        return Verdict(state="processed", attempts=attempts, error="the wedding has ended", match=match)
    verdict = after_fault(attempts, "the wedding's workflow does not run")
    return verdict.model_copy(update={"match": match})


def wait_after_fault(attempts: int) -> timedelta:
    """How long a row with that many faults (1 or more) is put off."""
    return BACKOFF[min(attempts, len(BACKOFF)) - 1]


def next_look_at(state: State, attempts: int, received_at: datetime, looked_at: datetime | None) -> datetime | None:
    """When a row is due (again); None: never by itself. `looked_at` is when it was last tried."""
    if looked_at is None:
        return received_at if state == "received" else None
    if state == "received":
        return looked_at + wait_after_fault(attempts) if attempts else received_at
    if state == "unmatched":
        due = looked_at + max(UNMATCHED_FIRST_WAIT, looked_at - received_at)
        return due if due <= received_at + UNMATCHED_PATIENCE else None
    return None
