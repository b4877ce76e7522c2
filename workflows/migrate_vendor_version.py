"""`MigrateVendorVersion`: move one vendor from one version of its API to another, or back."""

from __future__ import annotations

import contextlib
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

#: Continue as new after so many: about 2,000 history events.
WAKES_PER_RUN = 200
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
        #: Somebody changed the row since the last wake.
        self._is_woken = False

    @workflow.run
    async def run(self, start: MigrationStart) -> MigrationResult:
        """Wake and wait in turns, until the version is changed for good or everything is as it was."""
        wakes = start.wakes
        while True:
            self._is_woken = False
            result = await self._act()
            wakes += 1
            workflow.set_current_details(_details(result))
            if result.until is None:
                return MigrationResult(
                    outcome="done" if result.stage == "done" else "rolled_back",
                    reason=result.why,
                    migration_steps=result.steps,
                    testing_required=result.testing_required,
                )
            await self._wait(result)
            if wakes - start.wakes >= WAKES_PER_RUN:
                workflow.continue_as_new(start.model_copy(update={"wakes": wakes}))

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Note that somebody changed the row by hand."""
        self._is_woken = True

    async def _act(self) -> MigrationWakeResult:
        return await workflow.execute_activity_method(
            VersionActivities.migrate,
            MigrationWake(migration_id=self._start.migration_id, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            priority=Priority(priority_key=3),
            summary="what is due for the migration",
        )

    async def _wait(self, result: MigrationWakeResult) -> None:
        if result.until is None or self._is_woken:
            return
        wait = min(max(result.until - workflow.now(), timedelta(milliseconds=50)), options.LONGEST_TIMER)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._is_woken, timeout=wait, timeout_summary=result.why)


def _details(result: MigrationWakeResult) -> str:
    return f"**{result.stage}**: {result.why}" + "".join(f"\n- {step}" for step in result.steps)
