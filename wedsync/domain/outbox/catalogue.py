"""Catalogue of the events that we send to subscribers' endpoints: types, contents, JSON Schemas.

A version is a date; within one, fields are only added. `docs/events/{version}/` holds the schemas.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

ApiVersion = Literal["2026-11-01"]
API_VERSIONS: tuple[ApiVersion, ...] = ("2026-11-01",)
NEWEST_VERSION: ApiVersion = API_VERSIONS[-1]


class EventData(BaseModel):
    """Content of an event; `id` names the object that it is about."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str


class ClientData(EventData):
    """Clients of a wedding, known by the wedding's id."""

    #: The plan's own id.
    reference: str


class WeddingData(EventData):
    """A wedding in its present state."""

    reference: str
    #: planned, active, cancelled, ended
    status: str
    #: preparation, ceremony, reception, cleanup
    phase: str
    #: normal, wedding_day
    mode: str
    plan_version: int


class CeremonyTime(BaseModel):
    """Ceremony's time: the clock on the venue's wall, its zone, and the instant resolved from them."""

    model_config = ConfigDict(frozen=True)
    local: str
    zone: str
    instant: datetime


class TimelineData(EventData):
    """A wedding whose ceremony has moved to another time."""

    ceremony: CeremonyTime
    previous: CeremonyTime


class TransactionData(EventData):
    """A transaction of a wedding."""

    kind: str
    status: str
    #: Ids of failed steps that the transaction went on without.
    gaps: tuple[str, ...] = ()


class ErrorData(BaseModel):
    """Why a step failed."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    code: str
    detail: str


class CompensationData(BaseModel):
    """Outcome of a step's undo."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    #: pending, running, undone, nothing_to_undo, needs_attention
    status: str
    attempts: int = 0
    detail: str | None = None


class StepData(EventData):
    """A step of a wedding in its present state."""

    service: str
    capability: str
    action: str
    status: str
    vendor: str | None = None
    #: Another vendor than the plan's first did it.
    fallback_used: bool = False
    attempts: int = 0
    #: The object's id at the vendor.
    external_id: str | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: ErrorData | None = None
    compensation: CompensationData | None = None
    transaction_id: str | None = None


class EndpointData(EventData):
    """A webhook subscription's own state."""

    url: str
    #: active, failing, recovering, paused, disabled
    status: str
    reason: str | None = None
    #: The elapsed percent of the time until it is disabled.
    percent: int | None = None
    failing_since: datetime | None = None
    #: Deliveries that wait for it.
    parked: int = 0


class FailedDeliveryData(EventData):
    """A delivery that was given up: an event that a subscription will not get unless it is replayed."""

    subscription_id: str
    event_id: str
    event_type: str
    #: The wedding that the event is about.
    wedding_id: str | None = None
    attempts: int
    #: The last answer's HTTP status; null: there was none.
    last_status: int | None = None
    error: str | None = None


class PingData(EventData):
    """A test that the subscription's owner requested."""

    message: str = "It works."


class EventType(BaseModel):
    """One entry of the catalogue."""

    model_config = ConfigDict(frozen=True)
    name: str
    #: When it is sent.
    summary: str
    data: type[EventData]
    #: Whether nobody needs it any more once the wedding's day has come: then its retries are compressed.
    ends_with_the_day: bool = False


def _wedding(name: str, summary: str, data: type[EventData] = WeddingData, *, passing: bool = False) -> EventType:
    return EventType(name=name, summary=summary, data=data, ends_with_the_day=passing)


_TRANSACTIONS = {
    "started": "A transaction begins",
    "waiting": "A transaction waits for a vendor's answer",
    "held": "A transaction waits for a person's decision",
    "completed": "A transaction has done all that was due",
    "rolling_back": "A transaction is being undone",
    "rolled_back": "A transaction was undone",
    "needs_attention": "Something of a transaction could not be undone by itself",
    "cancelled": "A transaction was cancelled",
}
_STEPS = {
    "succeeded": "A step is done",
    "failed": "A step failed for good",
    "held": "A step waits for a person's decision",
    "skipped": "A step is left out",
    "undone": "A step's effect was undone",
}
_TYPES = (
    _wedding("client.created", "A wedding's clients are known", ClientData),
    _wedding("wedding.created", "A wedding was handed in"),
    _wedding("wedding.updated", "A wedding's status, phase, mode or plan changed"),
    _wedding("timeline.changed", "The ceremony has another time", TimelineData, passing=True),
    *(_wedding(f"transaction.{n}", text, TransactionData, passing=True) for n, text in _TRANSACTIONS.items()),
    *(_wedding(f"step.{n}", text, StepData, passing=True) for n, text in _STEPS.items()),
    _wedding("payment.captured", "The vendor took a payment; its transaction may still be undone", StepData),
    _wedding("payment.completed", "A payment stands: its transaction is complete", StepData),
    _wedding("payment.refunded", "A payment was given back", StepData),
    _wedding("booking.confirmed", "A business confirmed a booking", StepData, passing=True),
    _wedding("vendor.failed_over", "Another vendor did a step in place of one that failed", StepData, passing=True),
    _wedding("endpoint.warning", "A subscription fails; at 50, 70 and 90 % of the way to disabling", EndpointData),
    _wedding("endpoint.disabled", "A subscription was disabled; its events are kept", EndpointData),
    _wedding("endpoint.resumed", "A subscription that failed answers again", EndpointData),
    _wedding("delivery.failed", "A delivery was given up after its last attempt", FailedDeliveryData),
    _wedding("webhook.test", "A test that was asked for", PingData),
)
EVENT_TYPES: dict[str, EventType] = {entry.name: entry for entry in _TYPES}


class Envelope(BaseModel):
    """Fields that every event has."""

    model_config = ConfigDict(frozen=True)
    id: str = Field(description="Of the event: the same however often it is sent.")
    type: str
    data: EventData
    timestamp: datetime = Field(description="When it happened (RFC 3339, UTC).")
    organization_id: str
    wedding_id: str | None
    sequence: int | None = Field(description="The change's number within its wedding, rising; null without a wedding.")
    api_version: ApiVersion


def envelope(entry: EventType) -> type[BaseModel]:
    """Return the model of a whole event of one type, as it is sent with the full payload."""
    fields: dict[str, Any] = {"type": (Literal[entry.name], ...), "data": (entry.data, ...)}
    return create_model(entry.name, __base__=Envelope, __doc__=f"{entry.summary}.", **fields)


def json_schema(entry: EventType) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one type of event, full payload."""
    schema = envelope(entry).model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
