"""`RecoverVendor`: lead one failing vendor from trip to restore: cool down, probe, ramp, restore."""

from __future__ import annotations

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
    from workflows.reconcile_loop import ReconcileLoop, Rest

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
        self._loop: ReconcileLoop[RecoveryWakeResult] = ReconcileLoop()

    @workflow.run
    async def run(self, start: RecoveryStart) -> RecoveryResult:
        """Wake and wait in turns, until the vendor is restored or another epoch has begun."""
        result, wakes = await self._loop.run(
            self._act, _rest, lambda wakes: start.model_copy(update={"wakes": wakes}), wakes=start.wakes
        )
        return RecoveryResult(outcome="restored" if result.state == "closed" else "superseded", wakes=wakes)

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Note that somebody changed the row by hand."""
        self._loop.wake()

    async def _act(self) -> RecoveryWakeResult:
        start = self._start
        result: RecoveryWakeResult = await workflow.execute_activity_method(
            RoutingActivities.recover_vendor,
            RecoveryWake(service=start.service, endpoint=start.endpoint, epoch=start.epoch, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=options.RECORDS_RETRY,
            priority=Priority(priority_key=1),
            summary=f"what is due for {start.service}",
        )
        workflow.set_current_details(_details(start, result))
        return result


def _rest(result: RecoveryWakeResult) -> Rest | None:
    return None if result.until is None else Rest(result.until - workflow.now(), result.why)


def _details(start: RecoveryStart, result: RecoveryWakeResult) -> str:
    actions = "".join(f"\n- {action}" for action in result.actions)
    return f"**{start.service}** ({start.endpoint}) is {result.state}: {result.why}{actions}"
