"""One operation of a step at its vendor: sent, retried on durable timers, and resolved when its outcome got lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from activities.vendors import CallOutcome, VendorActivities, VendorCall
    from wedsync.domain.failure import BUG, Failure
    from wedsync.domain.health.messages import CIRCUIT_OPEN
    from wedsync.domain.vendors.call import Call, Effect
    from wedsync.domain.vendors.manifest import OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import LedgerEntry
    from wedsync.domain.weddings.step import CompensationResult
    from wedsync.domain.weddings.transaction_state import CallProgress, TransactionState
    from workflows.saga.progress import Progress

#: Who waits so long for the next try is shown to wait.
_SHOWN_FROM_SECONDS = 1.5

Intent = Literal["send", "find_or_send", "find", "look"]
#: do: a step's own operation. undo: one of its undo. change: a move to new inputs. change_back: that move's undo.
#: replay: a repetition of a lost operation within an undo, to learn its outcome.
Purpose = Literal["do", "undo", "change", "change_back", "replay"]


class DefiniteFailure(Exception):
    """Known for certain not to have happened, and given up."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class UnresolvedOutcome(Exception):
    """May have happened: nobody may try elsewhere, and a person or a later look must say."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class Stopped(Exception):
    """The transaction stops: what may have happened stands in the ledger entry."""


class Paused(Exception):
    """The run's history is long: what was to happen next is carried into another run."""


@dataclass(frozen=True)
class OperationRun:
    """What one operation is allowed."""

    operation: OperationSpec
    give_up_at: datetime
    purpose: Purpose = "do"
    #: Another vendor stands ready.
    fallback_ready: bool = False
    #: The plan says what is done when nobody can be reached, so nobody is waited for here.
    gives_way: bool = False
    #: The last of the step's operations.
    last: bool = False
    #: In place of the bound inputs: a counter-message's text, a change's new times.
    inputs: dict[str, JsonValue] | None = None
    previous_inputs: dict[str, JsonValue] | None = None
    #: False: a bounded wait that is not interrupted by a pause.
    may_pause: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether it goes on although the transaction stops."""
        return self.purpose not in ("do", "change")


class VendorCaller:
    """Calls vendors for one transaction."""

    def __init__(self, state: TransactionState, progress: Progress, held_by: str) -> None:
        self._state = state
        self._progress = progress
        self._held_by = held_by

    async def perform(self, step_id: str, run: OperationRun) -> Effect:
        """Carry out one operation of the step whose ledger entry the transaction holds.

        Before each send the entry says what is under way, so that an undo knows. How far it has come outlives a pause.
        Raises DefiniteFailure, UnresolvedOutcome, Stopped, Paused.
        """
        key = f"{step_id}/{run.purpose}/{run.operation.name}"
        call = self._state.calls.setdefault(key, self._fresh(step_id, run))
        try:
            effect = await self._until_done(step_id, run, call)
        except Paused:
            raise
        except BaseException:
            self._state.calls.pop(key, None)
            raise
        self._state.calls.pop(key, None)
        return effect

    def _fresh(self, step_id: str, run: OperationRun) -> CallProgress:
        entry, now = self._state.entries[step_id], workflow.now()
        return CallProgress(
            lost=entry.unknown_operation == run.operation.name and not run.goes_on,
            sent_at=entry.last_sent_at or now,
            first_sent_at=entry.binding.bound_at if run.purpose in ("do", "replay") else now,
        )

    async def _until_done(self, step_id: str, run: OperationRun, call: CallProgress) -> Effect:
        while True:
            await self._wait_out(run, call)
            if self._state.stopping and not run.goes_on:
                raise Stopped
            call.tries += 1
            try:
                done = await self._try(step_id, run, call)
            except ActivityError as error:
                await self._after_failure(step_id, run, call, read_failure(error))
                continue
            if done.effect is not None:
                if not run.goes_on:
                    self._state.put(self._state.entries[step_id].with_effect(run.operation.name, done.effect))
                return done.effect
            await self._wait_for_absence(step_id, run, call)

    async def _try(self, step_id: str, run: OperationRun, call: CallProgress) -> CallOutcome:
        """Send it once, or look for what an earlier try has done."""
        state, operation = self._state, run.operation
        if call.lost:
            self._refuse_stale_replay(step_id, operation, call.first_sent_at)
        intent = self._intent(state.entries[step_id], run, call) if call.lost else "send"
        if intent != "find":
            call.sent_at = workflow.now()
        if not run.goes_on:
            if intent != "find" and not operation.read:
                state.put(state.entries[step_id].under_way(operation.name, workflow.now()))
            if call.tries > 1:
                state.put_step(state.step(step_id).tried_again())
        if run.purpose in ("undo", "change_back"):
            # An undo of several operations is one try, however many calls that takes.
            state.undo_tries[step_id] = max(state.undo_tries.get(step_id, 0) + (call.tries > 1), 1)
        return await self._execute(step_id, run, intent, lost=call.lost)

    def _refuse_stale_replay(self, step_id: str, operation: OperationSpec, first_at: datetime) -> None:
        """A key that the vendor has forgotten repeats nothing: it would do the deed a second time."""
        hours = self._state.entries[step_id].binding.idempotency_hours
        if saga.may_replay(operation, now=workflow.now(), first_sent_at=first_at, idempotency_hours=hours):
            return
        detail = f"{operation.name} got no answer, and the vendor keeps idempotency keys for {hours:g} h only"
        raise UnresolvedOutcome(Failure(code="outcome_unknown", reason="idempotency_expired", detail=detail))

    @staticmethod
    def _intent(entry: LedgerEntry, run: OperationRun, call: CallProgress) -> Intent:
        """How a call whose outcome got lost is asked again."""
        if run.operation.on_unknown != "find":
            return "send"
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        again = saga.may_resend(
            run.operation, now=workflow.now(), last_sent_at=call.sent_at, start_to_close_seconds=seconds
        )
        return "find_or_send" if again else "find"

    @staticmethod
    def _is_lost_after(failure: Failure, operation: OperationSpec, call: CallProgress) -> bool:
        """Whether the outcome is unknown after this failure. A refusal of the very call settles what came before it."""
        if operation.read:
            return False
        if failure.unknown or failure.code == BUG:
            return True
        if failure.code == "vendor_rejected" and (operation.on_unknown != "find" or not call.lost):
            return False
        return call.lost

    async def _after_failure(self, step_id: str, run: OperationRun, call: CallProgress, failure: Failure) -> None:
        """Note when the next try is due, or raise."""
        state, operation = self._state, run.operation
        call.lost = self._is_lost_after(failure, operation, call)
        call.tries -= failure.out_of_quota
        entry = state.entries[step_id]
        if not call.lost and not run.goes_on and entry.unknown_operation == operation.name:
            state.put(entry.not_under_way())
        if state.stopping and not run.goes_on:
            raise Stopped
        ends = UnresolvedOutcome if call.lost else DefiniteFailure
        if not (failure.passing or failure.unknown):
            raise ends(failure)
        if call.lost and operation.on_unknown == "unsafe" and state.steps[step_id].delivery != "may_repeat":
            raise UnresolvedOutcome(failure)
        blocked = call.lost and not operation.harmless
        ready = not blocked and (run.fallback_ready or (run.gives_way and not entry.done))
        wait = self._pause_seconds(run, call, failure, ready=ready, blocked=blocked)
        call.wait_until = workflow.now() + timedelta(seconds=wait)
        if wait >= _SHOWN_FROM_SECONDS and not failure.out_of_quota:
            await self._show_waiting(step_id, run, failure, wait)

    def _pause_seconds(
        self, run: OperationRun, call: CallProgress, failure: Failure, *, ready: bool, blocked: bool
    ) -> float:
        """How long to wait for the next try. Raises DefiniteFailure or UnresolvedOutcome when there is none."""
        now = workflow.now()
        left = max((run.give_up_at - now).total_seconds(), 0.0)
        ends = UnresolvedOutcome if blocked else DefiniteFailure
        if failure.out_of_quota:
            # Until calls are taken, or made, again: no try, no trouble; for more than a minute it may go elsewhere.
            seconds = failure.retry_after_seconds or 1.0
            if seconds > left or (ready and seconds > saga.LONGEST_QUOTA_WAIT_SECONDS):
                raise ends(failure)
            what = f"room among the calls to {failure.vendor}" if failure.at_capacity else f"{failure.vendor}'s quota"
            call.why = f"waits for {what} until {now + timedelta(seconds=seconds):%H:%M:%S} UTC"
            return seconds
        is_cut_off = failure.reason == CIRCUIT_OPEN
        if saga.may_give_up(
            call.tries, fallback_ready=ready, now=now, give_up_at=run.give_up_at, is_cut_off=is_cut_off
        ):
            raise ends(failure)
        call.why = f"{failure.vendor or 'vendor'}: {failure.code}"
        wait = failure.retry_after_seconds or saga.delay_seconds(call.tries, workflow.random().random())
        return min(wait, left)

    async def _show_waiting(self, step_id: str, run: OperationRun, failure: Failure, seconds: float) -> None:
        """Let watchers know how often it was tried; an undo says when it is tried again, too."""
        state = self._state
        if run.purpose in ("undo", "change_back") and state.states[step_id].compensation is not None:
            until = workflow.now() + timedelta(seconds=seconds)
            detail = f"{failure.vendor or 'vendor'}: {failure.code}; tried again at {until:%Y-%m-%d %H:%M:%S} UTC"
            state.compensation(
                step_id, CompensationResult(status="running", attempts=state.undo_tries[step_id], detail=detail)
            )
        elif run.goes_on:
            return
        await self._progress.show([step_id], f"{step_id}: show that it is tried again")

    async def _wait_for_absence(self, step_id: str, run: OperationRun, call: CallProgress) -> None:
        """Nothing was found, too early to count: wait until it does."""
        seconds = options.start_to_close_seconds(self._state.entries[step_id].binding.timeout_seconds)
        call.wait_until = saga.settled_absent_at(call.sent_at, seconds)
        call.why = "until its absence counts"
        if not run.goes_on:
            await self._progress.show([step_id], f"{step_id}: show that its outcome is looked for")

    async def _wait_out(self, run: OperationRun, call: CallProgress) -> None:
        """Wait for the next try; a stop ends the wait of what does not go on, a pause that of everything."""
        if call.wait_until is not None:
            await self._wait_until(run, call.wait_until, call.why)
        if run.may_pause:
            self._state.pausing = self._state.pausing or options.is_long()
            if self._state.pausing:
                raise Paused
        call.wait_until = None

    async def _wait_until(self, run: OperationRun, until: datetime, why: str) -> None:
        state = self._state

        def is_cut_short() -> bool:
            return (state.stopping and not run.goes_on) or (state.pausing and run.may_pause)

        await options.wait_until(until, is_cut_short, why)

    async def find(self, step_id: str, operation: OperationSpec) -> Effect | None:
        """Look once whether `operation` of the step took effect. Raises ActivityError."""
        run = OperationRun(operation=operation, give_up_at=workflow.now(), purpose="replay")
        return (await self._execute(step_id, run, "find")).effect

    async def inspect(self, step_id: str, operation: OperationSpec) -> Effect:
        """Read the present state of what the step did. Raises ActivityError."""
        run = OperationRun(operation=operation, give_up_at=workflow.now(), purpose="replay")
        done = await self._execute(step_id, run, "look")
        return done.effect or Effect(state="absent")

    async def _execute(self, step_id: str, run: OperationRun, intent: Intent, *, lost: bool = False) -> CallOutcome:
        given, entry = self._state.input, self._state.entries[step_id]
        shows = run.purpose == "do"
        wanted = VendorCall(
            call=self._call(step_id, run),
            intent=intent,
            state=self._state.step(step_id) if shows else None,
            last=run.last,
            version=self._progress.next_version() if shows else 0,
            now=workflow.now(),
            # Only who has begun nothing here may be sent to another vendor while this one is eased back in.
            can_go_elsewhere=run.fallback_ready and not lost and not entry.done,
            is_wedding_day=given.mode == "wedding_day",
            remembers=run.operation.read and run.last and not run.goes_on,
            # A run that did not claim the transaction may repeat what another one sent: it asks first.
            held_by="" if lost or run.operation.read or run.purpose == "replay" else self._held_by,
        )
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        return await workflow.execute_activity_method(
            VendorActivities.call,
            wanted,
            task_queue=options.vendor_queue(given.mode),
            start_to_close_timeout=timedelta(seconds=seconds),
            retry_policy=options.ONCE,
            priority=options.priority(given.mode, given.organization_id),
            cancellation_type=workflow.ActivityCancellationType.ABANDON,
            summary=_summary(step_id, entry, run, intent),
        )

    def _keyed(self, entry: LedgerEntry, run: OperationRun) -> str:
        """The operation's name within the idempotency key: undo and change have keys of their own."""
        name, tx = run.operation.name, self._state.transaction_id
        match run.purpose:
            case "undo":
                # A key replays a refusal, too, long after what was wrong has been put right.
                return f"undo{entry.undo_rounds.get(name, 0) or ''}.{name}"
            case "change":
                return f"change-{tx}.{name}"
            case "change_back":
                return f"unchange-{tx}.{name}"
            case _:
                return name

    def _call(self, step_id: str, run: OperationRun) -> Call:
        given, entry = self._state.input, self._state.entries[step_id]
        binding = entry.binding
        return Call(
            organization_id=given.organization_id,
            wedding_id=given.wedding_id,
            transaction_id=binding.transaction_id,
            step_id=step_id,
            vendor=binding.vendor,
            account=binding.account,
            action=self._state.steps[step_id].action,
            operation=run.operation.name,
            idempotency_key=saga.idempotency_key(
                given.wedding_id,
                binding.transaction_id,
                step_id,
                self._keyed(entry, run),
                binding.vendor,
                binding.round,
            ),
            reference=binding.reference,
            inputs=binding.inputs if run.inputs is None else run.inputs,
            facts={**entry.facts, **({"external_id": entry.external_id} if entry.external_id else {})},
            previous_inputs=run.previous_inputs or {},
            endpoints=binding.endpoints,
            first_sent_at=binding.bound_at,
            locale=given.locale,
        )


def _summary(step_id: str, entry: LedgerEntry, run: OperationRun, intent: Intent) -> str:
    what = {"find": "look for", "look": "look at", "find_or_send": "look for, else"}.get(intent, "")
    undo = "undo: " if run.goes_on and intent == "send" else ""
    return f"{undo}{step_id}: {what} {run.operation.name} at {entry.binding.vendor}".replace("  ", " ")
