"""`DrainInbox`: process one lane of the inbox in batches and end when nothing is due."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.inbox import WebhookActivities
    from wedsync.domain.inbox.messages import DRAIN_SIGNAL, DrainBatch, DrainedBatch, DrainStart, DrainTotals
    from wedsync.domain.task_queues import RECORDS
    from wedsync.domain.weddings.messages import DRAIN_INBOX_WORKFLOW

#: Continue as new after so many: about 600 history events.
BATCHES_PER_RUN = 100
#: An idle drain waits for rows that are due again within so long, rather than end and be started anew.
LINGER = timedelta(seconds=15)
#: The most such waits in a row without a row; then the sweep takes over.
MAX_LINGERS = 8
_START_TO_CLOSE = timedelta(seconds=20)
#: Infrastructure failures: for ever, the rows wait.
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))


@workflow.defn(name=DRAIN_INBOX_WORKFLOW)
class DrainInbox:
    """Started and signalled by dispatches (`inbox:{lane}:{partition}`); returns how many rows ended in each state."""

    @workflow.init
    def __init__(self, start: DrainStart) -> None:
        self._lane = start.lane
        self._priority = Priority(priority_key=1 if start.lane == "critical" else 3)
        self._totals = start.totals
        #: Rows were recorded since the last batch.
        self._is_woken = False

    @workflow.run
    async def run(self, start: DrainStart) -> DrainTotals:
        """Drain until a batch finds nothing due and no signal has come since."""
        if not await self._work_off():
            workflow.continue_as_new(start.model_copy(update={"totals": self._totals}))
        return self._totals

    @workflow.signal(name=DRAIN_SIGNAL)
    def drain(self) -> None:
        """Note that rows were recorded."""
        self._is_woken = True

    async def _work_off(self) -> bool:
        """Drain batch by batch; False when this run has had its share."""
        lingers = 0
        for _ in range(BATCHES_PER_RUN):
            self._is_woken = False
            batch = await self._drain_batch()
            self._totals = self._totals.plus(batch.totals)
            if batch.claimed:
                lingers = 0
            elif not self._is_woken:
                if lingers == MAX_LINGERS or not await self._linger(batch):
                    return True
                lingers += 1
        return False

    async def _drain_batch(self) -> DrainedBatch:
        return await workflow.execute_activity_method(
            WebhookActivities.drain_batch,
            DrainBatch(lane=self._lane),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            retry_policy=_RETRY,
            priority=self._priority,
            summary=f"a batch of the {self._lane} lane",
        )

    async def _linger(self, batch: DrainedBatch) -> bool:
        """Wait until a row is due again or a signal comes; False when none is due soon."""
        if batch.next_due_seconds is None or batch.next_due_seconds > LINGER.total_seconds():
            return False
        wait = timedelta(seconds=max(0.5, batch.next_due_seconds))
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._is_woken, timeout=wait, timeout_summary="until a row is due again"
            )
        return True
