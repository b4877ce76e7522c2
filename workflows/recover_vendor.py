"""`RecoverVendor`: lead one failing vendor from trip to restore: cool down, probe, ramp, restore."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.health import RoutingActivities
    from wedsync.domain.health.messages import (
        RECOVER_VENDOR_WORKFLOW,
        WAKE_SIGNAL,
        RecoveryResult,
        RecoveryStart,
        RecoveryWake,
        RecoveryWakeResult,
    )
    from wedsync.domain.task_queues import RECORDS

#: Continue as new after so many: about 2,000 history events.
WAKES_PER_RUN = 200
#: A wake may send some probes, each within its own timeout.
_START_TO_CLOSE = timedelta(seconds=300)
#: A worker that died in the middle is noticed so soon.
_HEARTBEAT = timedelta(seconds=10)


@workflow.defn(name=RECOVER_VENDOR_WORKFLOW)
class RecoverVendor:
    """`vendor:{service}:{epoch}`, one per trip. The circuit's row is the truth; this workflow has its timers and acts.

    A killed worker loses nothing: timers are durable, and each action is a compare-and-set that is done once.
    """

    @workflow.init
    def __init__(self, start: RecoveryStart) -> None:
        self._start = start
        #: Somebody changed the row since the last wake.
        self._is_woken = False

    @workflow.run
    async def run(self, start: RecoveryStart) -> RecoveryResult:
        """Wake and wait in turns, until the vendor is restored or another epoch has begun."""
        wakes = start.wakes
        while True:
            self._is_woken = False
            result = await self._act()
            wakes += 1
            workflow.set_current_details(_details(start, result))
            if result.until is None:
                return RecoveryResult(outcome="restored" if result.state == "closed" else "superseded", wakes=wakes)
            await self._wait(result)
            if wakes - start.wakes >= WAKES_PER_RUN:
                workflow.continue_as_new(start.model_copy(update={"wakes": wakes}))

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Note that somebody changed the row by hand."""
        self._is_woken = True

    async def _act(self) -> RecoveryWakeResult:
        start = self._start
        return await workflow.execute_activity_method(
            RoutingActivities.recover_vendor,
            RecoveryWake(service=start.service, endpoint=start.endpoint, epoch=start.epoch, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            priority=Priority(priority_key=1),
            summary=f"what is due for {start.service}",
        )

    async def _wait(self, result: RecoveryWakeResult) -> None:
        if result.until is None or self._is_woken:
            return
        wait = min(max(result.until - workflow.now(), timedelta(milliseconds=50)), options.LONGEST_TIMER)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._is_woken, timeout=wait, timeout_summary=result.why)


def _details(start: RecoveryStart, result: RecoveryWakeResult) -> str:
    actions = "".join(f"\n- {action}" for action in result.actions)
    return f"**{start.service}** ({start.endpoint}) is {result.state}: {result.why}{actions}"
