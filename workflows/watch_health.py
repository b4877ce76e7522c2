"""`WatchHealth`: probe the vendors for the whole platform in a long activity, so that no probe makes history."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.health import RoutingActivities
    from wedsync.domain.health.messages import WATCH_HEALTH_WORKFLOW, WatchStart
    from wedsync.domain.task_queues import BULK

_HEARTBEAT = timedelta(seconds=20)
_MARGIN = timedelta(seconds=60)


@workflow.defn(name=WATCH_HEALTH_WORKFLOW)
class WatchHealth:
    """Lives for ever, a run per activity; a dead watcher is noticed by its heartbeat and another takes over."""

    @workflow.run
    async def run(self, start: WatchStart) -> None:
        """Watch once, then continue as new."""
        await workflow.execute_activity_method(
            RoutingActivities.watch_health,
            start,
            task_queue=BULK,
            start_to_close_timeout=timedelta(seconds=start.seconds) + _MARGIN,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            summary="probe the services when they are due",
        )
        workflow.continue_as_new(start)
