"""The way forward: steps run as wide as their needs allow, each at its vendor or the next one."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import Failure, read_failure
    from activities.weddings import RecallAnswer, WeddingActivities
    from wedsync.domain.routing.vendor import Effect, OperationSpec
    from wedsync.domain.weddings import degradation, saga
    from wedsync.domain.weddings.ledger import Deed, LedgerEntry, StepError
    from wedsync.domain.weddings.messages import StepStatus
    from wedsync.domain.weddings.plan import PlannedStep
    from wedsync.domain.weddings.requests import HAND_CONFIRMED, HAND_DECLINED
    from workflows.binding import bind
    from workflows.board import Board
    from workflows.calls import Attempt, Caller, Lost, Refused, Stopped
    from workflows.change import Change
    from workflows.compensation import Rollback
    from workflows.progress import Progress


#: Stands for the operation of an action that has no API.
BY_HAND = "by_hand"


class Forward:
    """Runs a transaction's deeds."""

    def __init__(self, board: Board, caller: Caller, rollback: Rollback, progress: Progress) -> None:
        self._board = board
        self._caller = caller
        self._rollback = rollback
        self._progress = progress
        self._change = Change(board, caller)
        self._slots = asyncio.Semaphore(board.given.parallelism)
        self._deeds = {deed.step.id: deed for deed in board.given.deeds}
        self._steps = [deed.step for deed in board.given.deeds]
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()

    async def run(self) -> None:
        """Run every deed that can run; ends when nothing more can happen by itself."""
        while True:
            self._fail_the_doomed()
            self._start_the_ready()
            if not self._running:
                return
            await workflow.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
            for step_id, task in list(self._running.items()):
                if task.done():
                    del self._running[step_id]
                    task.result()

    def _start_the_ready(self) -> None:
        if self._board.stopping:
            return
        satisfied = set(self._board.given.satisfied)
        ready = saga.ready(self._steps, self._pending_statuses(), satisfied)
        for step in ready:
            if step.id in self._deeds and step.id not in self._running:
                self._running[step.id] = asyncio.create_task(self._in_a_slot(self._deeds[step.id]))

    def _pending_statuses(self) -> dict[str, StepStatus]:
        """Statuses in which a deed counts as pending until it was begun, whatever its step did before."""
        begun = self._begun
        unbegun: dict[str, StepStatus] = {step_id: "pending" for step_id in self._deeds if step_id not in begun}
        done = {step_id: status for step_id, status in self._board.statuses().items() if step_id in self._deeds}
        return {**done, **unbegun}

    def _fail_the_doomed(self) -> None:
        satisfied = set(self._board.given.satisfied)
        for step in saga.doomed(self._steps, self._pending_statuses(), satisfied):
            if step.id in self._deeds and not self._board.stopping:
                failure = Failure(code="needs_failed", detail="a step that this one needs failed")
                self._begun.add(step.id)
                self._give_up(step, failure, unknown=False)

    async def _in_a_slot(self, deed: Deed) -> None:
        async with self._slots:
            if self._board.stopping:
                return
            self._begun.add(deed.step.id)
            match deed.kind:
                case "do":
                    await self._do(deed)
                case "answer":
                    await self._answer(deed)
                case "late":
                    await self._late(deed)
                case "change":
                    await self._change.run(deed)
        await self._show_unseen(deed)

    async def _show_unseen(self, deed: Deed) -> None:
        """Seen at once though others go on: a step that ended otherwise than well, or by its vendor's word alone."""
        step_id, status = deed.step.id, self._board.states[deed.step.id].status
        is_trouble = status in ("failed", "held", "skipped") and len(self._running) > 1
        is_answered = status == "succeeded" and deed.kind == "answer" and len(self._deeds) > 1
        if is_trouble or is_answered:
            await self._progress.show([step_id], f"{step_id}: show it as {status}")

    # ---- doing a step

    async def _do(self, deed: Deed) -> None:
        """Try the step's vendors in order: the next one only after a definite failure of the one before."""
        board, step = self._board, deed.step
        started = board.states[step.id].started_at or workflow.now()
        board.update(step.id, status="running", started_at=started, error=None, compensation=None)
        vendors = deed.vendors or step.vendors
        give_up_at = workflow.now() + timedelta(seconds=step.timeout_seconds)
        failure = Failure(code="no_vendor", detail="no vendor is left to try")
        are_all_down = bool(vendors)
        for place, vendor in enumerate(vendors):
            fallback_ready = place + 1 < len(vendors)
            try:
                if not await self._take_up(deed, vendor, place):
                    return
                await self._operations(step, give_up_at, fallback_ready)
                return
            except Refused as refused:
                failure = refused.failure
                are_all_down = are_all_down and failure.passing
                if board.is_at(step.id, vendor):
                    await self._rollback.let_go(step.id)
            except Lost as lost:
                self._give_up(step, lost.failure, unknown=True)
                return
            except Stopped:
                return
            if board.stopping:
                return
        if not (are_all_down and await self._degrade(step, failure)):
            self._give_up(step, failure, unknown=False)

    async def _degrade(self, step: PlannedStep, failure: Failure) -> bool:
        """Do what the plan says for when nobody can be reached; False: it says nothing more."""
        board, said, now = self._board, step.when_down, workflow.now()
        if said.do == "ask":
            board.held(step.id, failure, now, unknown=False)
        elif said.do == "skip":
            board.skipped(step.id, failure, now)
        elif said.do == "queue":
            since = board.states[step.id].queued_at or now
            until = board.states[step.id].queued_until or now + timedelta(seconds=said.max_wait_seconds)
            look_at = degradation.next_look(since, until, now, workflow.random().random())
            if look_at is None:
                return False
            board.queued(step.id, failure, since, until, look_at)
        elif said.do == "cached":
            return await self._answer_from_before(step, failure)
        else:
            return False
        return True

    async def _answer_from_before(self, step: PlannedStep, failure: Failure) -> bool:
        board, given, entry = self._board, self._board.given, self._board.entries.get(step.id)
        if entry is None:
            return False
        known = await workflow.execute_local_activity_method(
            WeddingActivities.recall_answer,
            RecallAnswer(
                organization_id=given.organization_id,
                action=step.action,
                inputs=entry.binding.inputs,
                max_age_seconds=step.when_down.max_age_seconds,
                now=workflow.now(),
            ),
            **options.local(f"{step.id}: look for an older answer"),
        )
        if known.results is None:
            return False
        age = degradation.age_in_words(known.age_seconds)
        results = {**known.results, "cached_age_seconds": int(known.age_seconds)}
        board.answered_from_before(step.id, results, failure, age, workflow.now())
        return True

    async def _take_up(self, deed: Deed, vendor: str, place: int) -> bool:
        """Bind the step to the vendor and put the coming effect on the board. False: the transaction stops.

        A deed that goes on after an unknown outcome keeps its binding, so that its keys stay the same.
        """
        board, step = self._board, deed.step
        board.update(
            step.id,
            vendor=vendor,
            account=step.account,
            attempts=board.states[step.id].attempts + 1,
            fallback_used=vendor != step.vendors[0],
        )
        if deed.entry is not None and place == 0:
            board.put(deed.entry)
            return True
        binding = await bind(board, step, vendor, deed.round, place)
        if board.stopping:
            return False
        board.put(LedgerEntry(step_id=step.id, binding=binding, state="begun"))
        board.update(step.id, round=deed.round)
        return True

    async def _operations(self, step: PlannedStep, give_up_at: datetime, fallback_ready: bool) -> None:
        """Carry out what is left of the step's operations at the vendor it is bound to."""
        entry = self._board.entries[step.id]
        if entry.binding.spec.by_hand and BY_HAND not in entry.done:
            self._wait_for_a_hand(step, entry)
            return
        operations = entry.binding.spec.operations
        awaits_receipt = step.done_when == "delivered" and bool(operations[-1].waits_for) if operations else False
        for operation in operations:
            if operation.name in self._board.entries[step.id].done:
                continue
            attempt = Attempt(
                operation=operation,
                give_up_at=give_up_at,
                fallback_ready=fallback_ready,
                gives_way=degradation.gives_way(step),
                last=operation is operations[-1] and not awaits_receipt,
            )
            effect = await self._caller.perform(step.id, attempt)
            if effect.state == "waiting" or (operation is operations[-1] and awaits_receipt):
                self._wait_for_the_vendor(step, operation, give_up_at)
                return
            if effect.state == "absent" and not operation.read:
                raise Refused(Failure(code="vendor_rejected", detail=effect.detail or "the vendor has no such object"))
        self._board.succeeded(step.id, self._board.entries[step.id], workflow.now())

    def _wait_for_the_vendor(self, step: PlannedStep, operation: OperationSpec, deadline_at: datetime) -> None:
        entry = self._board.put(self._board.entries[step.id].model_copy(update={"state": "waiting"}))
        self._board.update(step.id, external_id=entry.external_id)
        self._board.waiting(step.id, operation.waits_for, operation.refused_by, deadline_at)

    def _wait_for_a_hand(self, step: PlannedStep, entry: LedgerEntry) -> None:
        # Once a person was asked, something may stand at the vendor: an undo asks a person again.
        self._board.put(entry.model_copy(update={"state": "waiting", "done": (BY_HAND,)}))
        deadline_at = workflow.now() + timedelta(seconds=step.decide_within_seconds)
        error = StepError(code="by_hand", detail=f"needs attention: {entry.binding.hand_link}")
        self._board.waiting(step.id, HAND_CONFIRMED, (HAND_DECLINED,), deadline_at, error)

    def _give_up(self, step: PlannedStep, failure: Failure, *, unknown: bool) -> None:
        """What the failure does to the transaction: roll back, hold, or a gap."""
        board, now = self._board, workflow.now()
        if unknown and self._plan_takes_the_risk(step):
            board.failed(step.id, failure, now)
            return
        decision = saga.on_step_failure(step.on_failure, board.given.kind, unknown=unknown)
        if decision == "hold":
            board.held(step.id, failure, now, unknown=unknown)
            return
        board.failed(step.id, failure, now)
        if decision == "rollback":
            board.stop(StepError(code=failure.reason or failure.code, detail=f"{step.id}: {failure.detail}"))

    def _plan_takes_the_risk(self, step: PlannedStep) -> bool:
        """A message that may have been sent: the plan may say that at most once is enough."""
        return step.delivery == "at_most_once"

    # ---- going on with a step that waited

    async def _answer(self, deed: Deed) -> None:
        """The vendor's word has come."""
        board, step = self._board, deed.step
        entry = board.put(deed.standing())
        state = board.states[step.id]
        if deed.event_type == state.waits_for:
            board.put(entry.model_copy(update={"facts": {**entry.facts, **deed.event_facts}}))
            await self._go_on(deed)
            return
        if entry.binding.spec.by_hand:
            board.put(entry.model_copy(update={"done": ()}))
        if step.done_when == "delivered":
            # Not every vendor can be asked what became of a message.
            await self._elsewhere(deed, Failure(code="vendor_rejected", reason=deed.event_type, detail="not delivered"))
            return
        await self._look_again(deed, refused=True)

    async def _late(self, deed: Deed) -> None:
        """The vendor's word has not come in time, or a person wants to know it: ask."""
        self._board.put(deed.standing())
        await self._look_again(deed, refused=False)

    async def _look_again(self, deed: Deed, *, refused: bool) -> None:
        board, step = self._board, deed.step
        entry = board.entries[step.id]
        failure = Failure(code="vendor_rejected", detail="the vendor declined", reason=deed.event_type or "no_answer")
        if entry.binding.spec.operations:
            try:
                effect = await self._look(step, entry)
                if effect.state == "done":
                    await self._go_on(deed)
                    return
                if effect.state == "waiting" and not refused:
                    if deed.is_retry:
                        self._wait_once_more(step, entry)
                        return
                    failure = Failure(code="no_answer", detail="the vendor has not answered in time")
            except Refused as said_no:
                failure = said_no.failure
            except Lost as lost:
                self._give_up(step, lost.failure, unknown=True)
                return
        await self._elsewhere(deed, failure)

    def _wait_once_more(self, step: PlannedStep, entry: LedgerEntry) -> None:
        deadline_at = workflow.now() + timedelta(seconds=step.timeout_seconds)
        self._wait_for_the_vendor(step, entry.last_operation(), deadline_at)

    async def _look(self, step: PlannedStep, entry: LedgerEntry) -> Effect:
        operation = entry.last_operation()
        tries = 0
        while True:
            tries += 1
            try:
                return await self._caller.look(step.id, operation)
            except ActivityError as error:
                failure = read_failure(error)
                if failure.code == "vendor_rejected":
                    raise Refused(failure) from error
                if tries >= saga.ATTEMPTS_WITH_FALLBACK:
                    raise Lost(failure) from error
                await workflow.sleep(saga.delay_seconds(tries, 0), summary=f"{step.id}: before the next look")

    async def _go_on(self, deed: Deed) -> None:
        step = deed.step
        self._board.update(step.id, status="running", error=None)
        try:
            give_up_at = workflow.now() + timedelta(seconds=step.timeout_seconds)
            await self._operations(step, give_up_at, fallback_ready=False)
        except Refused as refused:
            await self._elsewhere(deed, refused.failure)
        except Lost as lost:
            self._give_up(step, lost.failure, unknown=True)
        except Stopped:
            return

    async def _elsewhere(self, deed: Deed, failure: Failure) -> None:
        """The vendor failed for certain: it lets go, and the next vendor is tried where there is one.

        While it may still hold the effect nobody else is asked.
        """
        board, step = self._board, deed.step
        here = board.entries[step.id].binding.vendor
        if step.done_when == "delivered":
            # A message that did not arrive leaves nothing that could be let go.
            self._board.put(board.entries[step.id].model_copy(update={"state": "undone"}))
        if not await self._rollback.let_go(step.id):
            board.rechecks[:] = [recheck for recheck in board.rechecks if recheck.entry.step_id != step.id]
            self._give_up(step, failure, unknown=True)
            return
        left = step.vendors[step.vendors.index(here) + 1 :] if here in step.vendors else ()
        if left and not board.stopping:
            round_ = board.states[step.id].round + 1
            await self._do(Deed(kind="do", step=step, vendors=left, round=round_))
            return
        self._give_up(step, failure, unknown=False)
