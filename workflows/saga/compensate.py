"""The undo: in reverse order of dependency, independent ones side by side, each done, found needless, or parked."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.vendors.manifest import OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import LedgerEntry, first_recheck
    from wedsync.domain.weddings.messages import CompensationStatus
    from wedsync.domain.weddings.step import CompensationResult
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.progress import Progress
    from workflows.saga.resolve import OutcomeResolver
    from workflows.saga.vendor_calls import DefiniteFailure, OperationRun, Paused, UnresolvedOutcome, VendorCaller

#: How long a vendor that was left for another is asked to let go before that is put on the agenda.
LEFTOVER_SECONDS = 10.0


class Compensator:
    """Undoes effects of one transaction."""

    def __init__(self, state: TransactionState, caller: VendorCaller, progress: Progress) -> None:
        self._state = state
        self._caller = caller
        self._progress = progress
        self._resolver = OutcomeResolver(state, caller, self)

    def begin(self) -> None:
        """Note every effect that may have to be undone, with when its undo is given up."""
        state, now = self._state, workflow.now()
        # What was undone on the way to another vendor is another story.
        state.undo_tries.clear()
        for entry in state.undoable():
            seconds = state.steps[entry.step_id].compensation_deadline_seconds
            state.undo_deadlines[entry.step_id] = now + timedelta(seconds=seconds)
            state.compensation(entry.step_id, CompensationResult(status="pending"))

    async def run(self) -> None:
        """Undo every one of them, none before what depends on it is undone or parked; ends early at a pause."""
        state = self._state
        waits_for = saga.dependents(list(state.undo_deadlines), state.needs())
        left = [step_id for step_id in state.undo_deadlines if step_id not in state.undo_over]
        turns = (self._in_turn(step_id, waits_for[step_id]) for step_id in left)
        for outcome in await asyncio.gather(*turns, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def is_done(self) -> bool:
        """Tell whether every undo is over."""
        return self._state.undo_over >= self._state.undo_deadlines.keys()

    async def _in_turn(self, step_id: str, dependents: frozenset[str]) -> None:
        state = self._state
        await workflow.wait_condition(lambda: state.pausing or dependents <= state.undo_over | state.undo_broken)
        if state.pausing:
            return
        try:
            before = state.before_change.get(step_id)
            if before is not None:
                result = await self._change_back(step_id, before)
            else:
                # Its time begins with its turn.
                state.undo_deadlines[step_id] = self._deadline(step_id)
                result = await self.undo(step_id, state.undo_deadlines[step_id])
        except Paused:
            return
        except BaseException:
            # The others need not wait for what is left to a person.
            state.undo_broken.add(step_id)
            raise
        state.compensation(step_id, result)
        state.undo_over.add(step_id)
        if len(state.undo_over) < len(state.undo_deadlines):
            await self._progress.show([step_id], f"{step_id}: show its undo as {result.status}")

    def _deadline(self, step_id: str) -> datetime:
        """When the undo is given up: counted from its first turn, over pauses."""
        state = self._state
        if step_id not in state.undo_turns:
            state.undo_turns[step_id] = workflow.now()
        return state.undo_turns[step_id] + timedelta(seconds=state.steps[step_id].compensation_deadline_seconds)

    async def undo(self, step_id: str, deadline: datetime, *, may_pause: bool = True) -> CompensationResult:
        """Undo one effect and say how that went; the entry's state is set accordingly. Raises Paused."""
        entry = self._state.entries[step_id]
        plan, why = saga.undo_plan(entry, self._state.steps[step_id])
        if plan == "nothing":
            self.set_state(step_id, "undone")
            return CompensationResult(status="nothing_to_undo", detail=why)
        if plan == "leave":
            return CompensationResult(status="nothing_to_undo", detail=why)
        if plan in ("hand", "ask"):
            link = f": {entry.binding.manual_link}" if entry.binding.manual_link else ""
            return self.park(step_id, f"{why}{link}")
        if plan in ("find_first", "replay_first"):
            found = await self._resolver.resolve(step_id, plan, deadline, may_pause=may_pause)
            if found is not None:
                return found
        return await self._undone(step_id, deadline, counter=plan == "counter", may_pause=may_pause)

    async def _undone(self, step_id: str, deadline: datetime, *, counter: bool, may_pause: bool) -> CompensationResult:
        """Undo until that is final: what got lost may take effect after an undo that found nothing."""
        entry = self._state.entries[step_id]
        if not counter and await self._resolver.is_changed_elsewhere(step_id, deadline, may_pause=may_pause):
            self._state.entries[step_id] = entry.not_compared()
            link = str(entry.facts.get("link") or "")
            return self.park(step_id, saga.changed_elsewhere(entry.binding.vendor, link))
        while True:
            result = await self._call_undo(step_id, deadline, counter=counter, may_pause=may_pause)
            if counter or saga.undo_is_final(entry, result.status):
                return result
            if await self._resolver.absence_counts(step_id, may_pause=may_pause):
                self._state.rechecks.append(first_recheck(entry, workflow.now()))
                return result

    async def _call_undo(
        self, step_id: str, deadline: datetime, *, counter: bool, may_pause: bool
    ) -> CompensationResult:
        """Run the undo's operations until the deadline."""
        self._note_running(step_id)
        entry = self._state.entries[step_id]
        details: list[str] = []
        is_undone = is_open = False
        for operation in entry.binding.spec.undo_operations:
            run = OperationRun(
                operation=operation,
                give_up_at=deadline,
                purpose="undo",
                inputs={**entry.binding.inputs, "text": entry.binding.counter_text} if counter else None,
                may_pause=may_pause,
            )
            try:
                effect = await self._caller.perform(step_id, run)
            except (DefiniteFailure, UnresolvedOutcome) as error:
                self._ask_anew_next_time(step_id, operation, error)
                return self.park(step_id, error.failure.detail)
            is_undone = is_undone or effect.state != "absent"
            is_open = is_open or effect.state == "waiting"
            if effect.detail:
                details.append(effect.detail)
        self.set_state(step_id, "undone")
        if is_open:
            self._state.rechecks.append(first_recheck(entry, workflow.now()))
        return self.outcome(step_id, "undone" if is_undone else "nothing_to_undo", "; ".join(details))

    async def _change_back(self, step_id: str, before: LedgerEntry) -> CompensationResult:
        """Put a changed effect back to what held before."""
        state = self._state
        self._note_running(step_id)
        changed = state.entries[step_id]
        for operation in changed.binding.spec.change_operations:
            run = OperationRun(
                operation=operation,
                give_up_at=self._deadline(step_id),
                purpose="change_back",
                inputs=before.binding.inputs,
                previous_inputs=changed.binding.inputs,
            )
            try:
                effect = await self._caller.perform(step_id, run)
            except (DefiniteFailure, UnresolvedOutcome) as error:
                state.parked = True
                state.entries[step_id] = before.in_doubt()
                return self.outcome(step_id, "needs_attention", error.failure.detail)
            before = before.put_back(effect)
        state.entries[step_id] = before.certain()
        return self.outcome(step_id, "undone", "put back")

    async def let_go(self, step_id: str) -> bool:
        """Undo what a vendor holds of a step that goes to another one; what can't be undone now goes on the agenda.

        False: the vendor may hold it still.
        """
        state = self._state
        if not saga.may_have_happened(state.entries[step_id]):
            return True
        until = workflow.now() + timedelta(seconds=LEFTOVER_SECONDS)
        was_parked = state.parked
        result = await self.undo(step_id, until, may_pause=False)
        if result.status != "needs_attention":
            return True
        state.parked = was_parked
        state.rechecks.append(first_recheck(state.entries[step_id].in_state("begun"), workflow.now()))
        return False

    # ---- notes

    def outcome(self, step_id: str, status: CompensationStatus, detail: str) -> CompensationResult:
        """Say how the undo stands, with how often it was tried."""
        return CompensationResult(status=status, attempts=self._state.undo_tries.get(step_id, 0), detail=detail)

    def park(self, step_id: str, why: str) -> CompensationResult:
        """Leave the undo to a person."""
        self.set_state(step_id, "parked")
        self._state.parked = True
        workflow.logger.warning("compensation.parked", extra={"step_id": step_id})
        return self.outcome(step_id, "needs_attention", why)

    def set_state(self, step_id: str, state: str) -> None:
        """Move the effect to another state."""
        self._state.entries[step_id] = self._state.entries[step_id].in_state(state)  # type: ignore[arg-type]

    def _ask_anew_next_time(self, step_id: str, operation: OperationSpec, error: Exception) -> None:
        if isinstance(error, DefiniteFailure) and error.failure.code == "vendor_rejected":
            self._state.entries[step_id] = self._state.entries[step_id].undo_refused(operation.name)

    def _note_running(self, step_id: str) -> None:
        if self._state.states[step_id].compensation is not None:
            self._state.compensation(step_id, self.outcome(step_id, "running", ""))
