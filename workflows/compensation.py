"""The undo: in reverse order of dependency, independent ones side by side, each done, found needless, or parked."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import Failure, read_failure
    from wedsync.domain.routing.vendor import Effect, OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import CompensationResult, LedgerEntry, Recheck
    from wedsync.domain.weddings.messages import CompensationStatus
    from workflows.board import Board
    from workflows.calls import UNDO, Attempt, Caller, Lost, Refused
    from workflows.progress import Progress

#: How long a vendor that was left for another is asked to let go before that is put on the agenda.
LEFTOVER_SECONDS = 10.0


class Rollback:
    """Undoes effects of one transaction."""

    def __init__(self, board: Board, caller: Caller, progress: Progress) -> None:
        self._board = board
        self._caller = caller
        self._progress = progress
        self._over: set[str] = set()
        self._to_do = 0

    def begin(self) -> list[LedgerEntry]:
        """Every effect on the board that may have to be undone, noted as such."""
        entries = self._board.undoable()
        # What was undone on the way to another vendor is another story.
        self._board.undo_tries.clear()
        for entry in entries:
            self._note(entry.step_id, CompensationResult(status="pending"))
        return entries

    async def run(self, entries: list[LedgerEntry]) -> None:
        """Undo every one of them: none before what depends on it is undone or parked."""
        self._to_do = len(entries)
        waits_for = saga.dependents([entry.step_id for entry in entries], self._board.needs())
        await asyncio.gather(*(self._in_turn(entry.step_id, waits_for[entry.step_id]) for entry in entries))

    async def _in_turn(self, step_id: str, dependents: frozenset[str]) -> None:
        await workflow.wait_condition(lambda: dependents <= self._over)
        try:
            step = self._board.steps[step_id]
            deadline = workflow.now() + timedelta(seconds=step.compensation_deadline_seconds)
            before = self._board.before_change.get(step_id)
            if before is not None:
                result = await self._change_back(step_id, before, deadline)
            else:
                result = await self.undo(step_id, deadline)
            self._note(step_id, result)
        finally:
            self._over.add(step_id)
        if len(self._over) < self._to_do:
            await self._progress.show([step_id], f"{step_id}: show its undo as {result.status}")

    def _note(self, step_id: str, result: CompensationResult) -> None:
        self._board.compensation(step_id, result)

    async def undo(self, step_id: str, deadline: datetime) -> CompensationResult:
        """Undo one effect and say how that went; the entry's state is set accordingly."""
        board = self._board
        entry = board.entries[step_id]
        plan, why = saga.undo_plan(entry, board.steps[step_id])
        if plan == "nothing":
            self._set(step_id, "undone")
            return CompensationResult(status="nothing_to_undo", detail=why)
        if plan == "leave":
            return CompensationResult(status="nothing_to_undo", detail=why)
        if plan in ("hand", "ask"):
            link = f": {entry.binding.hand_link}" if entry.binding.hand_link else ""
            return self._park(step_id, f"{why}{link}")
        if plan in ("find_first", "replay_first"):
            found = await self._resolve(step_id, plan, deadline)
            if found is not None:
                return found
        return await self._undone(step_id, deadline, counter=plan == "counter")

    async def _undone(self, step_id: str, deadline: datetime, *, counter: bool) -> CompensationResult:
        """Undo until that is final: what got lost may take effect after an undo that found nothing."""
        entry = self._board.entries[step_id]
        if not counter and workflow.patched("asks-when-changed") and await self._changed_elsewhere(step_id, deadline):
            self._board.entries[step_id] = entry.model_copy(update={"content": None})
            link = str(entry.facts.get("link") or "")
            return self._park(step_id, saga.changed_elsewhere(entry.binding.vendor, link))
        while True:
            result = await self._call_undo(step_id, deadline, counter=counter)
            if counter or saga.undo_is_final(entry, result.status):
                return result
            if await self._absence_counts(step_id):
                self._look_later(entry)
                return result

    async def _changed_elsewhere(self, step_id: str, deadline: datetime) -> bool:
        """Whether somebody has changed at the vendor what we wrote there."""
        entry = self._board.entries[step_id]
        # The ledgers of older weddings name changes that could not be put back among what was done, too.
        made = [operation for operation in entry.binding.spec.operations if operation.name in entry.done]
        if entry.content is None or not made:
            return False
        for looks in itertools.count(1):
            try:
                found = await self._caller.look(step_id, made[-1])
            except ActivityError as error:
                if not await self._may_look_again(step_id, looks, read_failure(error), deadline):
                    break
                continue
            return found.state == "done" and found.content not in (None, entry.content)
        return False

    async def _may_look_again(self, step_id: str, looks: int, failure: Failure, deadline: datetime) -> bool:
        """Wait for the next look; False when there is none: it would be answered alike, or comes too late."""
        left = (deadline - workflow.now()).total_seconds()
        if failure.definite or left <= 0 or not options.has_room():
            return False
        wait = failure.retry_after_seconds or saga.delay_seconds(looks, workflow.random().random())
        await workflow.sleep(min(wait, left), summary=f"{step_id}: before the next look")
        return True

    async def _call_undo(self, step_id: str, deadline: datetime, *, counter: bool) -> CompensationResult:
        """Run the undo's operations until the deadline."""
        board = self._board
        self._note_running(step_id)
        entry = board.entries[step_id]
        operations = entry.binding.spec.undo_operations
        details: list[str] = []
        is_undone = is_open = False
        for operation in operations:
            attempt = Attempt(
                operation=operation,
                give_up_at=deadline,
                is_undo=True,
                purpose=UNDO,
                inputs={**entry.binding.inputs, "text": entry.binding.counter_text} if counter else None,
            )
            try:
                effect = await self._caller.perform(step_id, attempt)
            except (Refused, Lost) as error:
                if isinstance(error, Refused) and error.failure.code == "vendor_rejected":
                    self._ask_anew_next_time(step_id, operation)
                return self._park(step_id, error.failure.detail)
            is_undone = is_undone or effect.state != "absent"
            is_open = is_open or effect.state == "waiting"
            if effect.detail:
                details.append(effect.detail)
        self._set(step_id, "undone")
        if is_open:
            self._look_later(entry)
        status: CompensationStatus = "undone" if is_undone else "nothing_to_undo"
        return self._result(step_id, status, "; ".join(details))

    async def _resolve(self, step_id: str, plan: str, deadline: datetime) -> CompensationResult | None:
        """Find out what an unknown outcome was. None: there is an effect, now known by its id, to undo."""
        operation = self._lost_operation(step_id)
        looks = 0
        while True:
            looks += 1
            try:
                effect = await self._ask_about(step_id, operation, plan)
            except Refused as refused:
                if self._go_on_without(step_id):
                    return None
                self._set(step_id, "undone")
                return self._result(step_id, "nothing_to_undo", refused.failure.detail)
            except Lost as lost:
                if not await self._may_look_again(step_id, looks, lost.failure, deadline):
                    return self._park(step_id, lost.failure.detail)
                continue
            if effect is not None:
                self._found(step_id, operation, effect)
                return None
            if not await self._absence_counts(step_id):
                continue
            self._look_later(self._board.entries[step_id])
            if self._go_on_without(step_id):
                return None
            self._set(step_id, "undone")
            detail = "not found at the vendor; looked at again in 1 h and 24 h"
            return self._result(step_id, "nothing_to_undo", detail)

    def _go_on_without(self, step_id: str) -> bool:
        """What got lost did not happen; True when earlier operations did, and are to be undone."""
        entry = self._board.entries[step_id]
        if entry.done:
            self._board.put(entry.model_copy(update={"unknown_operation": None}))
        return bool(entry.done)

    async def _ask_about(self, step_id: str, operation: OperationSpec, plan: str) -> Effect | None:
        """One look (or one replay, which a vendor's idempotency key makes a look). Raises Refused, Lost."""
        try:
            if plan == "find_first":
                return await self._caller.find(step_id, operation)
            attempt = Attempt(operation=operation, give_up_at=workflow.now(), is_undo=True)
            return await self._caller.perform(step_id, attempt)
        except ActivityError as error:
            raise Lost(read_failure(error)) from error
        except Refused as refused:
            # Only the vendor's own no is an answer: one that is down, or wants another key, has said nothing.
            if refused.failure.code == "vendor_rejected":
                raise
            raise Lost(refused.failure) from refused

    async def _absence_counts(self, step_id: str) -> bool:
        """True when "not found" is final by now; else waits until it can be."""
        entry = self._board.entries[step_id]
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        until = saga.settled_absent_at(entry.last_sent_at or workflow.now(), seconds)
        left = (until - workflow.now()).total_seconds()
        if left <= 0:
            return True
        await workflow.sleep(left, summary=f"{step_id}: until its absence counts")
        return False

    def _look_later(self, entry: LedgerEntry) -> None:
        """Nothing is there, or soon nothing will be; look again after an hour and a day all the same."""
        due = workflow.now() + saga.RECHECK_AFTER[0]
        self._board.rechecks.append(Recheck(entry=entry, due_at=due, look=1))

    def _lost_operation(self, step_id: str) -> OperationSpec:
        entry = self._board.entries[step_id]
        return next(o for o in entry.binding.spec.operations if o.name == entry.unknown_operation)

    def _found(self, step_id: str, operation: OperationSpec, effect: Effect) -> None:
        entry = self._board.entries[step_id]
        self._board.put(
            entry.model_copy(
                update={
                    "unknown_operation": None,
                    "done": (*entry.done, operation.name),
                    "external_id": effect.external_id or entry.external_id,
                    "facts": {**entry.facts, **effect.facts},
                    "etag": effect.etag or entry.etag,
                    "content": effect.content or entry.content,
                }
            )
        )

    async def _change_back(self, step_id: str, before: LedgerEntry, deadline: datetime) -> CompensationResult:
        """Put a changed effect back to what held before."""
        self._note_running(step_id)
        changed = self._board.entries[step_id]
        for operation in changed.binding.spec.change_operations:
            attempt = Attempt(
                operation=operation,
                give_up_at=deadline,
                is_undo=True,
                purpose=f"unchange-{self._board.given.transaction_id}",
                inputs=before.binding.inputs,
                previous_inputs=changed.binding.inputs,
            )
            try:
                effect = await self._caller.perform(step_id, attempt)
            except (Refused, Lost) as error:
                self._board.parked = True
                # Whether the vendor holds the new or the old is not known: there is nothing to compare its copy with.
                self._board.entries[step_id] = before.model_copy(update={"uncertain": True, "content": None})
                return self._result(step_id, "needs_attention", error.failure.detail)
            before = before.model_copy(update={"etag": effect.etag, "content": effect.content})
        self._board.entries[step_id] = before.model_copy(update={"uncertain": False})
        return self._result(step_id, "undone", "put back")

    async def let_go(self, step_id: str) -> bool:
        """Undo what a vendor holds of a step that goes to another one; what can't be undone now goes on the agenda.

        False: the vendor may hold it still.
        """
        entry = self._board.entries[step_id]
        if not saga.may_have_happened(entry):
            return True
        until = workflow.now() + timedelta(seconds=LEFTOVER_SECONDS)
        kept_parked = self._board.parked
        result = await self.undo(step_id, until)
        if result.status != "needs_attention":
            return True
        self._board.parked = kept_parked
        left = self._board.entries[step_id].model_copy(update={"state": "begun"})
        due = workflow.now() + saga.RECHECK_AFTER[0]
        self._board.rechecks.append(Recheck(entry=left, due_at=due, look=1))
        return False

    def _result(self, step_id: str, status: CompensationStatus, detail: str) -> CompensationResult:
        return CompensationResult(status=status, attempts=self._board.undo_tries.get(step_id, 0), detail=detail)

    def _park(self, step_id: str, why: str) -> CompensationResult:
        """Leave it to a person."""
        self._set(step_id, "parked")
        self._board.parked = True
        workflow.logger.warning("compensation.parked", extra={"step_id": step_id})
        return self._result(step_id, "needs_attention", why)

    def _ask_anew_next_time(self, step_id: str, operation: OperationSpec) -> None:
        entry = self._board.entries[step_id]
        rounds = {**entry.undo_rounds, operation.name: entry.undo_rounds.get(operation.name, 0) + 1}
        self._board.entries[step_id] = entry.model_copy(update={"undo_rounds": rounds})

    def _set(self, step_id: str, state: str) -> None:
        entry = self._board.entries[step_id]
        self._board.entries[step_id] = entry.model_copy(update={"state": state})

    def _note_running(self, step_id: str) -> None:
        if self._board.states[step_id].compensation is not None:
            self._note(step_id, self._result(step_id, "running", ""))
