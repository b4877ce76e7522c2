"""`SweepHandoffs`: each minute, by a Schedule: tell again what was recorded and not handed over."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.deliveries import DeliveryActivities
    from activities.handoffs import HandoffActivities
    from activities.webhooks import WebhookActivities
    from wedsync.domain.routing.queues import RECORDS
    from wedsync.domain.weddings.messages import SWEEP_HANDOFFS_WORKFLOW

_FEW = RetryPolicy(maximum_attempts=3)


@workflow.defn(name=SWEEP_HANDOFFS_WORKFLOW)
class SweepHandoffs:
    """What a crash between a commit and its tell left behind; the next minute's sweep is the retry of this one."""

    @workflow.run
    async def run(self) -> None:
        """Sweep each kind of hand-off."""
        await workflow.execute_activity_method(
            HandoffActivities.sweep_transactions,
            task_queue=RECORDS,
            start_to_close_timeout=timedelta(seconds=50),
            retry_policy=_FEW,
            summary="transactions not handed over",
        )
        await workflow.execute_activity_method(
            WebhookActivities.sweep_inbox,
            task_queue=RECORDS,
            start_to_close_timeout=timedelta(seconds=50),
            retry_policy=_FEW,
            summary="events not drained",
        )
        if workflow.patched("outbox"):
            await workflow.execute_activity_method(
                DeliveryActivities.sweep,
                task_queue=RECORDS,
                start_to_close_timeout=timedelta(seconds=50),
                retry_policy=_FEW,
                summary="deliveries not sent",
            )
