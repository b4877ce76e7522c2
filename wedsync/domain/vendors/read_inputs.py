"""Read what a call is about: its inputs in the model of its action. Pure; raises InvalidInput.

Vendors share these. A vendor's own limits (the longest text, the characters of a tag) stay in its mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from wedsync.domain.errors import InvalidInput
from wedsync.domain.value import Value
from wedsync.domain.vendors.action_inputs import Booking, CalendarEvent, Email, ForecastQuery, Payment, Person, Sms
from wedsync.domain.vendors.call import Call

M = TypeVar("M", bound=Value)

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_ADDRESS = 320


def payment_of(call: Call) -> Payment:
    """Read the payment."""
    return _read(Payment, call.inputs)


def sms_of(call: Call) -> Sms:
    """Read the text message, which is not empty."""
    sms = _read(Sms, call.inputs)
    if not sms.text.strip():
        raise InvalidInput("the text is empty", field="inputs.text")
    return sms


def email_of(call: Call) -> Email:
    """Read the email, whose subject is not empty and has no control characters."""
    email = _read(Email, call.inputs)
    if not email.subject.strip() or _CONTROL.search(email.subject):
        raise InvalidInput("the subject is empty or has control characters", field="inputs.subject")
    return email


def booking_of(call: Call) -> Booking:
    """Read the booking."""
    return _read(Booking, call.inputs)


def forecast_query_of(call: Call) -> ForecastQuery:
    """Read the place whose weather is wanted."""
    return _read(ForecastQuery, call.inputs)


def calendar_event_of(inputs: Mapping[str, JsonValue]) -> CalendarEvent:
    """Read the calendar event, which does not end before it begins."""
    event = _read(CalendarEvent, inputs)
    if event.ends.instant < event.starts.instant:
        raise InvalidInput("the event ends before it begins", field="inputs.ends")
    return event


def previous_calendar_event_of(call: Call) -> CalendarEvent | None:
    """Read the event as it stands before a change; None when the call doesn't say."""
    return calendar_event_of(call.previous_inputs) if call.previous_inputs else None


def address_of(person: Person) -> str:
    """Return the person's email address, which is one."""
    address = person.email or ""
    if not _ADDRESS.fullmatch(address) or len(address) > _LONGEST_ADDRESS:
        raise InvalidInput("the contact has no email address", field="inputs.to.email")
    return address


def fact_of(call: Call, *names: str) -> str | None:
    """Return the first of these facts of earlier operations that is known."""
    values = (call.facts.get(name) for name in names)
    return next((value for value in values if isinstance(value, str) and value), None)


def needed_fact_of(call: Call, name: str) -> str:
    """Return a fact of an earlier operation; raises InvalidInput when it is not known."""
    value = fact_of(call, name)
    if value is None:
        raise InvalidInput(f"{name} is not known", field=f"facts.{name}")
    return value


def _read(model: type[M], inputs: Mapping[str, JsonValue]) -> M:
    try:
        return model.model_validate(inputs)
    except ValidationError as error:
        place = ".".join(("inputs", *(str(part) for part in error.errors()[0]["loc"])))
        raise InvalidInput(f"the inputs are no {model.__name__}", field=place) from None
