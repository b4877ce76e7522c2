"""What is said to `DrainOutbox` and `RetryEndpoint`, and what their activities answer."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

DRAIN_OUTBOX_WORKFLOW = "DrainOutbox"
RETRY_ENDPOINT_WORKFLOW = "RetryEndpoint"
#: Signal of `DrainOutbox`, without arguments: deliveries were recorded since you last looked.
DRAIN_OUTBOX_SIGNAL = "drain"
#: Signal of `RetryEndpoint`, without arguments: the endpoint or its deliveries changed.
LOOK_SIGNAL = "look"


class Message(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OutboxStart(Message):
    """The input of `DrainOutbox` (`outbox:{partition}`, queue `workflows`)."""

    partition: int = Field(default=0, ge=0)
    #: Carried over continue-as-new.
    sent: int = 0


class PumpAnswer(Message):
    """The answer of `deliveries.pump`."""

    #: Deliveries taken in hand, those that were given back and taken again among them.
    sent: int
    #: Seconds until the next delivery is due that was put off; None: none is.
    next_due_seconds: float | None = None


class EndpointStart(Message):
    """The input of `RetryEndpoint` (`endpoint:{endpoint}`, queue `workflows`)."""

    endpoint_id: str


class LookAt(Message):
    """The input of `deliveries.retry_endpoint`."""

    endpoint_id: str
    #: The workflow's own time.
    now: datetime


class EndpointLook(Message):
    """The answer of `deliveries.retry_endpoint`."""

    status: str
    #: Attempts made.
    sent: int = 0
    #: Seconds until something is due; None: nothing waits.
    wait_seconds: float | None = None


class SweptOutbox(Message):
    """The answer of `deliveries.sweep`."""

    #: Whether its drain was started again.
    is_drained: bool = False
    #: Endpoints whose workflows were told again.
    endpoints: int = 0


def outbox_workflow_id(partition: int = 0) -> str:
    """`outbox:{partition}`."""
    return f"outbox:{partition}"


def endpoint_workflow_id(endpoint_id: str) -> str:
    """`endpoint:{endpoint}`."""
    return f"endpoint:{endpoint_id}"
