"""One call of a step at its vendor: sent, retried on durable timers, and its outcome resolved when it got lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import BUG, Failure, read_failure
    from activities.vendors import CarriedOut, CarryOut, VendorActivities
    from wedsync.domain.routing.messages import CIRCUIT_OPEN
    from wedsync.domain.routing.vendor import Call, Effect, OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import CompensationResult, LedgerEntry
    from workflows.board import Board
    from workflows.progress import Progress


#: Who waits so long for the next try is shown to wait.
_SHOWN_FROM_SECONDS = 1.5
#: The purpose of an undo's calls.
UNDO = "undo"
Ask = Literal["send", "find_or_send", "find", "look"]


class Refused(Exception):
    """Known for certain not to have happened, and given up."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class Lost(Exception):
    """May have happened: nobody may try elsewhere, and a person or a later look must say."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class Stopped(Exception):
    """The transaction stops: what may have happened stands in the ledger entry."""


@dataclass(frozen=True)
class Attempt:
    """What one operation is allowed."""

    operation: OperationSpec
    give_up_at: datetime
    #: Another vendor stands ready.
    fallback_ready: bool = False
    #: The plan says what is done when nobody can be reached, so nobody is waited for here.
    gives_way: bool = False
    #: Part of an undo: goes on although the transaction stops.
    is_undo: bool = False
    #: In place of the bound inputs: a counter-message's text, a change's new times.
    inputs: dict[str, JsonValue] | None = None
    previous_inputs: dict[str, JsonValue] | None = None
    #: The last of the step's operations.
    last: bool = False
    #: Distinguishes the undo's and the change's keys from the deed's.
    purpose: str = ""


class Caller:
    """Calls vendors for one transaction."""

    def __init__(self, board: Board, progress: Progress) -> None:
        self._board = board
        self._progress = progress

    async def perform(self, step_id: str, attempt: Attempt) -> Effect:
        """Carry out one operation of the step whose ledger entry stands on the board.

        Before each send the entry says what is under way, so that an undo knows. Raises Refused, Lost, Stopped.
        """
        board, operation = self._board, attempt.operation
        lost = board.entries[step_id].unknown_operation == operation.name and not attempt.is_undo
        sent_at = board.entries[step_id].last_sent_at or workflow.now()
        first_at = workflow.now() if attempt.purpose else board.entries[step_id].binding.bound_at
        tries = 0
        while True:
            if board.stopping and not attempt.is_undo:
                raise Stopped
            tries += 1
            if lost:
                self._refuse_stale_replay(step_id, operation, first_at)
            ask = self._ask(board.entries[step_id], attempt, sent_at) if lost else "send"
            sent_at = sent_at if ask == "find" else workflow.now()
            if not attempt.is_undo and ask != "find":
                self._under_way(step_id, operation)
            if not attempt.is_undo and tries > 1:
                board.update(step_id, attempts=board.states[step_id].attempts + 1)
            if attempt.is_undo and attempt.purpose:
                # An undo of several operations is one try, however many calls that takes.
                board.undo_tries[step_id] = max(board.undo_tries.get(step_id, 0) + (tries > 1), 1)
            try:
                done = await self._execute(step_id, attempt, ask, lost=lost)
            except ActivityError as error:
                failure = read_failure(error)
                lost = self._lost_after(failure, operation, lost, ask)
                tries -= failure.out_of_quota
                await self._after_failure(step_id, attempt, failure, lost, tries)
                continue
            if done.effect is not None:
                self._took_effect(step_id, attempt, done.effect)
                return done.effect
            await self._until_absence_counts(step_id, attempt, sent_at)

    def _refuse_stale_replay(self, step_id: str, operation: OperationSpec, first_at: datetime) -> None:
        """A key that the vendor has forgotten repeats nothing: it would do the deed a second time."""
        hours = self._board.entries[step_id].binding.idempotency_hours
        if saga.may_replay(operation, now=workflow.now(), first_sent_at=first_at, idempotency_hours=hours):
            return
        detail = f"{operation.name} got no answer, and the vendor keeps idempotency keys for {hours:g} h only"
        raise Lost(Failure(code="outcome_unknown", reason="idempotency_expired", detail=detail))

    def _ask(self, entry: LedgerEntry, attempt: Attempt, sent_at: datetime) -> Ask:
        """How a call whose outcome got lost is asked again."""
        if attempt.operation.on_unknown != "find":
            return "send"
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        again = saga.may_resend(
            attempt.operation, now=workflow.now(), last_sent_at=sent_at, start_to_close_seconds=seconds
        )
        return "find_or_send" if again else "find"

    def _under_way(self, step_id: str, operation: OperationSpec) -> None:
        entry = self._board.entries[step_id]
        if operation.read:
            return
        sent = {"unknown_operation": operation.name, "last_sent_at": workflow.now()}
        self._board.put(entry.model_copy(update=sent))

    def _took_effect(self, step_id: str, attempt: Attempt, effect: Effect) -> None:
        if attempt.is_undo:
            return
        entry = self._board.entries[step_id]
        self._board.put(
            entry.model_copy(
                update={
                    "unknown_operation": None,
                    "done": (*entry.done, attempt.operation.name),
                    "external_id": effect.external_id or entry.external_id,
                    "facts": {**entry.facts, **effect.facts},
                    "etag": effect.etag or entry.etag,
                    "content": effect.content or entry.content,
                }
            )
        )

    @staticmethod
    def _lost_after(failure: Failure, operation: OperationSpec, lost: bool, ask: Ask) -> bool:
        """Whether the outcome is unknown after this failure. A refusal of the very call settles what came before it."""
        if operation.read:
            return False
        if failure.unknown or failure.code == BUG:
            return True
        if failure.code == "vendor_rejected" and ask == "send":
            return False
        return lost

    async def _after_failure(self, step_id: str, attempt: Attempt, failure: Failure, lost: bool, tries: int) -> None:
        """Wait for the next try, or raise."""
        board, operation = self._board, attempt.operation
        entry = board.entries[step_id]
        if not lost and not attempt.is_undo and entry.unknown_operation == operation.name:
            board.put(entry.model_copy(update={"unknown_operation": None}))
        if board.stopping and not attempt.is_undo:
            raise Stopped
        is_final = not (failure.passing or failure.unknown)
        if is_final:
            raise (Lost if lost else Refused)(failure)
        if lost and operation.on_unknown == "unsafe" and board.steps[step_id].delivery != "may_repeat":
            raise Lost(failure)
        blocked = lost and not operation.harmless
        ready = not blocked and (attempt.fallback_ready or (attempt.gives_way and not entry.done))
        if failure.out_of_quota:
            await self._wait_for_quota(attempt, failure, ready=ready, blocked=blocked)
            return
        is_cut_off = failure.reason == CIRCUIT_OPEN
        if saga.may_give_up(
            tries, fallback_ready=ready, now=workflow.now(), give_up_at=_give_up_at(attempt), is_cut_off=is_cut_off
        ):
            raise (Lost if blocked else Refused)(failure)
        wait = failure.retry_after_seconds or saga.delay_seconds(tries, workflow.random().random())
        wait = min(wait, self._left(attempt))
        if wait >= _SHOWN_FROM_SECONDS:
            await self._show_waiting(step_id, attempt, failure, wait)
        await self._pause(attempt, wait, f"{failure.vendor or 'vendor'}: {failure.code}")

    async def _show_waiting(self, step_id: str, attempt: Attempt, failure: Failure, seconds: float) -> None:
        """Let watchers know how often it was tried; an undo says when it is tried again, too."""
        board = self._board
        undo = board.states[step_id].compensation
        if attempt.is_undo and attempt.purpose and undo is not None:
            until = workflow.now() + timedelta(seconds=seconds)
            detail = f"{failure.vendor or 'vendor'}: {failure.code}; tried again at {until:%Y-%m-%d %H:%M:%S} UTC"
            tried = CompensationResult(status="running", attempts=board.undo_tries[step_id], detail=detail)
            board.update(step_id, compensation=tried)
        elif attempt.is_undo:
            return
        await self._progress.show([step_id], f"{step_id}: show that it is tried again")

    async def _wait_for_quota(self, attempt: Attempt, failure: Failure, *, ready: bool, blocked: bool) -> None:
        """Until calls are taken, or made, again: no try, no trouble; for more than a minute it may go elsewhere."""
        seconds = failure.retry_after_seconds or 1.0
        if seconds > self._left(attempt) or (ready and seconds > saga.LONGEST_QUOTA_WAIT_SECONDS):
            raise (Lost if blocked else Refused)(failure)
        until = workflow.now() + timedelta(seconds=seconds)
        what = f"room among the calls to {failure.vendor}" if failure.at_capacity else f"{failure.vendor}'s quota"
        await self._pause(attempt, seconds, f"waits for {what} until {until:%H:%M:%S} UTC")

    async def _until_absence_counts(self, step_id: str, attempt: Attempt, sent_at: datetime) -> None:
        """A look found nothing, too early to count: wait until it does."""
        entry = self._board.entries[step_id]
        seconds = options.start_to_close_seconds(entry.binding.timeout_seconds)
        until = saga.settled_absent_at(sent_at, seconds)
        await self._pause(attempt, (until - workflow.now()).total_seconds(), "until its absence counts")
        if self._board.stopping and not attempt.is_undo:
            raise Stopped

    def _left(self, attempt: Attempt) -> float:
        return max((_give_up_at(attempt) - workflow.now()).total_seconds(), 0.0)

    async def _pause(self, attempt: Attempt, seconds: float, why: str) -> None:
        if seconds <= 0:
            return
        stopped = self._board.stopping and not attempt.is_undo
        try:
            await workflow.wait_condition(
                lambda: self._board.stopping and not stopped and not attempt.is_undo,
                timeout=timedelta(seconds=seconds),
                timeout_summary=why,
            )
        except TimeoutError:
            return

    async def find(self, step_id: str, operation: OperationSpec, purpose: str = "") -> Effect | None:
        """Look once whether `operation` of the step took effect. Raises ActivityError."""
        attempt = Attempt(operation=operation, give_up_at=workflow.now(), is_undo=True, purpose=purpose)
        return (await self._execute(step_id, attempt, "find")).effect

    async def look(self, step_id: str, operation: OperationSpec) -> Effect:
        """The present state of what the step did. Raises ActivityError."""
        attempt = Attempt(operation=operation, give_up_at=workflow.now(), is_undo=True)
        done = await self._execute(step_id, attempt, "look")
        return done.effect or Effect(state="absent")

    async def _execute(self, step_id: str, attempt: Attempt, ask: Ask, *, lost: bool = False) -> CarriedOut:
        given, entry = self._board.given, self._board.entries[step_id]
        shows = not attempt.is_undo and ask != "look" and attempt.purpose == ""
        wanted = CarryOut(
            call=self._call(step_id, attempt),
            ask=ask,
            state=self._board.states[step_id] if shows else None,
            last=attempt.last,
            version=self._board.next_version() if shows else 0,
            now=workflow.now(),
            # Only who has begun nothing here may be sent to another vendor while this one is eased back in.
            can_go_elsewhere=attempt.fallback_ready and not lost and not entry.done,
            is_wedding_day=given.mode == "wedding_day",
            remembers=attempt.operation.read and attempt.last and not attempt.is_undo,
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
            summary=_summary(step_id, entry, attempt, ask),
        )

    @staticmethod
    def _purpose(entry: LedgerEntry, attempt: Attempt) -> str:
        # A key replays a refusal, too, long after what was wrong has been put right.
        refusals = entry.undo_rounds.get(attempt.operation.name, 0) if attempt.purpose == UNDO else 0
        return f"{attempt.purpose}{refusals}" if refusals else attempt.purpose

    def _call(self, step_id: str, attempt: Attempt) -> Call:
        given, entry = self._board.given, self._board.entries[step_id]
        binding, name = entry.binding, attempt.operation.name
        keyed = f"{self._purpose(entry, attempt)}.{name}" if attempt.purpose else name
        return Call(
            organization_id=given.organization_id,
            wedding_id=given.wedding_id,
            transaction_id=binding.transaction_id,
            step_id=step_id,
            vendor=binding.vendor,
            account=binding.account,
            action=self._board.steps[step_id].action,
            operation=name,
            idempotency_key=saga.idempotency_key(
                given.wedding_id, binding.transaction_id, step_id, keyed, binding.vendor, binding.round
            ),
            reference=binding.reference,
            inputs=binding.inputs if attempt.inputs is None else attempt.inputs,
            facts={**entry.facts, **({"external_id": entry.external_id} if entry.external_id else {})},
            previous_inputs=attempt.previous_inputs or {},
            endpoints=binding.endpoints,
            first_sent_at=binding.bound_at,
            locale=given.locale,
        )


def _give_up_at(attempt: Attempt) -> datetime:
    """The attempt's own end, or now: what a run has tried for so long is given up before its history is full."""
    return attempt.give_up_at if options.has_room() else min(workflow.now(), attempt.give_up_at)


def _summary(step_id: str, entry: LedgerEntry, attempt: Attempt, ask: Ask) -> str:
    what = {"find": "look for", "look": "look at", "find_or_send": "look for, else"}.get(ask, "")
    undo = "undo: " if attempt.is_undo and ask == "send" else ""
    return f"{undo}{step_id}: {what} {attempt.operation.name} at {entry.binding.vendor}".replace("  ", " ")
