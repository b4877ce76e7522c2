"""Actions that a plan may request: their inputs, and the results that later steps may refer to.

Vendor-neutral: which vendor carries an action out, and by which operations, is in the vendors' manifests.
Amounts are decimal text in the currency's major unit ("1500.00"); vendors' mappings turn them into minor units.
Times are venue-local wall time; the compiler adds the zone. A `contact` names one of the wedding's contacts; that
contact's fields replace it before a call.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Inputs(BaseModel):
    """Base of the input models: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: The id of a contact in the plan.
ContactId = Annotated[str, Field(min_length=1, max_length=63, json_schema_extra={"x-ref": "contact"})]
#: Decimal text, at most as many decimals as the currency has: "1500.00", JPY "80000".
Amount = Annotated[str, Field(pattern=r"^\d{1,12}(\.\d{1,4})?$", json_schema_extra={"x-ref": "amount"})]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
#: Wall time at the venue (`2027-06-19T16:00`) or relative to the ceremony (`ceremony - 2h`).
WallTime = Annotated[str, Field(min_length=1, max_length=64, json_schema_extra={"x-ref": "time"})]


class CollectPayment(Inputs):
    """Take a payment from a stored instrument of the payer."""

    amount: Amount
    currency: CurrencyCode | None = None
    payer: ContactId
    description: Annotated[str, Field(max_length=1000)] = ""


class SendSms(Inputs):
    """Send a text message."""

    to: ContactId
    text: Annotated[str, Field(min_length=1, max_length=1600)]


class SendEmail(Inputs):
    """Send an email."""

    to: ContactId
    subject: Annotated[str, Field(min_length=1, max_length=900)]
    text: Annotated[str, Field(min_length=1, max_length=100_000)]


class CreateEvent(Inputs):
    """Put an event on the calendar."""

    title: Annotated[str, Field(min_length=1, max_length=1000)]
    starts: WallTime
    #: IANA zone of `starts` where it is not the venue's.
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    #: The instant that is meant when daylight saving repeats the wall time.
    fold: Literal["earlier", "later"] | None = None
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 14)] = 60
    place: Annotated[str, Field(max_length=1000)] = ""
    notes: Annotated[str, Field(max_length=8000)] = ""
    attendees: tuple[ContactId, ...] = ()


class RequestBooking(Inputs):
    """Book a business for the wedding."""

    title: Annotated[str, Field(min_length=1, max_length=500)]
    starts: WallTime
    #: IANA zone of `starts` where it is not the venue's.
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    #: The instant that is meant when daylight saving repeats the wall time.
    fold: Literal["earlier", "later"] | None = None
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 14)] = 60
    guests: Annotated[int, Field(ge=0, le=100_000)] = 0
    contact: ContactId
    price: Amount | None = None
    currency: CurrencyCode | None = None
    notes: Annotated[str, Field(max_length=8000)] = ""


class PutFile(Inputs):
    """Store a text file."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(max_length=200_000)]
    content_type: str = "text/plain; charset=utf-8"


class CreateMeeting(Inputs):
    """Schedule a video meeting."""

    topic: Annotated[str, Field(min_length=1, max_length=200)]
    starts: WallTime
    #: IANA zone of `starts` where it is not the venue's.
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    #: The instant that is meant when daylight saving repeats the wall time.
    fold: Literal["earlier", "later"] | None = None
    minutes: Annotated[int, Field(ge=1, le=60 * 24)] = 60


class ReadForecast(Inputs):
    """Read the weather forecast for the place of the ceremony."""

    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]


class PostChat(Inputs):
    """Post a message to a team's channel."""

    channel: Annotated[str, Field(min_length=1, max_length=80)]
    text: Annotated[str, Field(min_length=1, max_length=4000)]


class Action(BaseModel):
    """One entry of the catalogue."""

    model_config = ConfigDict(frozen=True)
    name: str
    inputs: type[Inputs]
    #: Result name → a sample value: a reference to the result is checked as if it were the sample.
    results: dict[str, str | int | float]
    #: Of its capability; a vendor's manifest may only be stricter.
    kind: Literal["write", "message", "read"] = "write"

    @property
    def capability(self) -> str:
        """Return the part before the dot."""
        return self.name.partition(".")[0]


_ACTIONS = (
    Action(
        name="payments.collect",
        inputs=CollectPayment,
        results={"payment_id": "pi_1", "amount": "1.00", "currency": "EUR", "amount_minor": 100},
    ),
    Action(name="sms.send", inputs=SendSms, results={"message_id": "SM1"}, kind="message"),
    Action(name="email.send", inputs=SendEmail, results={"message_id": "em_1"}, kind="message"),
    Action(name="calendar.create_event", inputs=CreateEvent, results={"event_id": "ev1", "link": "https://x.test"}),
    Action(name="booking.request", inputs=RequestBooking, results={"booking_id": "bk_1", "reference": "R1"}),
    Action(name="storage.put", inputs=PutFile, results={"key": "k", "version": "1"}),
    Action(
        name="video.create_meeting", inputs=CreateMeeting, results={"meeting_id": "1", "join_url": "https://x.test"}
    ),
    Action(
        name="weather.forecast", inputs=ReadForecast, results={"summary": "clear", "high_celsius": 20.5}, kind="read"
    ),
    Action(name="chat.post", inputs=PostChat, results={"message_id": "1.2"}, kind="message"),
)

ACTIONS: dict[str, Action] = {action.name: action for action in _ACTIONS}
CAPABILITIES: frozenset[str] = frozenset(action.capability for action in _ACTIONS)
