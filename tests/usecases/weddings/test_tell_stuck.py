"""A workflow whose task keeps failing is an alert, with a real Temporal that marks it."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from wedsync.kit.clock import utc_now
from wedsync.local.temporal_server import program
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.usecases.weddings.tell_stuck import StuckWatch

_THRESHOLD = "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1"


@workflow.defn(sandboxed=False)
class Broken:
    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a mistake in the code")


async def _until_stuck(db: Database, client: Client, watch: StuckWatch) -> int:
    async with asyncio.timeout(15):
        while not (found := await watch.watch(db, client, utc_now())):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.2)
    return found


async def test_a_workflow_whose_task_keeps_failing_is_told_of_once(fresh_database_urls: Any) -> None:
    db = Database(fresh_database_urls.app, 3)
    async with db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", utc_now())
    async with db.tenant("studio") as conn:
        await conn.execute(
            text("""INSERT INTO notification_channels
            (id, organization_id, name, kind, target, events, least_severity, dedup_seconds, created_at, created_by)
            VALUES ('c', 'studio', 'on call', 'log', '', '["workflow.stuck"]', 0, 0, now(), 'test')""")
        )
    args = ["--dynamic-config-value", _THRESHOLD]
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(program()), dev_server_extra_args=args
        ) as env,
        Worker(env.client, task_queue="q", workflows=[Broken]),
    ):
        await env.client.start_workflow(Broken.run, id="broken", task_queue="q")
        assert await _until_stuck(db, env.client, StuckWatch()) == 1
        # Another process, and a channel that forgets at once.
        assert await StuckWatch().watch(db, env.client, utc_now()) == 1
        client = env.client
    assert await StuckWatch().watch(db, client, utc_now()) == 0
    async with db.system() as conn:
        told = (await conn.execute(text("SELECT notice FROM notifications"))).scalars().all()
    await db.close()
    assert [(one["kind"], one["service"], one["detail"]["workflow_id"]) for one in told] == [
        ("workflow.stuck", "Broken", "broken")
    ]
    assert told[0]["detail"]["problems"]
