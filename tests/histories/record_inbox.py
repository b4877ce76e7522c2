"""Records the histories of the workflows that work off the inbox: `make histories`. In a run of its own: a process has
one worker for each queue.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update
from temporalio.client import Client
from temporalio.worker import Worker

from activities.inbox import WebhookActivities
from wedsync.dispatch.inbox import signal_drain
from wedsync.domain.inbox.messages import ReconcileStart, drain_workflow_id, retry_workflow_id
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.task_queues import BULK, RECORDS, WORKFLOWS, WORKFLOWS_BULK
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import WEDDING_WORKFLOW, wedding_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.store.weddings.tables import external_refs, weddings
from wedsync.usecases.inbox.reconcile import Reconciler
from wedsync.usecases.inbox.retry import wake_retry
from wedsync.vendors.registry import load_registry
from workflows.drain_inbox import DrainInbox
from workflows.reconcile_source import ReconcileSource
from workflows.retry_webhook import RetryWebhook

FOLDER = Path(__file__).parent


async def keep(client: Client, story: str, workflow_id: str) -> None:
    """Wait for the workflow's end and write its history."""
    handle = client.get_workflow_handle(workflow_id)
    await handle.result()
    history = await handle.fetch_history()
    (FOLDER / f"{story}.json").write_text(history.to_json() + "\n", encoding="utf-8")


class Inbox:
    """A database with one wedding, whose workflow takes signals and does nothing."""

    def __init__(self, db: Database, client: Client) -> None:
        self.db = db
        self.client = client
        self.wedding_id = new_id()

    async def open(self) -> None:
        """Write the wedding down and start its workflow."""
        now = utc_now()
        times = {"ceremony_at": now, "created_at": now, "updated_at": now}
        plain = {"reference": "w", "status": "active", "phase": "preparation", "mode": "normal", "plan_version": 1}
        place = {"ceremony_local": "2027-06-19T16:00", "zone": "Europe/Rome"}
        row = {"id": self.wedding_id, "organization_id": "o1", **plain, **place, **times}
        async with self.db.system() as connection:
            await connection.execute(insert(organizations).values(id="o1", name="Studio", created_at=now))
            await connection.execute(insert(weddings).values(row))
        await self.client.start_workflow(
            WEDDING_WORKFLOW, id=wedding_workflow_id(self.wedding_id), task_queue="nobody's"
        )

    async def record(self, event_id: str, **changes: Any) -> None:
        """Record an event and have its drain told."""
        event = VendorEvent(source="stripe", event_id=event_id, type="payment.succeeded", vendor_type="x", **changes)
        async with self.db.system() as connection:
            await inbox.record(connection, "stripe", [NewRow(event=event, priority=3, sealed_body=b"")], utc_now())
        await signal_drain(self.client, "normal")

    async def until(self, event_id: str, state: str, attempts: int = 0) -> int:
        """Wait for what becomes of an event; its row's id."""
        query = select(inbox_table.c.id, inbox_table.c.state, inbox_table.c.attempts).where(
            inbox_table.c.event_id == event_id
        )
        async with asyncio.timeout(60):
            while True:
                async with self.db.system() as connection:
                    row = (await connection.execute(query)).one()
                if (row.state, row.attempts) == (state, attempts):
                    return int(row.id)
                await asyncio.sleep(0.05)

    async def rewrite(self, event_id: str, event: dict[str, Any]) -> None:
        """Change what is stored of an event."""
        async with self.db.system() as connection:
            changed = update(inbox_table).where(inbox_table.c.event_id == event_id).values(event=event)
            await connection.execute(changed)

    async def hold(self, object_id: str) -> None:
        """Have a step of the wedding hold the object."""
        reference = {"vendor": "stripe", "account": "default", "object_id": object_id, "step_id": "deposit"}
        owner = {"organization_id": "o1", "wedding_id": self.wedding_id, "transaction_id": "t1"}
        async with self.db.system() as connection:
            await connection.execute(insert(external_refs).values({**reference, **owner, "created_at": utc_now()}))


async def test_record_inbox(fresh_database_urls: Any, temporal_client: Client) -> None:
    async def provide() -> Client:
        return temporal_client

    db, pool = Database(fresh_database_urls.app), new_pool()
    with EmbeddedSandbox(Settings()) as sandbox:
        vendors = {"stripe": {"base_url": sandbox.vendor_url("stripe"), "api_key": "sk_test_1"}}
        settings, registry = Settings.model_validate({"vendors": vendors}), load_registry()
        reconciler = Reconciler(db, settings, registry, VendorGateway(settings, registry, pool))
        worker_activities = WebhookActivities(db, provide, reconciler)
        async with (
            Worker(temporal_client, task_queue=WORKFLOWS, workflows=[DrainInbox, RetryWebhook]),
            Worker(temporal_client, task_queue=WORKFLOWS_BULK, workflows=[ReconcileSource]),
            Worker(
                temporal_client,
                task_queue=RECORDS,
                activities=[worker_activities.drain_batch, worker_activities.retry_event],
            ),
            Worker(temporal_client, task_queue=BULK, activities=[worker_activities.reconcile]),
        ):
            await tell_stories(Inbox(db, temporal_client))
        await sandbox.close()
    await pool.aclose()
    await db.close()


async def tell_stories(told: Inbox) -> None:
    """An event that overtakes its reference, one with a fault of its own, and a look at a vendor's list."""
    await told.open()
    await told.record("prompt", wedding_id=told.wedding_id)
    await told.record("early", object_id="pi_1")
    await told.until("early", "unmatched")
    # It names no object that Postgres could index: random, since a long repetition would be compressed.
    await told.record("faulty", wedding_id=told.wedding_id, object_id=secrets.token_hex(5000), occurred_at=utc_now())
    row_id = await told.until("faulty", "retrying", attempts=1)
    await wake_retry(told.client, row_id)
    await told.until("faulty", "retrying", attempts=2)
    good = VendorEvent(
        source="stripe", event_id="faulty", type="payment.succeeded", vendor_type="x", wedding_id=told.wedding_id
    )
    await told.rewrite("faulty", good.model_dump(mode="json"))
    await wake_retry(told.client, row_id)
    await keep(told.client, "retry-processed", retry_workflow_id(row_id))
    await told.hold("pi_1")
    await told.until("early", "processed")
    await keep(told.client, "inbox-drained", drain_workflow_id("normal"))
    start = ReconcileStart(source="stripe")
    await told.client.start_workflow(ReconcileSource.run, start, id="reconcile-stripe", task_queue=WORKFLOWS_BULK)
    await keep(told.client, "reconcile-looked", "reconcile-stripe")
