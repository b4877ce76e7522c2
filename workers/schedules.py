"""Make the Schedules that have vendors' own lists of events read."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.inbox.messages import RECONCILE_SOURCE_WORKFLOW, ReconcileStart, reconcile_schedule_id
from wedsync.domain.task_queues import WORKFLOWS_BULK


async def ensure_reconciled(client: Client, source: str, every: timedelta | None) -> None:
    """Have the source's list read so often; None: not at all. A Schedule of another interval is changed.

    One that an operator paused stays paused. Raises RPCError.
    """
    if every is None:
        await _delete(client, source)
        return
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)])
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            RECONCILE_SOURCE_WORKFLOW,
            ReconcileStart(source=source),
            id=reconcile_schedule_id(source),
            task_queue=WORKFLOWS_BULK,
        ),
        spec=spec,
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(minutes=1)),
    )

    def updated(found: ScheduleUpdateInput) -> ScheduleUpdate | None:
        present = found.description.schedule
        if [interval.every for interval in present.spec.intervals] == [every]:
            return None
        present.spec = spec
        return ScheduleUpdate(schedule=present)

    try:
        await client.create_schedule(reconcile_schedule_id(source), schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(reconcile_schedule_id(source)).update(updated)


async def _delete(client: Client, source: str) -> None:
    try:
        await client.get_schedule_handle(reconcile_schedule_id(source)).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
