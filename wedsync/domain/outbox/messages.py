"""Messages to `DrainOutbox` and `RetrySubscription`, and the answers of their activities."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

DRAIN_OUTBOX_WORKFLOW = "DrainOutbox"
RETRY_SUBSCRIPTION_WORKFLOW = "RetryEndpoint"
#: Signal of `DrainOutbox`, without arguments: deliveries were recorded since the last claim.
DRAIN_OUTBOX_SIGNAL = "drain"
#: Signal of `RetrySubscription`, without arguments: the endpoint or its deliveries changed.
WAKE_SIGNAL = "look"


class Message(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OutboxStart(Message):
    """Input of `DrainOutbox` (`outbox:{partition}`, queue `workflows`)."""

    partition: int = Field(default=0, ge=0)
    #: Carried over continue-as-new.
    sent: int = 0


class SentDeliveries(Message):
    """Answer of `deliveries.pump`."""

    #: Deliveries claimed, those that were given back and claimed again among them.
    sent: int
    #: Seconds until the next postponed delivery is due; None: none is.
    next_due_seconds: float | None = None


class SubscriptionStart(Message):
    """Input of `RetrySubscription` (`endpoint:{endpoint}`, queue `workflows`)."""

    subscription_id: str


class SubscriptionWake(Message):
    """Input of `deliveries.retry_subscription`."""

    subscription_id: str
    #: The workflow's own time.
    now: datetime


class SubscriptionWakeResult(Message):
    """Answer of `deliveries.retry_subscription`."""

    status: str
    #: Attempts made.
    sent: int = 0
    #: Seconds until something is due; None: nothing waits.
    wait_seconds: float | None = None


class SweptOutbox(Message):
    """Answer of `deliveries.sweep`."""

    #: Whether its drain was started again.
    is_drained: bool = False
    #: Endpoints whose workflows were told again.
    subscriptions: int = 0


def outbox_workflow_id(partition: int = 0) -> str:
    """Return `outbox:{partition}`."""
    return f"outbox:{partition}"


def subscription_workflow_id(subscription_id: str) -> str:
    """Return `endpoint:{endpoint}`."""
    return f"endpoint:{subscription_id}"
