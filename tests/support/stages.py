"""Fixtures of the stage, on a plain server and on one that skips time; for conftest files.

One stage per test file: a process may have only one worker on each queue of a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import WorkflowRunner

from tests.support.puppet import Puppet, PuppetRegistry
from tests.support.stage import Stage, Staged, stage_settings
from wedsync.domain.plans.plan import Plan
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.kit.settings import Settings
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.db.session import Database
from workers.main import SANDBOXED, make_worker, open_activities
from workers.queues import plans

#: Vendors fail here more than anywhere: no circuit opens unless a test configures it.
CALM = CircuitPolicy(min_calls=100_000)
#: The puppet's vendors have no credentials that would be missing, and no limits.
EVERY: dict[str, Any] = {"limited": (), "set_up": None}
#: Ends fast, keeps little.
FAST: dict[str, Any] = {"graceful_shutdown_seconds": 1.0, "worker_cached_workflows": 500}


@asynccontextmanager
async def open_puppet_stage(
    settings: Settings, client: Client, sandbox: EmbeddedSandbox, puppet: Puppet, runner: WorkflowRunner = SANDBOXED
) -> AsyncIterator[Stage]:
    """The stage, with the puppet's vendors beside the installed ones."""
    registry, db = PuppetRegistry(puppet), Database(settings.database_url, 10)
    async with AsyncExitStack() as stack:
        worker_activities = await stack.enter_async_context(
            open_activities(settings, client, registry=registry, policy=CALM, **EVERY)
        )
        for plan in plans(worker_activities, settings):
            await stack.enter_async_context(make_worker(client, plan, settings, runner))
        yield Stage(settings, client, db, sandbox, registry=registry)
    await db.close()


@pytest.fixture(scope="session")
def puppet() -> Puppet:
    """Return what the puppet's vendors will answer."""
    return Puppet()


@pytest.fixture(scope="session")
async def stage_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSandbox]:
    """Run every vendor's stand-in; none of them sends webhooks by itself."""
    with EmbeddedSandbox(Settings(state_dir=tmp_path_factory.mktemp("sandbox"))) as sandbox:
        for vendor in (name for name, manifest in sandbox.registry.manifests.items() if manifest.has_api):
            await sandbox.webhook_policy(vendor, muted=True)
        yield sandbox
        await sandbox.close()


@pytest.fixture(scope="module")
async def stage(
    database_url: str,
    temporal_client: Client,
    stage_sandbox: EmbeddedSandbox,
    puppet: Puppet,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    """Open the stage on a plain Temporal server."""
    settings = stage_settings(database_url, stage_sandbox, tmp_path_factory.mktemp("stage"), **FAST)
    async with open_puppet_stage(settings, temporal_client, stage_sandbox, puppet) as opened:
        yield opened


@dataclass
class SkippingStage:
    """Stage on a server that skips time: weddings on it can be moved forward."""

    stage: Stage
    env: WorkflowEnvironment

    async def wedding(self, plan: Plan) -> Staged:
        """Make a wedding as on the plain stage."""
        return await self.stage.wedding(plan)

    async def forward(self, wedding: Staged, duration: timedelta) -> None:
        """Let so much time go by for the wedding."""
        await self.env.fast_forward(self.env.client.get_workflow_handle(wedding.handle.id), duration)

    async def end(self, wedding: Staged) -> None:
        """Let time go by until the wedding's workflow ends."""
        await self.env.fast_forward(self.env.client.get_workflow_handle(wedding.handle.id))

    async def until(
        self, wedding: Staged, tx: str, *statuses: str, step: timedelta = timedelta(minutes=1), most: int = 60
    ) -> Any:
        """Let time go by for a transaction in steps until its row has one of the statuses."""
        for _ in range(most):
            row = await wedding.transaction(tx)
            if row.status in statuses:
                return row
            with suppress(RPCError):
                await self.env.fast_forward(self.env.client.get_workflow_handle(wedding.handle.id), step)
        raise AssertionError(f"{tx} is {row.status}, not {statuses}")

    async def now(self, handle: WorkflowHandle[Any, Any]) -> datetime:
        """Return a workflow's own time."""
        return await self.env.get_current_time(handle)


@pytest.fixture(scope="module")
async def _skipping_stage(
    new_database: Callable[[], Any],
    temporal_env: WorkflowEnvironment,
    stage_sandbox: EmbeddedSandbox,
    puppet: Puppet,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[SkippingStage]:
    settings = stage_settings(new_database().app, stage_sandbox, tmp_path_factory.mktemp("skipping"), **FAST)
    async with open_puppet_stage(settings, temporal_env.client, stage_sandbox, puppet) as opened:
        yield SkippingStage(opened, temporal_env)


@pytest.fixture
def skipping(_skipping_stage: SkippingStage) -> Iterator[SkippingStage]:
    """Open the stage on a server that skips time."""
    with _skipping_stage.env.with_time_skipping_disabled():
        yield _skipping_stage


__all__ = ["SkippingStage", "_skipping_stage", "puppet", "skipping", "stage", "stage_sandbox"]
