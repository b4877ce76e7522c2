"""`DrainOutbox`: send the outbox's first attempts and end when none is due."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.outbox import DeliveryActivities
    from wedsync.domain.outbox.messages import DRAIN_OUTBOX_SIGNAL, DRAIN_OUTBOX_WORKFLOW, OutboxStart, SentDeliveries
    from wedsync.domain.task_queues import RECORDS

#: Continue as new after so many runs of the sender.
RUNS = 100
#: The workflow waits for deliveries that a rate put off within so long; later ones are the sweep's.
LINGER = timedelta(seconds=15)
MAX_LINGERS = 8
#: A run claims for 10 s and then waits only for young requests and for its records.
_START_TO_CLOSE = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))


@workflow.defn(name=DRAIN_OUTBOX_WORKFLOW)
class DrainOutbox:
    """Started and signalled by dispatches (`outbox:{partition}`); returns how many deliveries were taken in hand."""

    @workflow.init
    def __init__(self, start: OutboxStart) -> None:
        self._sent = start.sent
        #: Deliveries were recorded since the last run.
        self._is_woken = False

    @workflow.run
    async def run(self, start: OutboxStart) -> int:
        """Send until a run finds nothing due and no signal has come since."""
        if not await self._work_off():
            workflow.continue_as_new(start.model_copy(update={"sent": self._sent}))
        return self._sent

    @workflow.signal(name=DRAIN_OUTBOX_SIGNAL)
    def drain(self) -> None:
        """Note that deliveries were recorded."""
        self._is_woken = True

    async def _work_off(self) -> bool:
        """Run the sender again and again; False when this workflow run has had its share."""
        lingers = 0
        for _ in range(RUNS):
            self._is_woken = False
            answer = await self._send_due()
            self._sent += answer.sent
            if answer.sent:
                lingers = 0
            if answer.next_due_seconds is not None:
                if lingers == MAX_LINGERS or answer.next_due_seconds > LINGER.total_seconds():
                    return not self._is_woken
                await self._linger(answer.next_due_seconds)
                lingers += 1
            elif not answer.sent and not self._is_woken:
                return True
        return False

    async def _send_due(self) -> SentDeliveries:
        return await workflow.execute_activity_method(
            DeliveryActivities.pump,
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            retry_policy=_RETRY,
            priority=Priority(priority_key=3),
            summary="first attempts of deliveries",
        )

    async def _linger(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._is_woken,
                timeout=timedelta(seconds=max(0.1, seconds)),
                timeout_summary="until an endpoint's rate has room",
            )
