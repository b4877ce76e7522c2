"""Translates between our text message and Twilio's Message resource. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import phonenumbers
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from wedsync.domain.errors import InvalidInput, OutcomeUnknown, VendorRejected
from wedsync.domain.vendors import read_inputs
from wedsync.domain.vendors.action_inputs import Person, Sms
from wedsync.domain.vendors.call import Call, Effect

#: Error 21617: the longest body that Twilio takes.
MAX_TEXT_CHARS = 1600
#: Twilio's clock against ours, and its timestamps are whole seconds.
SKEW = timedelta(seconds=5)
#: What a trial account puts before every text.
_TRIAL_PREFIX = "Sent from your Twilio trial account - "
_LOST = frozenset(("failed", "undelivered", "canceled"))
_MEANINGS = {
    "20003": "the credential was refused",
    "20429": "too many requests at once",
    "21211": "the recipient's number is not valid",
    "21408": "the account may not send to that region",
    "21602": "the text is empty",
    "21603": "there is no sender",
    "21604": "there is no recipient",
    "21606": "the sender's number is not the account's",
    "21608": "a trial account sends to verified numbers only",
    "21610": "the recipient has unsubscribed",
    "21614": "the recipient's number takes no messages",
    "21617": "the text is too long",
    "21703": "the messaging service has no number",
}


class Message(BaseModel):
    """Fields that we read of Twilio's Message resource."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    sid: str
    status: str
    direction: str = ""
    body: str | None = None
    #: RFC 2822 on the wire.
    date_created: datetime
    error_code: int | None = None

    @field_validator("date_created", mode="before")
    @classmethod
    def _rfc_2822(cls, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError("a date is text")
        moment = parsedate_to_datetime(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def is_lost(self) -> bool:
        """Tell whether Twilio has given the message up."""
        return self.status in _LOST


class _Page(BaseModel):
    model_config = ConfigDict(extra="ignore")
    messages: list[Message]
    next_page_uri: str | None = None


def sms_of(call: Call) -> Sms:
    """Read the message that the call is about; raises InvalidInput, also for a text that is too long."""
    sms = read_inputs.sms_of(call)
    if len(sms.text) > MAX_TEXT_CHARS:
        raise InvalidInput(f"the text is longer than {MAX_TEXT_CHARS} characters", field="inputs.text")
    return sms


def phone_of(person: Person) -> str:
    """Return the person's number in E.164; raises InvalidInput when there is none or it can't exist."""
    received = person.phone or ""
    try:
        number = phonenumbers.parse(received, None)
    except phonenumbers.NumberParseException:
        raise InvalidInput("the contact has no phone number in E.164", field="inputs.to.phone") from None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if written != received or not phonenumbers.is_possible_number(number):
        raise InvalidInput("the contact's phone number is not in E.164", field="inputs.to.phone")
    return written


def message_form(call: Call, sender: str, webhook_url: str) -> list[tuple[str, str]]:
    """Build the form of POST Messages.json; raises InvalidInput."""
    sms = sms_of(call)
    form = [("To", phone_of(sms.to))]
    form.append(("MessagingServiceSid" if sender.startswith("MG") else "From", sender))
    form.append(("Body", sms.text))
    if webhook_url:
        form.append(("StatusCallback", status_callback(webhook_url, call)))
    return form


def status_callback(webhook_url: str, call: Call) -> str:
    """Build our webhook's address with the wedding and step in its query: Twilio signs the address too."""
    parts = urlsplit(webhook_url)
    ours = urlencode({"wedding": call.wedding_id, "step": call.step_id})
    return urlunsplit(parts._replace(query=f"{parts.query}&{ours}" if parts.query else ours))


def search_from(first_sent_at: datetime) -> datetime:
    """Return the earliest `date_created` that our message can have."""
    return first_sent_at.astimezone(UTC).replace(microsecond=0) - SKEW


def is_it(message: Message, text: str, since: datetime) -> bool:
    """Tell whether `message` is an outgoing one with this text, made since then and not given up."""
    if message.is_lost or message.direction != "outbound-api" or message.date_created < since:
        return False
    return (message.body or "").removeprefix(_TRIAL_PREFIX).strip() == text.strip()


def message_id(call: Call) -> str:
    """Return the message's sid from the call's facts; raises InvalidInput."""
    return read_inputs.needed_fact_of(call, "message_id")


def read_message(body: Any) -> Message:
    """Read a Message resource; raises OutcomeUnknown when the answer is not one (Twilio did act)."""
    try:
        return Message.model_validate(body)
    except ValidationError:
        raise OutcomeUnknown("twilio answered with something that is not a message", vendor="twilio") from None


def read_page(body: Any) -> tuple[list[Message], str | None]:
    """Return the messages of one page and the path of the next; raises OutcomeUnknown when the answer is not a page."""
    try:
        page = _Page.model_validate(body)
    except ValidationError:
        raise OutcomeUnknown("twilio answered with something that is not a list", vendor="twilio") from None
    following = page.next_page_uri or None
    if following is not None and (not following.startswith("/") or following.startswith("//")):
        raise OutcomeUnknown("twilio gave a strange address for the next page", vendor="twilio")
    return page.messages, following


def effect(message: Message) -> Effect:
    """Return the effect of a message that Twilio took."""
    return Effect(
        state="done",
        external_id=message.sid,
        facts={"message_id": message.sid},
        detail=f"message {message.sid} {message.status}",
    )


def lost(message: Message) -> VendorRejected:
    """Build the refusal of a message that Twilio has given up."""
    code = str(message.error_code) if message.error_code else message.status
    return VendorRejected(f"twilio: message {message.sid} {message.status}", vendor="twilio", reason=code)


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{code, message, more_info, status}`; the message may name a guest and is left out."""
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(code, int) and not isinstance(code, bool):
        word = str(code)
        return word, f"{_MEANINGS.get(word, 'refused')} (error {word})"
    return f"http_{status}", f"answered {status}"
