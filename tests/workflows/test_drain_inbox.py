from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.inbox import WebhookActivities
from wedsync.dispatch.inbox import InboxDispatcher, signal_drain
from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.inbox.messages import (
    DRAIN_SIGNAL,
    DrainBatch,
    DrainedBatch,
    DrainStart,
    DrainTotals,
    SweptInbox,
    drain_workflow_id,
)
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.task_queues import RECORDS, WORKFLOWS
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, WEDDING_WORKFLOW, wedding_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.store.weddings.tables import weddings
from workflows.drain_inbox import BATCHES_PER_RUN, MAX_LINGERS, DrainInbox

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@workflow.defn(name=WEDDING_WORKFLOW)
class CountingWedding:
    """Counts how often it was told of each event."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        self._told[event.event_id] = self._told.get(event.event_id, 0) + 1

    @workflow.query
    def signalled(self) -> dict[str, int]:
        return self._told


class Script:
    """In place of the activities: answers as told, then with `rest`, and counts how often it was asked."""

    def __init__(self, *answers: DrainedBatch | Exception, rest: DrainedBatch | None = None) -> None:
        self._answers = list(answers)
        self._rest = rest or DrainedBatch(claimed=0)
        self.asked: list[DrainBatch] = []
        self.priorities: set[int | None] = set()
        self.signal_at: int | None = None
        self.handle: WorkflowHandle[Any, Any] | None = None

    @activity.defn(name="webhooks.drain_batch")
    async def drain_batch(self, batch: DrainBatch) -> DrainedBatch:
        self.asked.append(batch)
        self.priorities.add(activity.info().priority.priority_key)
        if self.handle is not None and len(self.asked) == self.signal_at:
            await self.handle.signal(DRAIN_SIGNAL)
        answer = self._answers.pop(0) if self._answers else self._rest
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def drains(temporal_env: WorkflowEnvironment) -> AsyncIterator[Client]:
    async with Worker(temporal_env.client, task_queue=WORKFLOWS, workflows=[DrainInbox]):
        yield temporal_env.client


async def run_drain(env: WorkflowEnvironment, script: Script, lane: Any = "normal") -> DrainTotals:
    async with Worker(env.client, task_queue=RECORDS, activities=[script.drain_batch]):
        with env.with_time_skipping_disabled():
            handle = await env.client.start_workflow(
                DrainInbox.run,
                DrainStart(lane=lane),
                id=drain_workflow_id(lane),
                task_queue=WORKFLOWS,
                start_signal=DRAIN_SIGNAL,
            )
        script.handle = env.client.get_workflow_handle(handle.id)
        return await handle.result()


def batch(processed: int) -> DrainedBatch:
    return DrainedBatch(claimed=processed, totals=DrainTotals(processed=processed))


async def test_a_drain_goes_on_until_a_batch_is_empty_and_says_what_it_did(
    drains: Client, temporal_env: WorkflowEnvironment
) -> None:
    script = Script(batch(50), DrainedBatch(claimed=3, totals=DrainTotals(processed=1, unmatched=1, dead=1)))
    totals = await run_drain(temporal_env, script)
    assert totals == DrainTotals(processed=51, unmatched=1, dead=1)
    assert [asked.lane for asked in script.asked] == ["normal"] * 3
    assert script.priorities == {3}


async def test_the_critical_lane_goes_ahead_of_all_others(drains: Client, temporal_env: WorkflowEnvironment) -> None:
    script = Script()
    await run_drain(temporal_env, script, "critical")
    assert (script.priorities, script.asked[0].lane) == ({1}, "critical")


async def test_a_tell_during_the_last_look_makes_the_drain_look_again(
    drains: Client, temporal_env: WorkflowEnvironment
) -> None:
    script = Script(DrainedBatch(claimed=0), batch(1))
    script.signal_at = 1
    assert await run_drain(temporal_env, script) == DrainTotals(processed=1)
    assert len(script.asked) == 3


async def test_a_database_that_is_down_delays_a_batch_and_loses_nothing(
    drains: Client, temporal_env: WorkflowEnvironment
) -> None:
    script = Script(*(StoreUnavailable("the database cannot be reached") for _ in range(3)), batch(1))
    assert await run_drain(temporal_env, script) == DrainTotals(processed=1)


async def test_a_drain_waits_for_rows_that_are_due_soon_and_leaves_later_ones_to_the_sweep(
    drains: Client, temporal_env: WorkflowEnvironment
) -> None:
    soon, later = DrainedBatch(claimed=0, next_due_seconds=2.0), DrainedBatch(claimed=0, next_due_seconds=600.0)
    script = Script(soon, batch(1), later)
    assert await run_drain(temporal_env, script) == DrainTotals(processed=1)
    assert len(script.asked) == 3


async def test_a_drain_does_not_linger_for_ever(drains: Client, temporal_env: WorkflowEnvironment) -> None:
    script = Script(rest=DrainedBatch(claimed=0, next_due_seconds=0.5))
    await run_drain(temporal_env, script)
    assert len(script.asked) == MAX_LINGERS + 1


async def test_a_long_drain_continues_as_new_and_keeps_its_totals(
    drains: Client, temporal_env: WorkflowEnvironment
) -> None:
    script = Script(*(batch(50) for _ in range(BATCHES_PER_RUN + 5)))
    assert await run_drain(temporal_env, script) == DrainTotals(processed=50 * (BATCHES_PER_RUN + 5))
    handle = temporal_env.client.get_workflow_handle(drain_workflow_id("normal"))
    assert (await handle.describe()).history_length < 100


# -- with the real activities, database and server --------------------------------------------------------------------


@pytest.fixture
async def db(fresh_database_urls: Any) -> AsyncIterator[Database]:
    database = Database(fresh_database_urls.app)
    async with database.system() as connection:
        await connection.execute(insert(organizations).values(id="o1", name="Studio", created_at=NOW))
    yield database
    await database.close()


@pytest.fixture
async def house(db: Database, temporal_client: Client) -> AsyncIterator[Client]:
    """Workers for drains, their activities and listening weddings on a real server."""

    async def provider() -> Client:
        return temporal_client

    worker_activities = WebhookActivities(db, provider)
    async with (
        Worker(temporal_client, task_queue=WORKFLOWS, workflows=[DrainInbox]),
        Worker(
            temporal_client,
            task_queue=RECORDS,
            activities=[worker_activities.drain_batch, worker_activities.sweep_inbox],
        ),
        Worker(
            temporal_client,
            task_queue="counting",
            workflows=[CountingWedding, SweepOnce],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ),
    ):
        yield temporal_client
        with suppress(RPCError):
            await temporal_client.get_workflow_handle(drain_workflow_id("normal")).terminate()


@workflow.defn
class SweepOnce:
    """Runs the sweep's activity."""

    @workflow.run
    async def run(self) -> SweptInbox:
        return await workflow.execute_activity_method(
            WebhookActivities.sweep_inbox, task_queue=RECORDS, start_to_close_timeout=timedelta(seconds=30)
        )


async def add_weddings(db: Database, client: Client, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    rows = [
        {
            "id": wedding_id,
            "organization_id": "o1",
            "reference": wedding_id,
            "status": "active",
            "phase": "preparation",
            "mode": "normal",
            "ceremony_local": "2027-06-19T16:00",
            "zone": "Europe/Rome",
            "ceremony_at": NOW,
            "plan_version": 1,
            "created_at": NOW,
            "updated_at": NOW,
        }
        for wedding_id in ids
    ]
    async with db.system() as connection:
        await connection.execute(insert(weddings), rows)
    for wedding_id in ids:
        await client.start_workflow(CountingWedding.run, id=wedding_workflow_id(wedding_id), task_queue="counting")
    return ids


def event_row(event_id: str, wedding_id: str) -> NewRow:
    event = VendorEvent(
        source="stripe", event_id=event_id, type="payment.succeeded", vendor_type="x", wedding_id=wedding_id
    )
    return NewRow(event=event, priority=3, sealed_body=b"x")


async def record(db: Database, *rows: NewRow) -> None:
    async with db.system() as connection:
        await inbox.record(connection, "stripe", rows, utc_now())


async def states(db: Database) -> Counter[str]:
    async with db.system() as connection:
        rows = await connection.execute(select(inbox_table.c.state, func.count()).group_by(inbox_table.c.state))
        return Counter(dict(list(rows)))


async def signalled(client: Client, wedding_id: str) -> dict[str, int]:
    return await client.get_workflow_handle(wedding_workflow_id(wedding_id)).query(CountingWedding.signalled)


async def test_a_burst_of_2000_events_told_as_it_arrives_reaches_each_wedding_once(db: Database, house: Client) -> None:
    ids = await add_weddings(db, house, 10)

    async def provider() -> Client:
        return house

    dispatcher = InboxDispatcher(provider, interval_seconds=0.05)
    for start in range(0, 2000, 100):
        await record(db, *(event_row(f"evt_{number}", ids[number % 10]) for number in range(start, start + 100)))
        dispatcher.dispatch("normal")
    await dispatcher.close()
    await house.get_workflow_handle(drain_workflow_id("normal")).result()
    assert await states(db) == {"processed": 2000}
    heard = await asyncio.gather(*(signalled(house, wedding_id) for wedding_id in ids))
    assert sum(len(events) for events in heard) == 2000
    assert {count for events in heard for count in events.values()} == {1}


async def test_the_order_of_arrival_is_nothing_that_an_event_depends_on(db: Database, house: Client) -> None:
    (wedding_id,) = await add_weddings(db, house, 1)
    await record(db, event_row("newer", wedding_id))
    await signal_drain(house, "normal")
    await record(db, event_row("older", wedding_id))
    await signal_drain(house, "normal")
    await house.get_workflow_handle(drain_workflow_id("normal")).result()
    assert await signalled(house, wedding_id) == {"newer": 1, "older": 1}


async def test_rows_that_nobody_was_told_of_are_found_by_the_sweep(db: Database, house: Client) -> None:
    (wedding_id,) = await add_weddings(db, house, 1)
    async with db.system() as connection:
        await inbox.record(connection, "stripe", [event_row("missed", wedding_id)], NOW.replace(year=2020))
    swept = await house.execute_workflow(SweepOnce.run, id=f"sweep-{wedding_id}", task_queue="counting")
    assert swept.signalled == ("normal",)
    await house.get_workflow_handle(drain_workflow_id("normal")).result()
    assert await signalled(house, wedding_id) == {"missed": 1}


async def test_an_operator_reads_what_a_drain_is_and_does(db: Database, house: Client) -> None:
    await signal_drain(house, "critical")
    handle = house.get_workflow_handle(drain_workflow_id("critical"))
    await handle.result()
    described = await handle.describe()
    assert await described.static_summary() == "drain the critical lane of the inbox"
    assert described.raw_description.workflow_execution_info.priority.priority_key == 1
    history = await handle.fetch_history()
    scheduled = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    summaries = [await house.data_converter.decode([event.user_metadata.summary]) for event in scheduled]
    assert summaries == [["a batch of the critical lane"]]
