"""`MigrateVendorVersion`: move one vendor from one version of its API to another, or back."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.versions import VersionActivities
    from wedsync.domain.routing.queues import RECORDS
    from wedsync.domain.routing.version_migration import (
        LOOK_SIGNAL,
        MIGRATE_VERSION_WORKFLOW,
        MigrationLook,
        MigrationNews,
        MigrationResult,
        MigrationStart,
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
        self._is_told = False

    @workflow.run
    async def run(self, start: MigrationStart) -> MigrationResult:
        """Wake and wait in turns, until the version is changed for good or everything is as it was."""
        wakes = start.wakes
        while True:
            self._is_told = False
            news = await self._look()
            wakes += 1
            workflow.set_current_details(_details(news))
            if news.until is None:
                return MigrationResult(
                    outcome="done" if news.stage == "done" else "rolled_back",
                    reason=news.why,
                    migration_steps=news.steps,
                    testing_required=news.testing_required,
                )
            await self._wait(news)
            if wakes - start.wakes >= WAKES_PER_RUN:
                workflow.continue_as_new(start.model_copy(update={"wakes": wakes}))

    @workflow.signal(name=LOOK_SIGNAL)
    def look(self) -> None:
        """Note that somebody changed the row by hand."""
        self._is_told = True

    async def _look(self) -> MigrationNews:
        return await workflow.execute_activity_method(
            VersionActivities.migrate,
            MigrationLook(migration_id=self._start.migration_id, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            priority=Priority(priority_key=3),
            summary="what is due for the migration",
        )

    async def _wait(self, news: MigrationNews) -> None:
        if news.until is None or self._is_told:
            return
        wait = min(max(news.until - workflow.now(), timedelta(milliseconds=50)), options.LONGEST_TIMER)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._is_told, timeout=wait, timeout_summary=news.why)


def _details(news: MigrationNews) -> str:
    return f"**{news.stage}**: {news.why}" + "".join(f"\n- {step}" for step in news.steps)
