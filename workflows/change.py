"""Changing what stands: a step's effect is moved to what the plan says now, or stays as it was."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.errors import Failure
    from wedsync.domain.weddings.ledger import Binding, Deed, Field, LedgerEntry, StepError
    from wedsync.domain.weddings.plan import PlannedStep
    from workflows.binding import bind
    from workflows.board import Board
    from workflows.calls import Attempt, Caller, Lost, Refused, Stopped


class Change:
    """Carries out a transaction's changes."""

    def __init__(self, board: Board, caller: Caller) -> None:
        self._board = board
        self._caller = caller

    async def run(self, deed: Deed) -> None:
        """Move what stands to what the plan says now."""
        board, step = self._board, deed.step
        before = deed.standing()
        vendor = before.binding.vendor
        try:
            wanted = await bind(board, step, vendor, before.binding.round, 0)
        except Refused as refused:
            self._refuse(step, refused.failure)
            return
        if wanted.inputs == before.binding.inputs and not before.uncertain:
            return
        if not before.binding.spec.change_operations:
            detail = f"{vendor} can't change what it holds for this step"
            self._refuse(step, Failure(code="cannot_change", detail=detail))
            return
        board.before_change[step.id] = before
        await self._call(step, before, wanted)

    def _refuse(self, step: PlannedStep, failure: Failure) -> None:
        """What stands goes on standing as it was; all that was changed is put back."""
        error = StepError(code=failure.reason or failure.code, detail=failure.detail)
        self._board.update(step.id, error=error)
        self._board.stop(StepError(code=error.code, detail=f"{step.id}: {error.detail}"))

    async def _call(self, step: PlannedStep, before: LedgerEntry, wanted: Binding) -> None:
        board, tx = self._board, self._board.given.transaction_id
        fields = {**before.fields, "inputs": Field(value=None, set_by_tx=tx)}
        binding = before.binding.model_copy(update={"inputs": wanted.inputs})
        board.entries[step.id] = before.model_copy(update={"binding": binding, "fields": fields})
        give_up_at = workflow.now() + timedelta(seconds=step.timeout_seconds)
        try:
            for operation in before.binding.spec.change_operations:
                attempt = Attempt(
                    operation=operation,
                    give_up_at=give_up_at,
                    purpose=f"change-{tx}",
                    previous_inputs=before.binding.inputs,
                )
                await self._caller.perform(step.id, attempt)
        except (Refused, Lost) as error:
            self._refuse(step, error.failure)
            return
        except Stopped:
            return
        entry = board.entries[step.id]
        done = tuple(name for name in entry.done if name not in {o.name for o in before.binding.spec.change_operations})
        board.entries[step.id] = entry.model_copy(update={"done": done, "uncertain": False})
        settled = {"compensation": None} if before.uncertain else {}
        board.update(step.id, status="succeeded", error=None, **settled)
