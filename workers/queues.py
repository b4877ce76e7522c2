"""Decide what runs on which queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from activities.dispatch import DispatchActivities
from activities.health import RoutingActivities
from activities.inbox import WebhookActivities
from activities.outbox import DeliveryActivities
from activities.vendors import VendorActivities
from activities.versions import VersionActivities
from activities.weddings import WeddingActivities
from wedsync.domain import task_queues
from wedsync.kit.settings import Settings
from workflows.drain_inbox import DrainInbox
from workflows.drain_outbox import DrainOutbox
from workflows.migrate_vendor_version import MigrateVendorVersion
from workflows.reconcile_source import ReconcileSource
from workflows.recover_vendor import RecoverVendor
from workflows.redispatch_pending import RedispatchPending
from workflows.retry_subscription import RetrySubscription
from workflows.retry_webhook import RetryWebhook
from workflows.watch_health import WatchHealth
from workflows.wedding import Wedding

WORKFLOWS: tuple[type, ...] = (
    Wedding,
    DrainInbox,
    RedispatchPending,
    RetryWebhook,
    ReconcileSource,
    DrainOutbox,
    RetrySubscription,
    RecoverVendor,
    WatchHealth,
    MigrateVendorVersion,
)


@dataclass(frozen=True)
class WorkerActivities:
    """Activity objects, with what they hold."""

    weddings: WeddingActivities
    vendors: VendorActivities
    webhooks: WebhookActivities
    dispatches: DispatchActivities
    #: None: this process sends nothing to others.
    deliveries: DeliveryActivities | None = None
    #: None: this process guards no vendor.
    routing: RoutingActivities | None = None
    #: None: this process migrates no vendor to another version.
    versions: VersionActivities | None = None

    def records(self) -> list[Callable[..., Any]]:
        """List our own reads and writes: on `records`, and local to the workflows."""
        w, d = self.weddings, self.deliveries
        outgoing: list[Callable[..., Any]] = [d.pump, d.retry_subscription, d.sweep] if d is not None else []
        recovery: list[Callable[..., Any]] = []
        if self.routing is not None:
            recovery = [self.routing.recover_vendor, self.routing.watch_health]
        if self.versions is not None:
            recovery.append(self.versions.migrate)
        return [
            *outgoing,
            *recovery,
            w.load_plan,
            w.resolve_agenda,
            w.prepare_steps,
            w.begin_transaction,
            w.settle_transaction,
            w.record_wedding,
            w.recall_answer,
            w.show_progress,
            w.revise_plan,
            self.webhooks.drain_batch,
            self.webhooks.retry_event,
            self.webhooks.reconcile,
            self.webhooks.sweep_inbox,
            self.dispatches.redispatch_transactions,
        ]


@dataclass(frozen=True)
class QueuePlan:
    """Options of one queue's worker."""

    queue: str
    workflows: Sequence[type]
    activities: Sequence[Callable[..., Any]]
    activity_slots: int


def plans(worker_activities: WorkerActivities, settings: Settings) -> list[QueuePlan]:
    """Return the workers of one process, a queue each; `settings.worker_queues` picks some."""
    records, calls = worker_activities.records(), [worker_activities.vendors.call]
    slots = settings.worker_activity_slots
    every = [
        QueuePlan(task_queues.WORKFLOWS, WORKFLOWS, records, slots),
        QueuePlan(task_queues.WORKFLOWS_BULK, WORKFLOWS, records, slots),
        QueuePlan(task_queues.VENDOR, (), calls, settings.worker_vendor_slots),
        QueuePlan(task_queues.VENDOR_CRITICAL, (), calls, settings.worker_critical_slots),
        QueuePlan(task_queues.RECORDS, (), records, slots),
        QueuePlan(task_queues.BULK, (), records, slots),
    ]
    chosen = [name.strip() for name in settings.worker_queues.split(",") if name.strip()]
    return [plan for plan in every if not chosen or plan.queue in chosen]
