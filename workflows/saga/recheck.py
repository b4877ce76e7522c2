"""Looking once more at effects that were found absent, whose undo was not final, or that a vendor did not let go of."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.weddings.ledger import Recheck
    from wedsync.domain.weddings.step import CompensationResult
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.compensate import Compensator

#: A vendor that does not answer a recheck is asked at the next one.
_PATIENCE = timedelta(minutes=2)


class Rechecker:
    """Carries out a transaction's rechecks."""

    def __init__(self, state: TransactionState, undo: Compensator) -> None:
        self._state = state
        self._undo = undo

    async def run(self) -> None:
        """Recheck every effect, one after another."""
        for recheck in self._state.input.rechecks:
            await self._recheck(recheck)

    async def _recheck(self, recheck: Recheck) -> None:
        """Undo the effect once more, beside whatever the transaction did about the step's own effect."""
        state, step_id = self._state, recheck.entry.step_id
        own, was_parked, before = state.entries.get(step_id), state.parked, len(state.rechecks)
        compensation = state.states[step_id].compensation
        state.entries[step_id] = recheck.entry
        result = await self._undo.undo(step_id, workflow.now() + _PATIENCE, may_pause=False)
        is_open = len(state.rechecks) > before
        del state.rechecks[before:]
        if own is None:
            del state.entries[step_id]
        else:
            state.entries[step_id] = own
        state.parked = was_parked
        if state.states[step_id].compensation != compensation:
            state.put_step(state.step(step_id).compensated(compensation))
        self._note(recheck, result, compensation, is_open=is_open)

    def _note(
        self, recheck: Recheck, result: CompensationResult, before: CompensationResult | None, *, is_open: bool
    ) -> None:
        step_id = recheck.entry.step_id
        if result.status == "undone" and not is_open:
            self._compensation(step_id, result)
            return
        again = recheck.again(workflow.now())
        if again is not None:
            self._state.rechecks.append(again)
            return
        if result.status == "undone":
            result = result.must_be_undone()
        elif result.status == "nothing_to_undo" and before is not None and before.status == "undone":
            # By now there is nothing: what was undone then is so for good.
            return
        self._compensation(step_id, result)

    def _compensation(self, step_id: str, result: CompensationResult) -> None:
        """What the transaction did about the step's own effect is not written over, unless a person is needed."""
        if result.status == "needs_attention" or step_id not in self._state.entries:
            self._state.compensation(step_id, result)
