"""A database with two weddings, and a workflow in the wedding's place that keeps what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select
from temporalio import workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from wedsync.domain.inbox.messages import LANES, drain_workflow_id
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, WEDDING_WORKFLOW, wedding_workflow_id
from wedsync.kit.ids import new_id
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.store.weddings.tables import external_refs, weddings

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@workflow.defn(name=WEDDING_WORKFLOW)
class ListeningWedding:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self._events: list[VendorEvent] = []

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        self._events.append(event)

    @workflow.query
    def told(self) -> list[VendorEvent]:
        return self._events


@dataclass
class House:
    """The database, Temporal, and what is done to them in these tests."""

    db: Database
    client: Client
    queue: str

    async def provider(self) -> Client:
        return self.client

    async def add_wedding(self, *, status: str = "active", mode: str = "normal", is_running: bool = True) -> str:
        wedding_id = new_id()
        row = {
            "id": wedding_id,
            "organization_id": "o1",
            "reference": wedding_id,
            "status": status,
            "phase": "preparation",
            "mode": mode,
            "ceremony_local": "2027-06-19T16:00",
            "zone": "Europe/Rome",
            "ceremony_at": NOW,
            "plan_version": 1,
            "created_at": NOW,
            "updated_at": NOW,
        }
        async with self.db.system() as connection:
            await connection.execute(insert(weddings).values(row))
        if is_running:
            await self.client.start_workflow(
                ListeningWedding.run, id=wedding_workflow_id(wedding_id), task_queue=self.queue
            )
        return wedding_id

    async def add_reference(
        self, wedding_id: str, object_id: str, step_id: str = "deposit", *, at: datetime = NOW
    ) -> None:
        row = {
            "organization_id": "o1",
            "vendor": "stripe",
            "account": "default",
            "object_id": object_id,
            "wedding_id": wedding_id,
            "step_id": step_id,
            "transaction_id": "t1",
            "created_at": at,
        }
        async with self.db.system() as connection:
            await connection.execute(insert(external_refs).values(row))

    async def record(self, event_id: str, *, received_at: datetime = NOW, priority: int = 3, **changes: Any) -> None:
        values = {"source": "stripe", "event_id": event_id, "type": "payment.succeeded", "vendor_type": "x"} | changes
        row = NewRow(event=VendorEvent.model_validate(values), priority=priority, sealed_body=b"x")
        async with self.db.system() as connection:
            await inbox.record(connection, "stripe", [row], received_at)

    async def rows(self) -> dict[str, Any]:
        async with self.db.system() as connection:
            return {row.event_id: row for row in await connection.execute(select(inbox_table))}

    async def told(self, wedding_id: str) -> list[VendorEvent]:
        handle = self.client.get_workflow_handle(wedding_workflow_id(wedding_id))
        return await handle.query(ListeningWedding.told)


@pytest.fixture
async def house(fresh_database_urls: Any, temporal_client: Client) -> AsyncIterator[House]:
    """A house with one organization, `o1`."""
    db = Database(fresh_database_urls.app)
    async with db.system() as connection:
        await connection.execute(insert(organizations).values(id="o1", name="Studio", created_at=NOW))
    queue = f"listening-{new_id()}"
    async with Worker(
        temporal_client, task_queue=queue, workflows=[ListeningWedding], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        yield House(db, temporal_client, queue)
    await db.close()
    await asyncio.gather(*(_terminate(temporal_client, drain_workflow_id(lane)) for lane in LANES))


async def _terminate(client: Client, workflow_id: str) -> None:
    with suppress(RPCError):
        await client.get_workflow_handle(workflow_id).terminate()
