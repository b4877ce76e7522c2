"""Going on with a step that waited: its vendor's event has come, or has not come in time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from wedsync.domain.failure import Failure
    from wedsync.domain.plans.plan import PlannedStep
    from wedsync.domain.vendors.call import Effect
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import LedgerEntry
    from wedsync.domain.weddings.task import StepTask
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.compensate import Compensator
    from workflows.saga.vendor_calls import DefiniteFailure, Stopped, UnresolvedOutcome, VendorCaller

if TYPE_CHECKING:
    from workflows.saga.execute import StepExecutor


class AnswerTaker:
    """Takes in what a vendor said, or that it said nothing."""

    def __init__(
        self, executor: StepExecutor, state: TransactionState, caller: VendorCaller, undo: Compensator
    ) -> None:
        self._executor = executor
        self._state = state
        self._caller = caller
        self._undo = undo

    async def take_answer(self, task: StepTask) -> None:
        """Go on with what the vendor's event says. Raises Paused."""
        if task.is_resumed:
            await self._go_on(task)
            return
        state, step = self._state, task.step
        entry = state.put(task.in_effect())
        if task.event_type == state.states[step.id].waits_for:
            state.put(entry.with_facts(task.event_facts))
            await self._go_on(task)
            return
        if entry.binding.spec.manual:
            state.put(entry.refused_by_hand())
        if step.done_when == "delivered":
            # Not every vendor can be asked what became of a message.
            failure = Failure(code="vendor_rejected", reason=task.event_type, detail="not delivered")
            await self._elsewhere(task, failure)
            return
        await self._inspect_again(task, refused=True)

    async def take_silence(self, task: StepTask) -> None:
        """Ask: the vendor's event has not come in time, or a person wants to know. Raises Paused."""
        if task.is_resumed:
            await self._go_on(task)
            return
        self._state.put(task.in_effect())
        await self._inspect_again(task, refused=False)

    async def _inspect_again(self, task: StepTask, *, refused: bool) -> None:
        step, entry = task.step, self._state.entries[task.step.id]
        failure = Failure(code="vendor_rejected", detail="the vendor declined", reason=task.event_type or "no_answer")
        if entry.binding.spec.operations:
            try:
                effect = await self._inspect(step, entry)
                if effect.state == "done":
                    await self._go_on(task)
                    return
                if effect.state == "waiting" and not refused:
                    if task.is_retry:
                        self._wait_once_more(step, entry)
                        return
                    failure = Failure(code="no_answer", detail="the vendor has not answered in time")
            except DefiniteFailure as said_no:
                failure = said_no.failure
            except UnresolvedOutcome as lost:
                self._executor.give_up(step, lost.failure, unknown=True)
                return
        await self._elsewhere(task, failure)

    def _wait_once_more(self, step: PlannedStep, entry: LedgerEntry) -> None:
        deadline_at = workflow.now() + timedelta(seconds=step.timeout_seconds)
        self._executor.wait_for_the_vendor(step, entry.last_operation(), deadline_at)

    async def _inspect(self, step: PlannedStep, entry: LedgerEntry) -> Effect:
        operation = entry.last_operation()
        tries = 0
        while True:
            tries += 1
            try:
                return await self._caller.inspect(step.id, operation)
            except ActivityError as error:
                failure = read_failure(error)
                if failure.code == "vendor_rejected":
                    raise DefiniteFailure(failure) from error
                if tries >= saga.ATTEMPTS_WITH_FALLBACK:
                    raise UnresolvedOutcome(failure) from error
                await workflow.sleep(saga.delay_seconds(tries, 0), summary=f"{step.id}: before the next look")

    async def _go_on(self, task: StepTask) -> None:
        state, step = self._state, task.step
        give_up_at = task.give_up_at or workflow.now() + timedelta(seconds=step.timeout_seconds)
        state.put_step(state.step(step.id).running_again())
        state.tasks[step.id] = task.going_on(give_up_at)
        try:
            await self._executor.operations(step, give_up_at, fallback_ready=False)
        except DefiniteFailure as refused:
            await self._elsewhere(task, refused.failure)
        except UnresolvedOutcome as lost:
            self._executor.give_up(step, lost.failure, unknown=True)
        except Stopped:
            return

    async def _elsewhere(self, task: StepTask, failure: Failure) -> None:
        """The vendor failed for certain: it lets go, and the next vendor is tried where there is one.

        While it may still hold the effect nobody else is asked.
        """
        state, step = self._state, task.step
        here = state.entries[step.id].binding.vendor
        if step.done_when == "delivered":
            # A message that did not arrive leaves nothing that could be let go.
            state.put(state.entries[step.id].in_state("undone"))
        if not await self._undo.let_go(step.id):
            state.rechecks[:] = [recheck for recheck in state.rechecks if recheck.entry.step_id != step.id]
            self._executor.give_up(step, failure, unknown=True)
            return
        left = step.vendors[step.vendors.index(here) + 1 :] if here in step.vendors else ()
        if left and not state.stopping:
            number = state.states[step.id].round + 1
            await self._executor.do(StepTask(kind="do", step=step, vendors=left, round=number))
            return
        self._executor.give_up(step, failure, unknown=False)
