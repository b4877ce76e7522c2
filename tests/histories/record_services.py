"""Records the histories of the workflows beside the weddings: `make histories`. No guest's data is in them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle

from tests.support.guarded import SERVICE, RecoveryStage, restored
from tests.support.migrations import BROKEN, open_migrating
from tests.support.routing import configure, open_admission_controller
from tests.support.stage import Stage
from wedsync.domain.health.messages import WatchStart
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.kit.ids import new_id
from workflows.watch_health import WatchHealth

FOLDER = Path(__file__).parent
SWIFT = {"open_seconds": 1.0, "open_cap_seconds": 4.0, "ramp_step_seconds": 1.0, "probes": 3}


async def keep(handle: WorkflowHandle[Any, Any], story: str) -> None:
    """Write one history."""
    (FOLDER / f"{story}.json").write_text((await handle.fetch_history()).to_json() + "\n", encoding="utf-8")


async def test_record_guard(stage: Stage) -> None:
    async def provide() -> Client:
        return stage.client

    async with open_admission_controller(stage.settings.database_url, provide) as controller:
        recovery = RecoveryStage(controller, stage.client, stage.sandbox)
        await configure(controller, SERVICE, SWIFT)
        await recovery.trip()
        await recovery.until("closed")
        assert await recovery.ended() == "restored"
        await keep(recovery.handle, "guard-restored")
        await restored(recovery)


async def test_record_health(stage: Stage) -> None:
    name = f"history-{new_id()}"
    start = WatchStart(seconds=1)
    handle = await stage.client.start_workflow(WatchHealth.run, start, id=name, task_queue=WORKFLOWS)
    first = stage.client.get_workflow_handle(name, run_id=handle.first_execution_run_id)
    with suppress(TimeoutError):
        async for event in first.fetch_history_events(wait_new_event=True):
            if event.HasField("workflow_execution_continued_as_new_event_attributes"):
                break
    await stage.client.get_workflow_handle(name).terminate()
    await keep(first, "health-watched")


async def test_record_migrations(stage: Stage) -> None:
    quick = {"shadow_seconds": 1, "canary_seconds": 2, "verify_seconds": 2, "look_seconds": 1}
    async with open_migrating(stage) as migrating:
        await migrating.add_broken()
        wedding = await migrating.wedding()
        back = await migrating.begin(wedding.organization_id, BROKEN, **quick)
        assert (await migrating.end(back)).outcome == "rolled_back"
        await keep(migrating.handle(back), "migration-rolled-back")
        done = await migrating.begin(wedding.organization_id, **quick)
        assert (await migrating.end(done)).outcome == "done"
        await keep(migrating.handle(done), "migration-done")
