"""Models of `Call.inputs`: the catalogue's inputs with contacts, times and amounts filled in.

`wedsync.domain.plans.fill_inputs` makes them from the plan's inputs. Clients parse `Call.inputs` with them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wedsync.domain.value import Value


class Person(Value):
    """A contact, with the payment instrument that fits the vendor at hand."""

    id: str
    name: str
    email: str | None = None
    #: E.164.
    phone: str | None = None
    instrument: str | None = None


class Moment(Value):
    """A wall time at the venue and the instant it means."""

    #: `2027-06-19T16:00:00`, no offset.
    local: str
    #: IANA.
    zone: str
    #: UTC.
    instant: datetime


class Payment(Value):
    """`payments.collect`."""

    #: Major units as decimal text.
    amount: str
    #: ISO 4217, upper case.
    currency: str
    #: The same in minor units by ISO 4217 (JPY 80000 → 80000, EUR "12.50" → 1250).
    amount_minor: int
    payer: Person
    description: str = ""


class Sms(Value):
    """`sms.send`."""

    to: Person
    text: str


class Email(Value):
    """`email.send`."""

    to: Person
    subject: str
    text: str


class CalendarEvent(Value):
    """`calendar.create_event`."""

    title: str
    starts: Moment
    ends: Moment
    place: str = ""
    notes: str = ""
    attendees: tuple[Person, ...] = ()


class Booking(Value):
    """`booking.request`."""

    title: str
    starts: Moment
    ends: Moment
    guests: int = 0
    contact: Person
    price: str | None = None
    currency: str
    price_minor: int | None = None
    notes: str = ""
    #: Whether the business answers in the response or later by webhook.
    answer: Literal["now", "webhook"] = "now"


class File(Value):
    """`storage.put`."""

    name: str
    text: str
    content_type: str = "text/plain; charset=utf-8"


class Meeting(Value):
    """`video.create_meeting`."""

    topic: str
    starts: Moment
    minutes: int = 60


class ForecastQuery(Value):
    """`weather.forecast`."""

    latitude: float
    longitude: float


class ChatMessage(Value):
    """`chat.post`."""

    channel: str
    text: str
