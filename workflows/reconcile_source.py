"""`ReconcileSource`: by a Schedule for each vendor whose events can be listed, fill what its webhooks left out."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.inbox import WebhookActivities
    from wedsync.domain.inbox.messages import RECONCILE_SOURCE_WORKFLOW, Reconciled, ReconcileStart
    from wedsync.domain.task_queues import BULK


@workflow.defn(name=RECONCILE_SOURCE_WORKFLOW)
class ReconcileSource:
    """Reads the list once; the next run, a while later, is the retry of one that failed."""

    @workflow.run
    async def run(self, start: ReconcileStart) -> Reconciled:
        """List, compare, fill, and have the drains dispatched."""
        return await workflow.execute_activity_method(
            WebhookActivities.reconcile,
            start,
            task_queue=BULK,
            start_to_close_timeout=timedelta(minutes=5),
            retry_policy=RetryPolicy(maximum_attempts=3, initial_interval=timedelta(seconds=10)),
            summary=f"compare {start.source}'s events with the inbox",
        )
