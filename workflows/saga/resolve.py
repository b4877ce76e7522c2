"""Finding out, before an undo, what a vendor holds: what an unknown outcome was, and what others changed."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from wedsync.domain.failure import Failure
    from wedsync.domain.vendors.call import Effect
    from wedsync.domain.vendors.manifest import OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import first_recheck
    from wedsync.domain.weddings.step import CompensationResult
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.vendor_calls import DefiniteFailure, OperationRun, Paused, UnresolvedOutcome, VendorCaller

if TYPE_CHECKING:
    from workflows.saga.compensate import Compensator


class OutcomeResolver:
    """Asks vendors about effects that are to be undone."""

    def __init__(self, state: TransactionState, caller: VendorCaller, undo: Compensator) -> None:
        self._state = state
        self._caller = caller
        self._undo = undo

    async def resolve(
        self, step_id: str, plan: str, deadline: datetime, *, may_pause: bool
    ) -> CompensationResult | None:
        """Find out what an unknown outcome was. None: there is an effect, now known by its id, to undo."""
        state = self._state
        operation = state.entries[step_id].lost_operation()
        if operation is None:
            return None
        for looks in itertools.count(1):
            try:
                effect = await self._ask_about(step_id, operation, plan)
            except DefiniteFailure as refused:
                if self._go_on_without(step_id):
                    return None
                self._undo.set_state(step_id, "undone")
                return self._undo.outcome(step_id, "nothing_to_undo", refused.failure.detail)
            except UnresolvedOutcome as lost:
                if not await self._may_look_again(step_id, looks, lost.failure, deadline, may_pause=may_pause):
                    return self._undo.park(step_id, lost.failure.detail)
                continue
            if effect is not None:
                state.put(state.entries[step_id].with_effect(operation.name, effect))
                return None
            if await self.absence_counts(step_id, may_pause=may_pause):
                break
        state.rechecks.append(first_recheck(state.entries[step_id], workflow.now()))
        if self._go_on_without(step_id):
            return None
        self._undo.set_state(step_id, "undone")
        detail = "not found at the vendor; looked at again in 1 h and 24 h"
        return self._undo.outcome(step_id, "nothing_to_undo", detail)

    def _go_on_without(self, step_id: str) -> bool:
        """What got lost did not happen; True when earlier operations did, and are to be undone."""
        entry = self._state.entries[step_id]
        if entry.done:
            self._state.put(entry.not_under_way())
        return bool(entry.done)

    async def _ask_about(self, step_id: str, operation: OperationSpec, plan: str) -> Effect | None:
        """One look (or one replay, which a vendor's idempotency key makes a look).

        Raises DefiniteFailure, UnresolvedOutcome.
        """
        try:
            if plan == "find_first":
                return await self._caller.find(step_id, operation)
            run = OperationRun(operation=operation, give_up_at=workflow.now(), purpose="replay", may_pause=False)
            return await self._caller.perform(step_id, run)
        except ActivityError as error:
            raise UnresolvedOutcome(read_failure(error)) from error
        except DefiniteFailure as refused:
            # Only the vendor's own no is an answer: one that is down, or wants another key, has said nothing.
            if refused.failure.code == "vendor_rejected":
                raise
            raise UnresolvedOutcome(refused.failure) from refused

    async def absence_counts(self, step_id: str, *, may_pause: bool) -> bool:
        """Tell whether "not found" is final by now; False after a wait until it can be. Raises Paused."""
        entry = self._state.entries[step_id]
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        until = saga.settled_absent_at(entry.last_sent_at or workflow.now(), seconds)
        if until <= workflow.now():
            return True
        await self._sleep_until(until, f"{step_id}: until its absence counts", may_pause=may_pause)
        return False

    async def is_changed_elsewhere(self, step_id: str, deadline: datetime, *, may_pause: bool) -> bool:
        """Tell whether somebody has changed at the vendor what we wrote there. Raises Paused."""
        entry = self._state.entries[step_id]
        # Changes that could not be put back are named among what was done, too.
        made = [operation for operation in entry.binding.spec.operations if operation.name in entry.done]
        if entry.content is None or not made:
            return False
        for looks in itertools.count(1):
            try:
                found = await self._caller.inspect(step_id, made[-1])
            except ActivityError as error:
                failure = read_failure(error)
                if not await self._may_look_again(step_id, looks, failure, deadline, may_pause=may_pause):
                    break
                continue
            return found.state == "done" and found.content not in (None, entry.content)
        return False

    async def _may_look_again(
        self, step_id: str, looks: int, failure: Failure, deadline: datetime, *, may_pause: bool
    ) -> bool:
        """Wait for the next look; False when there is none: it would be answered alike, or comes too late."""
        left = (deadline - workflow.now()).total_seconds()
        if failure.definite or left <= 0:
            return False
        wait = failure.retry_after_seconds or saga.delay_seconds(looks, workflow.random().random())
        until = workflow.now() + timedelta(seconds=min(wait, left))
        await self._sleep_until(until, f"{step_id}: before the next look", may_pause=may_pause)
        return True

    async def _sleep_until(self, until: datetime, why: str, *, may_pause: bool) -> None:
        state = self._state
        if may_pause:
            state.pausing = state.pausing or options.is_long()
        await options.wait_until(until, lambda: may_pause and state.pausing, why)
        if may_pause and state.pausing:
            raise Paused
