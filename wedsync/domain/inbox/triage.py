"""Decide an inbox event's lane, its owner, and its outcome. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.inbox.messages import Lane
from wedsync.domain.inbox.source import EventRetryPolicy
from wedsync.domain.value import Value
from wedsync.domain.vendors.event import VendorEvent

State = Literal["received", "retrying", "processed", "unmatched", "dead"]

#: Of a wedding in wedding-day mode, whatever its source says; then a source's or a type's own.
WEDDING_DAY, CRITICAL, HIGH, NORMAL, LOW = 0, 1, 2, 3, 4

#: How long an event that nobody claims is rechecked: its reference is written only after the vendor's answer, and the
#: event may overtake that answer. Counted from its first check: while Temporal is away nobody checks.
UNMATCHED_PATIENCE = timedelta(minutes=10)
#: The shortest wait between two checks of an unclaimed event; each wait is as long as the time since its first check.
UNMATCHED_FIRST_WAIT = timedelta(seconds=1)
#: The longest part of an error's text that is kept.
MAX_ERROR_LENGTH = 500
#: The type of events that no step waits for.
OTHER = "other"


class NewRow(Value):
    """One event to record."""

    event: VendorEvent
    priority: int
    #: The exact bytes received, encrypted.
    sealed_body: bytes
    #: Of a registered source: its organization, whoever the event matches.
    organization_id: str | None = None
    #: Digests of the phones and addresses that it names.
    contacts: tuple[bytes, ...] = ()
    #: The digest of what was signed, if the event's id was not: it identifies the same message under another id.
    replay_key: bytes | None = None


class ClaimedRow(Value):
    """One recorded event that a drain has claimed."""

    id: int
    source: str
    event_id: str
    #: A stored `VendorEvent`; an older release may have written it.
    event: dict[str, JsonValue]
    attempts: int
    received_at: datetime
    #: None: not checked yet.
    first_looked_at: datetime | None = None
    #: Of a registered source; None: it may be anybody's.
    organization_id: str | None = None
    contacts: tuple[bytes, ...] = ()


class Reference(Value):
    """An object at a vendor that a step of a wedding holds."""

    vendor: str
    object_id: str
    organization_id: str
    wedding_id: str
    step_id: str


class WeddingRow(Value):
    """Parts of a wedding that matching needs."""

    id: str
    organization_id: str
    #: Cancelled or over: its workflow may be gone.
    ended: bool


class ContactReference(Value):
    """A wedding that knows a phone or an address."""

    digest: bytes
    organization_id: str
    wedding_id: str


class Match(Value):
    """Owner of an event."""

    organization_id: str
    wedding_id: str
    step_id: str | None
    ended: bool


class Verdict(Value):
    """Outcome of one row."""

    state: State
    attempts: int
    #: Why it is not simply processed; a note when it is.
    error: str | None = None
    match: Match | None = None
    #: When it is due again; None: settled.
    due_at: datetime | None = None


def priority_of(event_type: str) -> int:
    """Rank an event's urgency by its type alone; events of weddings in wedding-day mode go before all.

    Payments' and businesses' answers let steps go on (high); the rest reports (normal); `other` is only kept (low).
    """
    if event_type == OTHER:
        return LOW
    return HIGH if event_type.partition(".")[0] in ("payment", "booking") else NORMAL


def lane_of(priority: int) -> Lane:
    """Choose the lane: critical rows have one of their own."""
    return "critical" if priority <= CRITICAL else "normal"


def object_keys(event: VendorEvent) -> tuple[tuple[str, str], ...]:
    """Return the (vendor, object id) pairs of what the event is about: object, calendar channel or subscription."""
    channel_keys = (event.object_id, event.facts.get("channel_id"), event.facts.get("subscription_id"))
    return tuple((event.source, found) for found in channel_keys if isinstance(found, str) and found)


def find_match(
    event: VendorEvent,
    weddings: Mapping[str, WeddingRow],
    references: Mapping[tuple[str, str], Sequence[Reference]],
    *,
    organization_id: str | None = None,
    contacts: Iterable[ContactReference] = (),
) -> Match | None:
    """Find the event's owner: by the wedding it names, else by the object it is about, else by the contact it names.

    None: nobody's, or several weddings'. `references` are keyed by (vendor, object id). A wedding that we don't have,
    or, with `organization_id`, that belongs to another organization, is not believed.
    """

    def known(wedding_id: str | None) -> WeddingRow | None:
        found = weddings.get(wedding_id) if wedding_id else None
        return found if found is not None and organization_id in (None, found.organization_id) else None

    held = next((found for key in object_keys(event) if (found := references.get(key))), ())
    named = known(event.wedding_id)
    if named is None:
        owners = {ref.wedding_id for ref in held if known(ref.wedding_id)}
        owners = owners or _living(contacts, known)
        named = known(owners.pop()) if len(owners) == 1 else None
    if named is None:
        return None
    steps = {ref.step_id for ref in held if ref.wedding_id == named.id}
    by_object = next(iter(steps)) if len(steps) == 1 else None
    is_named_by_event = event.wedding_id == named.id and event.step_id is not None
    return Match(
        organization_id=named.organization_id,
        wedding_id=named.id,
        step_id=event.step_id if is_named_by_event else by_object,
        ended=named.ended,
    )


def _living(contacts: Iterable[ContactReference], known: Callable[[str], WeddingRow | None]) -> set[str]:
    """Return the running weddings that know all of the contacts' known digests: a guest may be at several."""
    by_digest: dict[bytes, set[str]] = defaultdict(set)
    for contact in contacts:
        wedding = known(contact.wedding_id)
        if wedding is not None and not wedding.ended:
            by_digest[contact.digest].add(wedding.id)
    return set.intersection(*by_digest.values()) if by_digest else set()


def topic_of(event_type: str) -> str:
    """Name the aspect of an object that an event is about: `payment`, `booking`, `message`, `calendar`."""
    return event_type.partition(".")[0]


def is_overtaken(event: VendorEvent, newest: datetime | None) -> bool:
    """Tell whether a newer event of the same object was processed; with equal times the event is dispatched."""
    return event.occurred_at is not None and newest is not None and event.occurred_at < newest


def processed(row: ClaimedRow, match: Match | None = None, note: str | None = None) -> Verdict:
    """Settle the row as processed."""
    return Verdict(state="processed", attempts=row.attempts, error=note, match=match)


def unclaimed(row: ClaimedRow, now: datetime) -> Verdict:
    """Leave the row unmatched for now: rechecked about 1, 2, 4, 8, ... seconds after its first check."""
    first = row.first_looked_at or now
    due_at = now + max(UNMATCHED_FIRST_WAIT, now - first)
    is_young = due_at <= first + UNMATCHED_PATIENCE
    return Verdict(
        state="unmatched",
        attempts=row.attempts,
        error="no wedding claims it",
        due_at=due_at if is_young else None,
    )


def after_fault(
    row: ClaimedRow, reason: str, now: datetime, match: Match | None = None, policy: EventRetryPolicy | None = None
) -> Verdict:
    """Handle a fault of the event itself: retry it alone by the source's policy; dead when that is used up."""
    attempts = row.attempts + 1
    wait = (policy or EventRetryPolicy()).wait(attempts)
    return Verdict(
        state="dead" if wait is None else "retrying",
        attempts=attempts,
        error=reason[:MAX_ERROR_LENGTH],
        match=match,
        due_at=None if wait is None else now + wait,
    )


def after_silence(row: ClaimedRow, match: Match, now: datetime, policy: EventRetryPolicy | None = None) -> Verdict:
    """Handle a wedding whose workflow does not run: nobody needs the event, unless the wedding should still live."""
    if match.ended:
        return processed(row, match, "the wedding has ended")
    return after_fault(row, "the wedding's workflow does not run", now, match, policy)
