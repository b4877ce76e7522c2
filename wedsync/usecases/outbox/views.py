"""Show subscriptions and deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from wedsync.domain.outbox.catalogue import ApiVersion
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Payload
from wedsync.domain.outbox.subscription import DeliveryStatus


class View(BaseModel):
    """A frozen view for the API."""

    model_config = ConfigDict(frozen=True)


class SubscriptionView(View):
    """A subscription to our events."""

    id: str
    url: str
    description: str
    #: Patterns: `*`, `payment.*`, `payment.captured`.
    event_types: tuple[str, ...]
    #: Allowed values by dotted path: `wedding_id`, `data.capability`.
    filters: dict[str, tuple[str | int | bool | None, ...]]
    api_version: ApiVersion
    payload: Payload
    #: One wedding's events are sent one after another.
    ordered: bool
    #: Deliveries a second; null: no limit.
    rate_per_second: float | None
    retry_policy: DeliveryRetryPolicy
    #: failing: not answering, tried again with growing waits. recovering: it answers, what was parked is sent.
    status: Literal["active", "failing", "recovering", "paused", "disabled"]
    #: Why it is not active: `gone`, `exhausted`, `throttled`, or its last answer.
    reason: str | None
    #: Deliveries that were accepted, and attempts that were not.
    success_count: int
    failure_count: int
    last_delivery_at: datetime | None
    failing_since: datetime | None
    #: When a failing one is tried next.
    next_probe_at: datetime | None
    created_at: datetime
    updated_at: datetime


class SubscriptionWithSecret(SubscriptionView):
    """A subscription as shown once, to whoever made it or its newest secret."""

    #: The newest signing secret; null when this answer is repeated: it is shown only once.
    secret: str | None


class DeliveryView(View):
    """One event and its delivery to one subscription."""

    id: str
    subscription_id: str
    event_id: str
    event_type: str
    wedding_id: str | None
    sequence: int | None
    status: DeliveryStatus
    attempts: int
    #: When it is tried next, if its endpoint is well by then; null once it has ended.
    next_attempt_at: datetime | None
    #: The last answer's HTTP status; null when there was none.
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class AttemptView(View):
    """One attempt at a delivery."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    #: The answer's beginning.
    response: str
    error: str | None


class DeliveryPage(View):
    """A page, newest first; `next_cursor` requests what follows, null: there is no more."""

    data: tuple[DeliveryView, ...]
    next_cursor: str | None


class OperationalEvent(View):
    """One event about a subscription itself: `endpoint.*`, or a `delivery.failed`."""

    id: str
    type: str
    occurred_at: datetime
    data: dict[str, JsonValue]


class OperationalEventPage(View):
    """A page, newest first; `next_cursor` requests what follows, null: there is no more."""

    data: tuple[OperationalEvent, ...]
    next_cursor: str | None


class SubscriptionPage(View):
    """A page, newest first; `next_cursor` requests what follows, null: there is no more."""

    data: tuple[SubscriptionView, ...]
    next_cursor: str | None


class DeliveryDetail(DeliveryView):
    """A delivery with the body that is sent, each attempt, and what keeps it from being delivered."""

    url: str
    body: dict[str, JsonValue]
    attempts_made: tuple[AttemptView, ...]
    #: Why it is not delivered, in words; empty when it is.
    why: str


class ReplayedDeliveries(View):
    """A count of the deliveries that were made due again."""

    count: int


def subscription_view(row: Any) -> SubscriptionView:
    """Return a subscription's row as it is shown."""
    names = SubscriptionView.model_fields.keys() - {"retry_policy"}
    policy = DeliveryRetryPolicy(max_attempts=row.max_attempts, backoff=row.backoff)
    return SubscriptionView.model_validate({"retry_policy": policy, **{name: getattr(row, name) for name in names}})


def delivery_values(row: Any) -> dict[str, Any]:
    """Return a delivery's row by the names of DeliveryView."""
    renamed = {"event_type", "next_attempt_at"}
    values = {name: getattr(row, name) for name in DeliveryView.model_fields.keys() - renamed}
    is_open = row.status in ("pending", "retrying")
    return {**values, "event_type": row.type, "next_attempt_at": row.due_at if is_open else None}
