"""Changing what stands: a step's effect is moved to what the plan says now, or stays as it was."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.failure import Failure
    from wedsync.domain.plans.plan import PlannedStep
    from wedsync.domain.weddings.ledger import LedgerEntry
    from wedsync.domain.weddings.step import StepError, step_error
    from wedsync.domain.weddings.task import StepTask
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.binder import Binder
    from workflows.saga.vendor_calls import DefiniteFailure, OperationRun, Stopped, UnresolvedOutcome, VendorCaller


class ChangeExecutor:
    """Carries out a transaction's changes."""

    def __init__(self, state: TransactionState, caller: VendorCaller, binder: Binder) -> None:
        self._state = state
        self._caller = caller
        self._binder = binder

    async def run(self, task: StepTask) -> None:
        """Move what stands to what the plan says now. Raises Paused."""
        before = task.in_effect()
        if task.is_resumed or await self._begin(task, before):
            await self._call(self._state.tasks[task.step.id], before)

    async def _begin(self, task: StepTask, before: LedgerEntry) -> bool:
        """Note the change in the ledger before the first call; False when there is none to make."""
        state, step, vendor = self._state, task.step, before.binding.vendor
        try:
            wanted = await self._binder.bind(step, vendor, before.binding.round)
        except DefiniteFailure as refused:
            self._refuse(step, refused.failure)
            return False
        if wanted.inputs == before.binding.inputs and not before.uncertain:
            return False
        if not before.binding.spec.change_operations:
            detail = f"{vendor} can't change what it holds for this step"
            self._refuse(step, Failure(code="cannot_change", detail=detail))
            return False
        state.before_change[step.id] = before
        state.entries[step.id] = before.changing_to(wanted.inputs, state.transaction_id)
        state.tasks[step.id] = task.going_on(workflow.now() + timedelta(seconds=step.timeout_seconds))
        return True

    def _refuse(self, step: PlannedStep, failure: Failure) -> None:
        """What stands goes on standing as it was; all that was changed is put back."""
        error = step_error(failure)
        self._state.put_step(self._state.step(step.id).refused(error))
        self._state.stop(StepError(code=error.code, detail=f"{step.id}: {error.detail}"))

    async def _call(self, task: StepTask, before: LedgerEntry) -> None:
        state, step_id = self._state, task.step.id
        try:
            for operation in before.binding.spec.change_operations:
                if task.is_resumed and operation.name in state.entries[step_id].done[len(before.done) :]:
                    continue
                run = OperationRun(
                    operation=operation,
                    give_up_at=task.give_up_at or workflow.now(),
                    purpose="change",
                    previous_inputs=before.binding.inputs,
                )
                await self._caller.perform(step_id, run)
        except (DefiniteFailure, UnresolvedOutcome) as error:
            self._refuse(task.step, error.failure)
            return
        except Stopped:
            return
        state.entries[step_id] = state.entries[step_id].changed()
        state.put_step(state.step(step_id).changed(was_uncertain=before.uncertain))
