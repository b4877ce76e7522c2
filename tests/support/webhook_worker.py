"""Drains, retries and listening weddings as a program that tests kill: `python -m tests.support.webhook_worker`.

`TEMPORAL_ADDRESS` and `WEDSYNC_DATABASE_URL` say where. It says `ready` and ends with whoever holds its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.inbox import WebhookActivities
from wedsync.domain.task_queues import RECORDS, WORKFLOWS
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, WEDDING_WORKFLOW
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import connect
from wedsync.store.db.session import Database
from workers.main import make_worker
from workers.queues import QueuePlan
from workflows.drain_inbox import DrainInbox
from workflows.retry_webhook import RetryWebhook

#: The queue of the listening weddings.
LISTENING = "listening-weddings"


@workflow.defn(name=WEDDING_WORKFLOW)
class ListeningWedding:
    """Takes each event once, as the wedding does, and counts how often it acted on it."""

    def __init__(self) -> None:
        self._acted: dict[str, int] = {}
        self._known: set[str] = set()

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        key = f"{event.source}:{event.event_id}"
        if key not in self._known:
            self._known.add(key)
            self._acted[event.event_id] = self._acted.get(event.event_id, 0) + 1

    @workflow.query
    def acted(self) -> dict[str, int]:
        return self._acted


async def serve(settings: Settings) -> None:
    """Serve until killed."""
    client = await connect(settings)
    db = Database(settings.database_url, 8)

    async def provide() -> Client:
        return client

    worker_activities = WebhookActivities(db, provide)
    activities = [worker_activities.drain_batch, worker_activities.retry_event, worker_activities.sweep_inbox]
    workers = [
        make_worker(client, QueuePlan(WORKFLOWS, (DrainInbox, RetryWebhook), (), 10), settings),
        make_worker(client, QueuePlan(RECORDS, (), activities, 10), settings),
        Worker(
            client,
            task_queue=LISTENING,
            workflows=[ListeningWedding],
            workflow_runner=UnsandboxedWorkflowRunner(),
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        ),
    ]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        print("ready", flush=True)  # noqa: T201 - who started it waits for this


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(serve(Settings()))
