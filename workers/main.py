"""Serve the task queues in one process until it is told to stop: the worker program."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion, WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.dispatch import DispatchActivities
from activities.health import RoutingActivities
from activities.inbox import WebhookActivities
from activities.outbox import DeliveryActivities
from activities.vendors import VendorActivities
from activities.versions import VersionActivities
from activities.weddings import WeddingActivities
from wedsync.domain import task_queues
from wedsync.domain.health.messages import WATCH_HEALTH_ID, WATCH_HEALTH_WORKFLOW, WatchStart
from wedsync.domain.weddings.messages import REDISPATCH_PENDING_WORKFLOW
from wedsync.kit import telemetry
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.kit.memory import freeze_memory
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import connect
from wedsync.runtime import Runtime, open_runtime
from wedsync.store.weddings.projection_writer import ProjectionWriter
from wedsync.usecases.inbox.reconcile import Reconciler, reconcilable, reconcile_every
from wedsync.usecases.incidents.deliver import Notifier
from wedsync.usecases.outbox.delivery_sender import DeliverySender
from wedsync.usecases.outbox.send import AttemptSender, ssrf_policy
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.call_step import StepCaller
from wedsync.usecases.weddings.links import link_maker
from wedsync.usecases.weddings.write_projection import HeldWriter
from wedsync.vendors.registry import load_registry
from workers.queues import QueuePlan, WorkerActivities, plans
from workers.schedules import ensure_reconciled

log = structlog.get_logger(__name__)

SWEEP_SCHEDULE = "sweep-handoffs"

#: Modules that workflows may share with the process: values and activities, loaded once, never run in the workflow.
_SHARED = ("wedsync", "activities", "pydantic", "pydantic_core", "annotated_types", "structlog", "opentelemetry")
#: For tests and development: refuses what is not deterministic, and builds each workflow's modules anew.
SANDBOXED = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*_SHARED))
#: For the program: the same workflows without Temporal's sandbox and its cost (docs/benchmarks.md).
UNSANDBOXED = UnsandboxedWorkflowRunner()


@contextlib.asynccontextmanager
async def open_activities(settings: Settings, client: Client, **options: Any) -> AsyncIterator[WorkerActivities]:
    """Build the activities on a runtime of their own, and close both at the end; `options` are the runtime's."""

    async def provide() -> Client:
        return client

    options = {"most_in_flight": settings.worker_calls_per_vendor, **options}
    async with open_runtime(settings, provide, **options) as runtime, contextlib.AsyncExitStack() as closing:
        yield _doors(runtime, closing)


def _doors(runtime: Runtime, closing: contextlib.AsyncExitStack) -> WorkerActivities:
    settings, db, provide, gateway = runtime.settings, runtime.database, runtime.provide, runtime.gateway
    policy = ssrf_policy(settings)
    writer = ProjectionWriter(db)
    held = HeldWriter(writer, provide)
    shelf = PlanShelf(db, runtime.registry.manifests)
    sender = AttemptSender(SsrfSafeHttp(policy), runtime.keyring)
    delivery_sender = DeliverySender(db, sender, runtime.outbox_dispatcher)
    notifier = Notifier(
        gateway, runtime.admission_controller, SsrfSafeHttp(policy, max_connections=20), runtime.keyring
    )
    for part in (notifier, sender, delivery_sender, writer):
        closing.push_async_callback(part.close)
    return WorkerActivities(
        weddings=WeddingActivities(db, held, shelf, link_maker(settings), provide),
        vendors=VendorActivities(StepCaller(gateway, held, settings.running_shown_after_seconds)),
        webhooks=WebhookActivities(db, provide, Reconciler(db, settings, runtime.registry, gateway)),
        dispatches=DispatchActivities(db, provide),
        deliveries=DeliveryActivities(db, provide, sender, delivery_sender),
        routing=RoutingActivities(gateway, runtime.admission_controller, notifier),
        versions=VersionActivities(gateway, runtime.admission_controller),
    )


def make_worker(client: Client, plan: QueuePlan, settings: Settings, runner: WorkflowRunner = SANDBOXED) -> Worker:
    """Make one queue's worker."""
    return Worker(
        client,
        task_queue=plan.queue,
        workflows=plan.workflows,
        activities=plan.activities,
        workflow_runner=runner,
        max_cached_workflows=settings.worker_cached_workflows if plan.workflows else 0,
        max_concurrent_workflow_tasks=settings.worker_workflow_slots if plan.workflows else None,
        max_concurrent_activities=plan.activity_slots,
        max_concurrent_local_activities=plan.activity_slots if plan.workflows else None,
        # A killed worker's workflows go on elsewhere after this.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        graceful_shutdown_timeout=timedelta(seconds=settings.graceful_shutdown_seconds),
        disable_eager_activity_execution=True,
        identity=f"wedsync-worker-{plan.queue}",
        deployment_config=_deployment(settings),
    )


def _deployment(settings: Settings) -> WorkerDeploymentConfig | None:
    """Version the workers by build id, running workflows moving on to the current version (ADR 0006); None: no id."""
    if not settings.worker_build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name="wedsync", build_id=settings.worker_build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


async def ensure_schedules(client: Client, settings: Settings) -> None:
    """Schedule the dispatching sweep, each minute and never two at once, and the reading of vendors' event lists."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            REDISPATCH_PENDING_WORKFLOW,
            id=SWEEP_SCHEDULE,
            task_queue=task_queues.WORKFLOWS_BULK,
            static_summary="tell again what was recorded and not handed over",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(minutes=1))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(minutes=1)),
    )
    with contextlib.suppress(ScheduleAlreadyRunningError):
        await client.create_schedule(SWEEP_SCHEDULE, schedule)
    registry = load_registry()
    for source in reconcilable(registry):
        await ensure_reconciled(client, source, reconcile_every(registry, settings, source))


async def ensure_watch(client: Client) -> None:
    """Start the one watch on the vendors' health."""
    await client.start_workflow(
        WATCH_HEALTH_WORKFLOW,
        WatchStart(),
        id=WATCH_HEALTH_ID,
        task_queue=task_queues.WORKFLOWS_BULK,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="probe the services and tell of changes",
    )


async def run(settings: Settings, ready: Callable[[list[str]], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then finish what runs within `settings.graceful_shutdown_seconds`.

    `ready` is called with the names of the queues once they are served. Raises TemporalUnreachable when there is no
    server at the start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.worker_metrics_port:
        telemetry.serve_metrics(settings.worker_metrics_port)
    client = await connect(settings, plugins=telemetry.temporal_plugins())
    async with open_activities(settings, client) as worker_activities:
        chosen = plans(worker_activities, settings)
        async with contextlib.AsyncExitStack() as stack:
            for plan in chosen:
                await stack.enter_async_context(make_worker(client, plan, settings, UNSANDBOXED))
            try:
                await ensure_schedules(client, settings)
                if settings.health_probes:
                    await ensure_watch(client)
            except RPCError as error:
                log.warning("schedule.not_made", reason=error.status.name)
            freeze_memory()
            served = [plan.queue for plan in chosen]
            log.info("worker.ready", queues=served)
            if ready is not None:
                ready(served)
            await stop.wait()
            log.info("worker.stopping")
