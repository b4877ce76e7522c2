from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.workflow import NondeterminismError

from wedsync.domain.weddings.messages import WEDDING_WORKFLOW
from wedsync.domain.weddings.wedding_state import WeddingState
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import data_converter
from workers.main import SANDBOXED
from workflows.drain_inbox import DrainInbox
from workflows.drain_outbox import DrainOutbox
from workflows.migrate_vendor_version import MigrateVendorVersion
from workflows.reconcile_source import ReconcileSource
from workflows.recover_vendor import RecoverVendor
from workflows.retry_subscription import RetrySubscription
from workflows.retry_webhook import RetryWebhook
from workflows.watch_health import WatchHealth
from workflows.wedding import Wedding

FOLDER = Path(__file__).parent
RECORDED = sorted(FOLDER.glob("*.json"))
WORKFLOWS = (
    Wedding, RecoverVendor, WatchHealth, DrainOutbox, RetrySubscription, DrainInbox, RetryWebhook,
    MigrateVendorVersion, ReconcileSource,
)  # fmt: skip


def history(file: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(f"recorded-{file.stem}", file.read_text(encoding="utf-8"))


def replayer(*workflows: type, runner: WorkflowRunner = SANDBOXED) -> Replayer:
    return Replayer(workflows=list(workflows), workflow_runner=runner, data_converter=data_converter(Settings()))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_a_recorded_history_replays(file: Path) -> None:
    result = await replayer(*WORKFLOWS).replay_workflow(history(file))
    assert result.replay_failure is None


def test_every_kind_of_story_is_recorded() -> None:
    stories = {file.stem.partition("-")[0] for file in RECORDED}
    assert stories >= {
        "typical",
        "fallback",
        "rollback",
        "hold",
        "timeline",
        "closing",
        "guard",
        "health",
        "outbox",
        "endpoint",
        "migration",
        "inbox",
        "retry",
        "reconcile",
    }


@workflow.defn(name=WEDDING_WORKFLOW)
class Changed(Wedding):
    """A wedding that first waits a second: a change that recorded histories don't know."""

    @workflow.init
    def __init__(self, state: WeddingState) -> None:
        super().__init__(state)

    @workflow.run
    async def run(self, state: WeddingState) -> str:
        await workflow.sleep(timedelta(seconds=1))
        return await super().run(state)


async def test_the_replay_catches_a_workflow_that_does_something_else() -> None:
    changed = replayer(Changed, runner=UnsandboxedWorkflowRunner())
    with pytest.raises(NondeterminismError):
        await changed.replay_workflow(history(FOLDER / "rollback.json"))
