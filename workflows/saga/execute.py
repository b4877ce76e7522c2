"""The way forward: steps run as wide as their needs allow, each at its vendor or the next one."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.weddings import RecallAnswer, WeddingActivities
    from wedsync.domain.failure import BUG, Failure
    from wedsync.domain.plans import when_down
    from wedsync.domain.plans.plan import PlannedStep
    from wedsync.domain.vendors.manifest import OperationSpec
    from wedsync.domain.weddings import saga
    from wedsync.domain.weddings.ledger import MANUAL, LedgerEntry
    from wedsync.domain.weddings.messages import StepStatus
    from wedsync.domain.weddings.requests import MANUAL_CONFIRMED, MANUAL_DECLINED
    from wedsync.domain.weddings.step import StepError
    from wedsync.domain.weddings.task import StepTask
    from wedsync.domain.weddings.transaction_state import TransactionState
    from workflows.saga.binder import Binder
    from workflows.saga.change import ChangeExecutor
    from workflows.saga.compensate import Compensator
    from workflows.saga.progress import Progress
    from workflows.saga.resume import AnswerTaker
    from workflows.saga.vendor_calls import (
        DefiniteFailure,
        OperationRun,
        Paused,
        Stopped,
        UnresolvedOutcome,
        VendorCaller,
    )


class StepExecutor:
    """Runs a transaction's tasks."""

    def __init__(
        self, state: TransactionState, caller: VendorCaller, binder: Binder, undo: Compensator, progress: Progress
    ) -> None:
        self._state = state
        self._caller = caller
        self._binder = binder
        self._undo = undo
        self._progress = progress
        self._change = ChangeExecutor(state, caller, binder)
        self._answers = AnswerTaker(self, state, caller, undo)
        self._slots = asyncio.Semaphore(state.input.parallelism)
        self._steps = [task.step for task in state.input.tasks]
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Run every task that can run; ends when nothing more can happen by itself, or at a pause."""
        for step_id in sorted(self._state.paused):
            self._start(step_id)
        while True:
            self._fail_the_doomed()
            self._start_the_ready()
            if not self._running:
                return
            await workflow.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
            for step_id, task in list(self._running.items()):
                if task.done():
                    del self._running[step_id]
                    await self._raise_from(task)

    async def _raise_from(self, task: asyncio.Task[None]) -> None:
        """Let an error of ours end the transaction, once everything else that runs has come to an end."""
        error = task.exception()
        if error is not None:
            self._state.stop(StepError(code=BUG, detail="an unexpected error in our own code"))
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            raise error

    def is_done(self) -> bool:
        """Tell whether no task is left that could go on, or begin, in another run."""
        return not self._state.paused and (self._state.stopping or not self._ready())

    def _start(self, step_id: str) -> None:
        self._running[step_id] = asyncio.create_task(self._in_a_slot(self._state.tasks[step_id]))

    def _ready(self) -> list[PlannedStep]:
        ready = saga.ready(self._steps, self._pending_statuses(), set(self._state.input.satisfied))
        return [step for step in ready if step.id not in self._running]

    def _start_the_ready(self) -> None:
        if self._state.stopping or self._state.pausing:
            return
        for step in self._ready():
            self._start(step.id)

    def _pending_statuses(self) -> dict[str, StepStatus]:
        """Statuses in which a task counts as pending until it was begun, whatever its step did before."""
        tasks, begun = self._state.tasks, self._state.begun
        unbegun: dict[str, StepStatus] = {step_id: "pending" for step_id in tasks if step_id not in begun}
        done = {step_id: status for step_id, status in self._state.statuses().items() if step_id in tasks}
        return {**done, **unbegun}

    def _fail_the_doomed(self) -> None:
        satisfied = set(self._state.input.satisfied)
        for step in saga.doomed(self._steps, self._pending_statuses(), satisfied):
            if not self._state.stopping:
                failure = Failure(code="needs_failed", detail="a step that this one needs failed")
                self._state.begun.add(step.id)
                self.give_up(step, failure, unknown=False)

    async def _in_a_slot(self, task: StepTask) -> None:
        state, step_id = self._state, task.step.id
        async with self._slots:
            if state.pausing or (state.stopping and step_id not in state.paused):
                return
            state.begun.add(step_id)
            state.paused.discard(step_id)
            try:
                await self._run(task)
            except Paused:
                state.paused.add(step_id)
                return
        await self._show_unseen(task)

    async def _run(self, task: StepTask) -> None:
        match task.kind:
            case "do":
                await self.do(task)
            case "answer":
                await self._answers.take_answer(task)
            case "late":
                await self._answers.take_silence(task)
            case "change":
                await self._change.run(task)

    async def _show_unseen(self, task: StepTask) -> None:
        """Seen at once though others go on: a step that ended otherwise than well, or by its vendor's event alone."""
        step_id, status = task.step.id, self._state.states[task.step.id].status
        is_trouble = status in ("failed", "held", "skipped") and len(self._running) > 1
        is_answered = status == "succeeded" and task.kind == "answer" and len(self._state.tasks) > 1
        if is_trouble or is_answered:
            await self._progress.show([step_id], f"{step_id}: show it as {status}")

    # ---- doing a step

    async def do(self, task: StepTask) -> None:
        """Try the step's vendors in order: the next one only after a definite failure of the one before.

        Raises Paused.
        """
        state, step = self._state, task.step
        if not task.is_resumed:
            state.put_step(state.step(step.id).begun(workflow.now()))
        vendors = task.vendors or step.vendors
        give_up_at = task.give_up_at or workflow.now() + timedelta(seconds=step.timeout_seconds)
        failure = Failure(code="no_vendor", detail="no vendor is left to try")
        are_all_down = bool(vendors) and task.are_all_down
        for place, vendor in enumerate(vendors):
            try:
                if not (task.is_resumed and place == 0) and not await self._take_up(task, vendor, place):
                    return
                state.tasks[step.id] = task.at(vendors[place:], give_up_at, are_all_down=are_all_down)
                await self.operations(step, give_up_at, fallback_ready=place + 1 < len(vendors))
                return
            except DefiniteFailure as refused:
                failure = refused.failure
                are_all_down = are_all_down and failure.passing
                if state.is_at(step.id, vendor):
                    await self._undo.let_go(step.id)
            except UnresolvedOutcome as lost:
                self.give_up(step, lost.failure, unknown=True)
                return
            except Stopped:
                return
            if state.stopping:
                return
        if not (are_all_down and await self._degrade(step, failure)):
            self.give_up(step, failure, unknown=False)

    async def _take_up(self, task: StepTask, vendor: str, place: int) -> bool:
        """Bind the step to the vendor and put the coming effect on the ledger. False: the transaction stops.

        A task that goes on after an unknown outcome keeps its binding, so that its keys stay the same.
        """
        state, step = self._state, task.step
        state.put_step(state.step(step.id).at_vendor(vendor, step.account, is_fallback=vendor != step.vendors[0]))
        if task.entry is not None and place == 0:
            state.put(task.entry)
            return True
        binding = await self._binder.bind(step, vendor, task.round)
        if state.stopping:
            return False
        state.put(LedgerEntry(step_id=step.id, binding=binding, state="begun"))
        state.put_step(state.step(step.id).in_round(task.round))
        return True

    async def operations(self, step: PlannedStep, give_up_at: datetime, *, fallback_ready: bool) -> None:
        """Carry out what is left of the step's operations at the vendor it is bound to.

        Raises DefiniteFailure, UnresolvedOutcome, Stopped, Paused.
        """
        state = self._state
        entry = state.entries[step.id]
        if entry.binding.spec.manual and MANUAL not in entry.done:
            self._wait_for_a_person(step, entry)
            return
        operations = entry.binding.spec.operations
        awaits_receipt = step.done_when == "delivered" and bool(operations[-1].waits_for) if operations else False
        for operation in operations:
            if operation.name in state.entries[step.id].done:
                continue
            run = OperationRun(
                operation=operation,
                give_up_at=give_up_at,
                fallback_ready=fallback_ready,
                gives_way=when_down.gives_way(step),
                last=operation is operations[-1] and not awaits_receipt,
            )
            effect = await self._caller.perform(step.id, run)
            if effect.state == "waiting" or (operation is operations[-1] and awaits_receipt):
                self.wait_for_the_vendor(step, operation, give_up_at)
                return
            if effect.state == "absent" and not operation.read:
                detail = effect.detail or "the vendor has no such object"
                raise DefiniteFailure(Failure(code="vendor_rejected", detail=detail))
        state.succeeded(step.id, state.entries[step.id], workflow.now())

    def wait_for_the_vendor(self, step: PlannedStep, operation: OperationSpec, deadline_at: datetime) -> None:
        """Let the step wait for the vendor's event."""
        state = self._state
        entry = state.put(state.entries[step.id].in_state("waiting"))
        waiting = state.step(step.id).holding(entry.external_id)
        state.put_step(waiting.waiting(operation.waits_for, operation.refused_by, deadline_at))

    def _wait_for_a_person(self, step: PlannedStep, entry: LedgerEntry) -> None:
        self._state.put(entry.asked_of_a_person())
        deadline_at = workflow.now() + timedelta(seconds=step.decide_within_seconds)
        error = StepError(code="by_hand", detail=f"needs attention: {entry.binding.manual_link}")
        waiting = self._state.step(step.id).waiting(MANUAL_CONFIRMED, (MANUAL_DECLINED,), deadline_at, error)
        self._state.put_step(waiting)

    def give_up(self, step: PlannedStep, failure: Failure, *, unknown: bool) -> None:
        """Do to the transaction what the failure means for it: roll back, hold, or a gap."""
        state, now = self._state, workflow.now()
        # A message that may have been sent: the plan may say that at most once is enough.
        if unknown and step.delivery == "at_most_once":
            state.failed(step.id, failure, now)
            return
        decision = saga.on_step_failure(step.on_failure, state.input.kind, unknown=unknown)
        if decision == "hold":
            state.held(step.id, failure, now, unknown=unknown)
            return
        state.failed(step.id, failure, now)
        if decision == "rollback":
            state.stop(StepError(code=failure.reason or failure.code, detail=f"{step.id}: {failure.detail}"))

    # ---- while nobody can be reached

    async def _degrade(self, step: PlannedStep, failure: Failure) -> bool:
        """Do what the plan says for when nobody can be reached; False: it says nothing more."""
        state, now = self._state, workflow.now()
        match step.when_down.do:
            case "ask":
                state.held(step.id, failure, now, unknown=False)
                return True
            case "skip":
                state.skipped(step.id, failure, now)
                return True
            case "queue":
                return self._queue(step, failure, now)
            case "cached":
                return await self._answer_from_before(step, failure)
        return False

    def _queue(self, step: PlannedStep, failure: Failure, now: datetime) -> bool:
        before = self._state.step(step.id)
        since = before.queued_at or now
        until = before.queued_until or now + timedelta(seconds=step.when_down.max_wait_seconds)
        probe_at = when_down.next_recheck(since, until, now, workflow.random().random())
        if probe_at is None:
            return False
        self._state.put_step(before.queued(failure, since, until, probe_at))
        return True

    async def _answer_from_before(self, step: PlannedStep, failure: Failure) -> bool:
        state, entry = self._state, self._state.entries.get(step.id)
        if entry is None:
            return False
        known = await workflow.execute_local_activity_method(
            WeddingActivities.recall_answer,
            RecallAnswer(
                organization_id=state.input.organization_id,
                action=step.action,
                inputs=entry.binding.inputs,
                max_age_seconds=step.when_down.max_age_seconds,
                now=workflow.now(),
            ),
            **options.local(f"{step.id}: look for an older answer"),
        )
        if known.results is None:
            return False
        age = when_down.age_in_words(known.age_seconds)
        results = {**known.results, "cached_age_seconds": int(known.age_seconds)}
        detail = f"{failure.vendor or 'the vendor'} cannot be reached: this answer is {age} old"
        state.answered_from_before(step.id, results, detail, workflow.now())
        return True
