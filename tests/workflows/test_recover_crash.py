from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import text
from temporalio.client import Client

from tests.support.chaos_process import WorkerProcess, worker_environment
from tests.support.guarded import SERVICE, RecoveryStage
from tests.support.routing import configure, open_admission_controller, rows
from tests.support.stage import stage_settings

_FAR_ON = """
INSERT INTO circuits (service, endpoint, state, epoch, "window") VALUES (:service, 'default', 'closed', 99, '[]')
"""


async def test_a_guard_survives_the_death_of_its_worker_and_restores_once(
    fresh_database_urls: Any, temporal_client: Client, temporal_server: Any, stage_sandbox: Any, tmp_path: Path
) -> None:
    async def provide() -> Client:
        return temporal_client

    settings = stage_settings(fresh_database_urls.app, stage_sandbox, tmp_path)
    async with open_admission_controller(fresh_database_urls.app, provide) as controller:
        recovery = RecoveryStage(controller, temporal_client, stage_sandbox)
        await configure(controller, SERVICE, {"open_seconds": 3.0, "ramp_step_seconds": 1.0, "probes": 2})
        async with controller.breakers.db.system() as conn:
            # Past the trips of other tests on this server, whose guards' ids are taken.
            await conn.execute(text(_FAR_ON), {"service": SERVICE})
        await controller.routing_table.load()
        with WorkerProcess(worker_environment(settings, temporal_server.address), tmp_path / "worker.log") as worker:
            await recovery.trip()
            worker.kill()
            await recovery.until("ramping")
            worker.kill()
            await recovery.until("closed")
            assert await recovery.ended() == "restored"
            assert worker.kills == 2
        record = await recovery.failover()
        assert (record.status, record.fell_back) == ("restored", 0)
        permits = await rows(controller, "SELECT slot, outcome FROM probe_permits ORDER BY slot")
        assert [(row.slot, row.outcome) for row in permits] == [(1, "ok"), (2, "ok")]
