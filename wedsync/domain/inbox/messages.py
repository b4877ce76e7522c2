"""Messages to and from the inbox's drains: the shapes of `DrainInbox` and its activities."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Lane = Literal["critical", "normal"]
LANES: tuple[Lane, ...] = ("critical", "normal")

#: Signal of `DrainInbox`, without arguments: rows were recorded since the last claim.
DRAIN_SIGNAL = "drain"
#: The workflow `RetryWebhook` (`webhook-in:{row}`, queue `workflows`): one event whose own processing failed.
RETRY_WEBHOOK_WORKFLOW = "RetryWebhook"
#: Signal of `RetryWebhook`, without arguments: try now.
RETRY_NOW_SIGNAL = "retry_now"
#: The workflow `ReconcileSource` (`reconcile-{source}`, queue `workflows-bulk`).
RECONCILE_SOURCE_WORKFLOW = "ReconcileSource"
#: Rows claimed by one activity.
BATCH_SIZE = 50


class Message(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DrainTotals(Message):
    """Numbers of rows by the state in which they ended."""

    processed: int = 0
    unmatched: int = 0
    #: Put off after a fault of the event itself.
    put_off: int = 0
    dead: int = 0

    def plus(self, other: DrainTotals) -> DrainTotals:
        """Add both together."""
        return DrainTotals(
            processed=self.processed + other.processed,
            unmatched=self.unmatched + other.unmatched,
            put_off=self.put_off + other.put_off,
            dead=self.dead + other.dead,
        )


class DrainStart(Message):
    """Input of `DrainInbox` (`inbox:{lane}:{partition}`, queue `workflows`)."""

    lane: Lane
    #: Drains of one lane share its rows; more partitions are more drains side by side.
    partition: int = Field(default=0, ge=0)
    #: Carried over continue-as-new.
    totals: DrainTotals = DrainTotals()


class DrainBatch(Message):
    """Input of `webhooks.drain_batch`."""

    lane: Lane
    limit: int = Field(default=BATCH_SIZE, ge=1, le=500)


class DrainedBatch(Message):
    """Answer of `webhooks.drain_batch`."""

    #: Rows claimed; 0: nothing is due.
    claimed: int
    totals: DrainTotals = DrainTotals()
    #: Seconds until the lane's next row is due again; None: no row waits. Only known when nothing was claimed.
    next_due_seconds: float | None = None


class SweptInbox(Message):
    """Answer of `webhooks.sweep_inbox`."""

    #: Lanes whose drains were signalled again.
    signalled: tuple[Lane, ...] = ()
    #: Events whose own retry workflow was started again.
    retried: int = 0


class ReconcileStart(Message):
    """Input of `ReconcileSource` and of `webhooks.reconcile`."""

    source: str


class Reconciled(Message):
    """Answer of `webhooks.reconcile`."""

    #: Events that the vendor listed.
    checked: int = 0
    #: Those that the inbox did not have.
    gaps: int = 0
    #: Those of a vendor whose webhooks name no change: only the list brings them, so they are no gaps.
    missed: int = 0
    #: Those that nobody can interpret.
    unreadable: int = 0
    lanes: tuple[Lane, ...] = ()


class RetryStart(Message):
    """Input of `RetryWebhook`."""

    row_id: int
    #: A vendor's name or a registered source's id.
    source: str
    event_type: str
    #: Faults so far.
    attempts: int
    #: Why the last one failed.
    error: str = ""
    #: Until the first try of this workflow.
    wait_seconds: float
    #: The event's owner, as far as it is known: operators search by it.
    organization_id: str = ""
    wedding_id: str = ""


class RetryEvent(Message):
    """Input of `webhooks.retry_event`."""

    row_id: int


class RetriedEvent(Message):
    """Answer of `webhooks.retry_event`, and of `RetryWebhook`."""

    #: As in the inbox.
    state: str
    attempts: int
    error: str = ""
    #: Until the next try; None: there is none.
    wait_seconds: float | None = None


def drain_workflow_id(lane: Lane, partition: int = 0) -> str:
    """Return `inbox:{lane}:{partition}`."""
    return f"inbox:{lane}:{partition}"


def reconcile_schedule_id(source: str) -> str:
    """Return `reconcile-{source}`: the id of the Schedule, and of the workflows that it starts."""
    return f"reconcile-{source}"


def retry_workflow_id(row_id: int) -> str:
    """Return `webhook-in:{row}`."""
    return f"webhook-in:{row_id}"
