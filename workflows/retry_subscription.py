"""`RetrySubscription`: tend one failing endpoint with its parked deliveries, until it is well, paused, or disabled."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.outbox import DeliveryActivities
    from wedsync.domain.outbox.messages import (
        RETRY_SUBSCRIPTION_WORKFLOW,
        WAKE_SIGNAL,
        SubscriptionStart,
        SubscriptionWake,
        SubscriptionWakeResult,
    )
    from wedsync.domain.task_queues import RECORDS
    from workflows.reconcile_loop import ReconcileLoop, Rest

#: A wake sends for 8 s and waits for at most two more timeouts.
_START_TO_CLOSE = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))


@workflow.defn(name=RETRY_SUBSCRIPTION_WORKFLOW)
class RetrySubscription:
    """Started and signalled by dispatches (`endpoint:{endpoint}`); returns the endpoint's last status.

    The endpoint's row says what is due when; the timers are here.
    """

    @workflow.init
    def __init__(self, start: SubscriptionStart) -> None:
        self._subscription_id = start.subscription_id
        self._loop: ReconcileLoop[SubscriptionWakeResult] = ReconcileLoop()

    @workflow.run
    async def run(self, start: SubscriptionStart) -> str:
        """Wake, wait until something is due or a signal comes, wake again."""
        result, _ = await self._loop.run(self._act, self._rest, lambda _: start)
        return result.status

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Note that the endpoint or its deliveries changed."""
        self._loop.wake()

    async def _act(self) -> SubscriptionWakeResult:
        return await workflow.execute_activity_method(
            DeliveryActivities.retry_subscription,
            SubscriptionWake(subscription_id=self._subscription_id, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            retry_policy=_RETRY,
            priority=Priority(priority_key=3),
            summary="look at an endpoint",
        )

    def _rest(self, result: SubscriptionWakeResult) -> Rest | None:
        """Nothing is due and nobody has signalled meanwhile: the endpoint needs no workflow any more."""
        if result.wait_seconds is None and not self._loop.is_woken:
            return None
        return Rest(timedelta(seconds=result.wait_seconds or 0), f"{result.status}: until something is due")
