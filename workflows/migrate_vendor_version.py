"""`MigrateVendorVersion`: move one vendor from one version of its API to another, or back."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.versions import VersionActivities
    from wedsync.domain.task_queues import RECORDS
    from wedsync.domain.versions.migration import (
        MIGRATE_VERSION_WORKFLOW,
        WAKE_SIGNAL,
        MigrationResult,
        MigrationStart,
        MigrationWake,
        MigrationWakeResult,
    )
    from workflows.reconcile_loop import ReconcileLoop, Rest

#: A wake may read some objects twice by two versions, each within its own timeout.
_START_TO_CLOSE = timedelta(seconds=300)
_HEARTBEAT = timedelta(seconds=10)


@workflow.defn(name=MIGRATE_VERSION_WORKFLOW)
class MigrateVendorVersion:
    """`migration:{migration}`. The migration's row is the truth; this workflow has its timers and acts.

    A killed worker loses nothing: timers are durable, and each move is one transaction that is done once.
    """

    @workflow.init
    def __init__(self, start: MigrationStart) -> None:
        self._start = start
        self._loop: ReconcileLoop[MigrationWakeResult] = ReconcileLoop()

    @workflow.run
    async def run(self, start: MigrationStart) -> MigrationResult:
        """Wake and wait in turns, until the version is changed for good or everything is as it was."""
        result, _ = await self._loop.run(
            self._act, _rest, lambda wakes: start.model_copy(update={"wakes": wakes}), wakes=start.wakes
        )
        return MigrationResult(
            outcome="done" if result.stage == "done" else "rolled_back",
            reason=result.why,
            migration_steps=result.steps,
            testing_required=result.testing_required,
        )

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Note that somebody changed the row by hand."""
        self._loop.wake()

    async def _act(self) -> MigrationWakeResult:
        result: MigrationWakeResult = await workflow.execute_activity_method(
            VersionActivities.migrate,
            MigrationWake(migration_id=self._start.migration_id, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            priority=Priority(priority_key=3),
            summary="what is due for the migration",
        )
        workflow.set_current_details(_details(result))
        return result


def _rest(result: MigrationWakeResult) -> Rest | None:
    return None if result.until is None else Rest(result.until - workflow.now(), result.why)


def _details(result: MigrationWakeResult) -> str:
    return f"**{result.stage}**: {result.why}" + "".join(f"\n- {step}" for step in result.steps)
