"""Records the histories of the workflows that deliver our events: `make histories`. In a run of its own: a process
has one worker for each queue.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.outbox import DeliveryActivities
from tests.support.outgoing import open_post_office
from tests.support.receivers import open_receiver
from wedsync.domain.outbox.messages import outbox_workflow_id, subscription_workflow_id
from wedsync.domain.task_queues import RECORDS, WORKFLOWS
from wedsync.store.outbox.events import NEWS
from workflows.drain_outbox import DrainOutbox
from workflows.retry_subscription import RetrySubscription

FOLDER = Path(__file__).parent


async def test_record_outbox_and_endpoint(fresh_database_urls: Any, temporal_client: Client) -> None:
    async def provide() -> Client:
        return temporal_client

    async with open_receiver() as receiver, open_post_office(fresh_database_urls.app, provider=provide) as office:
        office.db.when_committed(NEWS, office.dispatcher.dispatch)
        made = DeliveryActivities(office.db, provide, office.sender, office.delivery_sender)
        flow = Worker(temporal_client, task_queue=WORKFLOWS, workflows=[DrainOutbox, RetrySubscription])
        worker_activities = [made.pump, made.retry_subscription, made.sweep]
        async with flow, Worker(temporal_client, task_queue=RECORDS, activities=worker_activities):
            receiver.answer = lambda request: (503, {})
            subscription = await office.subscribe(receiver.url(), "payment.*")
            await office.dispatch(5)
            await receiver.until(3)
            receiver.answer = lambda request: (200, {})
            await office.until_statuses({"delivered": 5})
            await office.until_status(subscription, "active")
            for story, name in (
                ("outbox-drained", outbox_workflow_id()),
                ("endpoint-well-again", subscription_workflow_id(subscription)),
            ):
                handle = temporal_client.get_workflow_handle(name)
                with suppress(RPCError):
                    await handle.result()
                history = await handle.fetch_history()
                (FOLDER / f"{story}.json").write_text(history.to_json() + "\n", encoding="utf-8")
