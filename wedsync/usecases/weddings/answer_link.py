"""Record a person's answer, through a signed link, about a step that a vendor has no API for."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.inbox.triage import NewRow, priority_of
from wedsync.domain.value import Value
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.requests import MANUAL_CONFIRMED, MANUAL_DECLINED, MANUAL_UNDONE
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring, open_link
from wedsync.kit.settings import Settings
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_wedding import View

#: The inbox's source of these events.
SOURCE = "link"
ManualAnswer = Literal["confirmed", "declined", "undone"]
_EVENTS: dict[ManualAnswer, str] = {"confirmed": MANUAL_CONFIRMED, "declined": MANUAL_DECLINED, "undone": MANUAL_UNDONE}


class Link(Value):
    """One link's signed payload."""

    organization_id: str
    wedding_id: str
    step_id: str
    transaction_id: str
    action: str
    vendor: str


class Opened(NamedTuple):
    """A link and until when it is valid, whether there is a question or not."""

    link: Link
    expires_at: datetime


class Question(View):
    """One question to the holder of a link; it names no guest."""

    step_id: str
    action: str
    vendor: str
    #: The ceremony's wall time at the venue, and its IANA zone.
    ceremony_local: str
    zone: str
    #: The answers that are possible now; empty: there is no question any more.
    answers: tuple[ManualAnswer, ...]


class Taken(View):
    """One answer's receipt."""

    received: bool = True
    #: The same answer came before through this link.
    duplicate: bool


def read_link(token: str, settings: Settings) -> Opened:
    """Read a link's payload; raises InvalidInput with reason `link_invalid`."""
    payload, expires_at = open_link(token, settings.link_secret.get_secret_value())
    try:
        return Opened(Link.model_validate(payload), expires_at)
    except ValidationError:
        raise InvalidInput("the link is not valid", reason="link_invalid") from None


async def read_question(db: Database, settings: Settings, token: str) -> Question:
    """Return the question; raises InvalidInput, NotFound, StoreUnavailable."""
    return await _question(db, read_link(token, settings), utc_now())


async def _question(db: Database, opened: Opened, now: datetime) -> Question:
    """Return the question. A link past its date stays valid as long as its wedding, postponed since, asks by it.

    Raises InvalidInput with reason `link_expired`, NotFound, StoreUnavailable.
    """
    link = opened.link
    async with db.tenant(link.organization_id) as conn:
        wedding = await store.find_wedding(conn, link.wedding_id)
        steps = await store.read_steps(conn, link.wedding_id, [link.step_id])
    if wedding is None or not steps:
        raise NotFound("what the link is about is not there any more")
    answers = () if wedding.status in ("cancelled", "ended") else _answers(steps[0])
    if not answers and now >= opened.expires_at:
        raise InvalidInput("the link has expired", reason="link_expired")
    return Question(
        step_id=link.step_id,
        action=link.action,
        vendor=link.vendor,
        ceremony_local=wedding.ceremony_local,
        zone=wedding.zone,
        answers=answers,
    )


def _answers(step: Any) -> tuple[ManualAnswer, ...]:
    if (step.compensation or {}).get("status") == "needs_attention":
        return ("undone",)
    return ("confirmed", "declined") if step.status == "waiting" else ()


async def answer_link(
    db: Database, settings: Settings, dispatcher: InboxDispatcher, token: str, answer: ManualAnswer
) -> Taken:
    """Record the answer as an inbound event, which is dispatched to the wedding as a vendor event is.

    Raises InvalidInput, NotFound, Conflict(reason="nothing_asked"), StoreUnavailable.
    """
    now = utc_now()
    opened = read_link(token, settings)
    row = _event_row(opened.link, token, answer, settings)
    is_asked = answer in (await _question(db, opened, now)).answers
    async with db.system() as conn:
        lanes = await inbox.record(conn, SOURCE, [row], now)
        if lanes and not is_asked:
            # Raised within the transaction, so that nothing is recorded; an earlier answer stays.
            raise Conflict("this is not asked, or not any more", reason="nothing_asked")
    for lane in lanes.values():
        dispatcher.dispatch(lane)
    return Taken(duplicate=not lanes)


def _event_row(link: Link, token: str, answer: ManualAnswer, settings: Settings) -> NewRow:
    event_id = f"{hashlib.sha256(token.encode()).hexdigest()[:32]}-{answer}"
    event = VendorEvent(
        source=SOURCE,
        event_id=event_id,
        type=_EVENTS[answer],
        vendor_type=answer,
        wedding_id=link.wedding_id,
        step_id=link.step_id,
    )
    keyring = Keyring.parse(settings.codec_keys.get_secret_value())
    sealed = keyring.seal(answer.encode(), tenant=SOURCE, row=event_id)
    # As urgent as a business's own answer.
    return NewRow(event=event, priority=priority_of("booking.confirmed"), sealed_body=sealed)
