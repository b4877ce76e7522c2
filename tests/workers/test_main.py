from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.support.plans import booking, plan
from tests.support.stage import Stage
from wedsync.domain import task_queues
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from workers.main import SWEEP_SCHEDULE, ensure_schedules, make_worker, open_activities
from workers.queues import QueuePlan, plans


@pytest.fixture
async def worker_activities(settings: Settings, database_url: str, temporal_client: Client) -> Any:
    given = settings.model_copy(update={"database_url": database_url})
    async with open_activities(given, temporal_client) as opened:
        yield opened


async def test_a_process_serves_every_queue_unless_it_is_told_which(worker_activities: Any, settings: Settings) -> None:
    assert {plan.queue for plan in plans(worker_activities, settings)} == set(task_queues.ALL)
    some = settings.model_copy(update={"worker_queues": " vendor-critical, records ,"})
    assert [plan.queue for plan in plans(worker_activities, some)] == ["vendor-critical", "records"]


async def test_vendor_queues_run_calls_only_and_the_critical_one_has_slots_of_its_own(
    worker_activities: Any, settings: Settings
) -> None:
    sized = settings.model_copy(update={"worker_vendor_slots": 7, "worker_critical_slots": 3})
    by_queue = {plan.queue: plan for plan in plans(worker_activities, sized)}
    for name, slots in (("vendor", 7), ("vendor-critical", 3)):
        assert (by_queue[name].workflows, by_queue[name].activity_slots) == ((), slots)
        assert by_queue[name].activities == [worker_activities.vendors.call]
    assert worker_activities.vendors.call not in by_queue["records"].activities


_begun, _finish = asyncio.Event(), asyncio.Event()


@activity.defn
async def linger() -> str:
    _begun.set()
    await _finish.wait()
    return "finished"


@workflow.defn
class Lingering:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            linger, task_queue="lingering-calls", start_to_close_timeout=timedelta(seconds=30)
        )


async def test_a_worker_that_is_told_to_stop_finishes_the_call_it_is_in(
    temporal_client: Client, settings: Settings
) -> None:
    graceful = settings.model_copy(update={"graceful_shutdown_seconds": 20.0})
    worker = make_worker(temporal_client, QueuePlan("lingering-calls", (), [linger], 2), graceful)
    async with Worker(
        temporal_client,
        task_queue="lingering",
        workflows=[Lingering],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        running = asyncio.create_task(worker.run())
        handle = await temporal_client.start_workflow(Lingering.run, id=new_id(), task_queue="lingering")
        await _begun.wait()
        stopping = asyncio.create_task(worker.shutdown())
        _finish.set()
        assert await handle.result() == "finished"
        await asyncio.gather(stopping, running)
    attempts = [
        e.activity_task_started_event_attributes.attempt
        for e in (await handle.fetch_history()).events
        if e.HasField("activity_task_started_event_attributes")
    ]
    assert attempts == [1]


async def test_the_sweep_runs_each_minute_and_is_made_once(settings: Settings, temporal_client: Client) -> None:
    await ensure_schedules(temporal_client, settings)
    await ensure_schedules(temporal_client, settings)
    described = await temporal_client.get_schedule_handle(SWEEP_SCHEDULE).describe()
    assert [interval.every for interval in described.schedule.spec.intervals] == [timedelta(minutes=1)]
    await temporal_client.get_schedule_handle(SWEEP_SCHEDULE).delete()


async def test_a_wedding_runs_under_the_guard_of_the_workflow_sandbox(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue")))
    await wedding.until(await wedding.request_change(), "completed")
    assert [entry["state"] for entry in await wedding.ledger()] == ["active"]
