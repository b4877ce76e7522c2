"""`RetryWebhook`: try one failed inbound event again, by its source's policy, until it is processed or dead."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.inbox import WebhookActivities
    from wedsync.domain.inbox.messages import (
        RETRY_NOW_SIGNAL,
        RETRY_WEBHOOK_WORKFLOW,
        RetriedEvent,
        RetryEvent,
        RetryStart,
    )
    from wedsync.domain.task_queues import RECORDS

#: Infrastructure failures count as no try: for as long as it takes, the row waits.
_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


@workflow.defn(name=RETRY_WEBHOOK_WORKFLOW)
class RetryWebhook:
    """`webhook-in:{row}`; returns how it ended. The policy is read anew at each try, so a change of it counts."""

    @workflow.init
    def __init__(self, start: RetryStart) -> None:
        self._last = RetriedEvent(
            state="retrying", attempts=start.attempts, error=start.error, wait_seconds=start.wait_seconds
        )
        self._is_wanted_now = False

    @workflow.run
    async def run(self, start: RetryStart) -> RetriedEvent:
        """Wait, try, and so on until the event is processed, nobody's, or dead."""
        while self._last.wait_seconds is not None:
            await self._wait(self._last.wait_seconds)
            self._last = await workflow.execute_activity_method(
                WebhookActivities.retry_event,
                RetryEvent(row_id=start.row_id),
                task_queue=RECORDS,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=_RETRY,
                priority=Priority(priority_key=3),
                summary=f"try {start.event_type or 'the event'} again ({self._last.attempts} failed)",
            )
        return self._last

    @workflow.signal(name=RETRY_NOW_SIGNAL)
    def retry_now(self) -> None:
        """Try at once."""
        self._is_wanted_now = True

    @workflow.query(name="last")
    def last(self) -> RetriedEvent:
        """Return the result of the newest try."""
        return self._last

    async def _wait(self, seconds: float) -> None:
        workflow.set_current_details(f"{self._last.attempts} failed; the last: {self._last.error}")
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._is_wanted_now,
                timeout=timedelta(seconds=seconds),
                timeout_summary=f"before try {self._last.attempts + 1}",
            )
        self._is_wanted_now = False
