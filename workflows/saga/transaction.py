"""One transaction of a wedding: forward as wide as its needs allow, back in reverse order, rechecks at the end."""

from __future__ import annotations

from collections.abc import Callable

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.weddings import WeddingHeader
    from wedsync.domain.failure import Failure
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.step import StepError
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.binder import Binder
    from workflows.saga.compensate import Compensator
    from workflows.saga.execute import StepExecutor
    from workflows.saga.progress import Progress
    from workflows.saga.recheck import Rechecker
    from workflows.saga.vendor_calls import VendorCaller


class Transaction:
    """One saga, driven by its wedding."""

    def __init__(
        self, state: TransactionState, binder: Binder, header: Callable[[], WeddingHeader], held_by: str
    ) -> None:
        self.state = state
        self._progress = Progress(state, header)
        caller = VendorCaller(state, self._progress, held_by)
        self._compensator = Compensator(state, caller, self._progress)
        self._executor = StepExecutor(state, caller, binder, self._compensator, self._progress)
        self._rechecker = Rechecker(state, self._compensator)

    async def run(self) -> bool:
        """Do what is due, and undo it if that must be. False: a long history interrupted it at a quiet point."""
        state = self.state
        if state.phase == "forward":
            await self._executor.run()
            if state.pausing and not self._executor.is_done():
                return False
            if state.stopping or state.input.rolls_back:
                await self._begin_rollback()
        if state.phase == "rollback":
            await self._compensator.run()
            if not self._compensator.is_done():
                return False
            self._end_rollback()
        await self._rechecker.run()
        return True

    def stop(self, reason: StepError, *, cancel: bool = False) -> None:
        """Start nothing new and undo what was done."""
        self.state.stop(reason, cancel=cancel)

    async def _begin_rollback(self) -> None:
        state = self.state
        state.phase = "rollback"
        for step in list(state.states.values()):
            if step.status in ("pending", "scheduled"):
                state.put_step(step.not_begun())
        self._compensator.begin()
        await self._progress.show(state.states, "show the rollback", is_rolling_back=True)

    def _end_rollback(self) -> None:
        state, now = self.state, workflow.now()
        kept = state.set_before()
        reason = state.stop_reason or StepError(code="undone", detail="undone")
        for step_id, step in list(state.states.items()):
            if step_id not in kept and step.status in ("running", "waiting", "held"):
                state.put_step(step.failed(step.error or reason, now))
        self._leave_to_a_person(kept)
        for lost in state.lost():
            state.compensation(lost.step_id, saga.undo_of_lost(lost))

    def _leave_to_a_person(self, kept: set[str]) -> None:
        """Hold the steps whose vendor has answered, and with which the rollback let nobody go on."""
        state = self.state
        answers = {task.step.id: task.state for task in state.input.tasks if task.kind == "answer"}
        for step_id in sorted(kept):
            step = state.states[step_id]
            # The answer was taken from the wedding: who has not been begun with would wait for it in vain.
            if step.status == "running" or (step.status == "waiting" and step == answers.get(step_id)):
                failure = Failure(code="undone", detail="what went on with it was undone: retry goes on with it again")
                state.held(step_id, failure, workflow.now(), unknown=True)
