"""`RedispatchPending`: each minute, by a Schedule, dispatch again what was recorded and not dispatched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.dispatch import DispatchActivities
    from activities.inbox import WebhookActivities
    from activities.outbox import DeliveryActivities
    from wedsync.domain.task_queues import RECORDS
    from wedsync.domain.weddings.messages import REDISPATCH_PENDING_WORKFLOW

_FEW = RetryPolicy(maximum_attempts=3)


@workflow.defn(name=REDISPATCH_PENDING_WORKFLOW)
class RedispatchPending:
    """Repairs what a crash left between a commit and its dispatch; the next minute's sweep is the retry of this one."""

    def __init__(self) -> None:
        self._failed: list[ActivityError] = []

    @workflow.run
    async def run(self) -> None:
        """Sweep each kind of dispatch; one that can't be swept now keeps none of the others from it."""
        await self._sweep(DispatchActivities.redispatch_transactions, "transactions not handed over")
        await self._sweep(WebhookActivities.sweep_inbox, "events not drained")
        await self._sweep(DeliveryActivities.sweep, "deliveries not sent")
        if self._failed:
            raise self._failed[0]

    async def _sweep(self, kind: Callable[..., Awaitable[object]], summary: str) -> None:
        try:
            await workflow.execute_activity_method(
                kind,
                task_queue=RECORDS,
                start_to_close_timeout=timedelta(seconds=50),
                retry_policy=_FEW,
                summary=summary,
            )
        except ActivityError as error:
            self._failed.append(error)
