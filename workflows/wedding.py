"""`Wedding`: run one wedding from creation to clean-up: its transactions, its ledger and its agenda."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.vendors.event import VendorEvent
    from wedsync.domain.weddings import agenda, closing, requests, saga, wedding_views
    from wedsync.domain.weddings.apply_result import manually_undone
    from wedsync.domain.weddings.messages import (
        REPAIR_UPDATE,
        SUBMIT_UPDATE,
        VENDOR_EVENT_SIGNAL,
        WEDDING_WORKFLOW,
        TransactionRequest,
    )
    from wedsync.domain.weddings.projection import WeddingStatus
    from wedsync.domain.weddings.wedding_state import KEPT_EVENTS, Course, Waiting, WeddingState
    from workflows.wedding_journal import WeddingJournal
    from workflows.wedding_requests import Requests
    from workflows.wedding_transactions import TransactionRunner

#: Between two tries of what only a person can mend.
_AFTER_FAILURE = timedelta(minutes=1)


@workflow.defn(name=WEDDING_WORKFLOW)
class Wedding:
    """One wedding's workflow."""

    @workflow.init
    def __init__(self, state: WeddingState) -> None:
        self._journal = WeddingJournal(state)
        self._runner = TransactionRunner(self._journal)
        self._requests = Requests(self._journal, self._runner)
        #: Counts the vendors' events that may matter.
        self._heard = 0

    @workflow.run
    async def run(self, state: WeddingState) -> str:
        """Live until the wedding is over; return its last status. A cancellation from outside undoes what runs."""
        life = asyncio.create_task(self._live())
        while True:
            try:
                return await asyncio.shield(life)
            except asyncio.CancelledError:
                if life.done():
                    # Not somebody's wish: the worker lets go of the workflow.
                    raise
                if not self._runner.stop_from_outside():
                    workflow.logger.warning("wedding.cancelled_at_rest")

    async def _live(self) -> str:
        await self._runner.resume()
        while not self._state.is_over:
            try:
                await self._live_on()
            except FailureError:
                # Something of our own records can't be read or written: a person mends that, and the wedding goes on.
                workflow.logger.exception("wedding.record_failed")
                await workflow.sleep(_AFTER_FAILURE, summary="until our own records work again")
            self._continue_as_new_when_long()
        await self._answer_the_rest()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._state.status

    async def _live_on(self) -> None:
        """Keep the time, then do what comes next, or rest until something does."""
        await self._keep_time()
        if self._state.is_over:
            return
        if not await self._do_next() and not closing.is_closed(self._state, workflow.now()):
            await self._rest()

    @property
    def _state(self) -> WeddingState:
        return self._journal.state

    # ---- what others say

    @workflow.update(name=SUBMIT_UPDATE)
    async def submit(self, request: TransactionRequest) -> str:
        """Accept a request and return its transaction's id at once. A known request gets the same answer again."""
        if request.id not in self._state.seen:
            self._journal.state = self._state.asked(request)
            if self._runner.touches(request):
                self._runner.stop(cancel=request.cancel)
        return request.id

    @submit.validator
    def check(self, request: TransactionRequest) -> None:
        """Refuse what can't be done; while a transaction runs, the request is judged when its turn comes."""
        if request.id in self._state.seen or self._runner.running or self._state.plan is None:
            return
        error = requests.refusal(self._state, request)
        if error is not None:
            raise ApplicationError(error.detail, error.model_dump(), type=error.code, non_retryable=True)

    @workflow.update(name=REPAIR_UPDATE)
    async def repair(self) -> int:
        """Write everything that users list anew; return the number of steps written."""
        return await self._journal.rebuild(self._runner.running_steps())

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        """Accept a vendor event. One that comes early is kept until its step waits; a known one is dropped."""
        # A run takes at most 10,000 signals: one at rest must not sleep through those that say nothing new.
        if self._take_in(event) or options.is_long():
            self._heard += 1

    @workflow.query(name="plan")
    def plan(self) -> dict[str, JsonValue]:
        """Return each step's status, vendor and object."""
        return wedding_views.plan(self._state, self._runner.running_steps())

    @workflow.query(name="ledger")
    def ledger(self) -> dict[str, JsonValue]:
        """Return what is booked, where, and by which transaction."""
        return wedding_views.ledger(self._state)

    @workflow.query(name="agenda")
    def agenda(self) -> list[dict[str, JsonValue]]:
        """Return what is due when."""
        return wedding_views.agenda(self._state)

    @workflow.query(name="waiting")
    def waiting(self) -> list[Waiting]:
        """Return what the wedding waits for."""
        return wedding_views.waiting(self._state)

    # ---- its life

    def _take_in(self, event: VendorEvent) -> bool:
        """Keep an event that may matter; False for one that is known, or over."""
        key = f"{event.source}:{event.event_id}"
        if key in self._state.known_events:
            return False
        self._journal.state = self._state.knows(key)
        if not requests.may_matter(self._state, event):
            return False
        events = (*self._state.events, event)
        self._journal.state = self._state.keeping(requests.shed(events) if len(events) > KEPT_EVENTS else events)
        return True

    async def _keep_time(self) -> None:
        """Set the phase and the mode by the hour; end the wedding when its time is over."""
        state, now = self._state, workflow.now()
        if state.plan is None:
            return
        phase, mode = agenda.phase_at(now, state.plan.ceremony_at), agenda.mode_at(now, state.plan.ceremony_at)
        status = self._status_at(now)
        if (phase, mode, status) != (state.phase, state.mode, state.status):
            self._journal.state = self._state.at_hour(phase, mode, status)
            self._journal.show()
            await self._journal.record()

    def _status_at(self, now: datetime) -> WeddingStatus:
        """Return the status by the hour and by what is still open."""
        state = self._state
        if state.queue:
            return state.status
        if state.closing is not None:
            if not closing.is_closed(state, now):
                return state.status
            left = closing.open_matters(state)
            if left:
                workflow.logger.error("wedding.ends_with_open_matters", extra={"steps": left})
            return state.closing.becomes
        if now >= state.compiled.ends_at:
            self._journal.state = closing.end(state, "ended", now)
        return self._state.status

    async def _answer_the_rest(self) -> None:
        """Refuse the requests that came before the wedding ended and never had their turn."""
        while self._state.queue:
            await self._next_request()

    async def _next_request(self) -> None:
        request = self._state.queue[0]
        self._journal.state = self._state.without_first_request()
        await self._requests.perform_call(request)

    async def _do_next(self) -> bool:
        """Run the transaction whose turn it is; False when there is none."""
        if self._state.queue:
            await self._next_request()
            return True
        if self._state.plan is None:
            return False
        now = workflow.now()
        await self._remind(now)
        await self._take_manual_undos()
        if await self._requests.decide_the_overdue(now):
            return True
        return await self._do_what_is_due(now)

    async def _do_what_is_due(self, now: datetime) -> bool:
        """Run what the agenda brings: answers, ends of patience, due steps, rechecks."""
        state = self._state
        tasks = requests.scheduled_tasks(state, now)
        rechecks = tuple(r for r in state.rechecks if r.due_at <= now)
        if not tasks and not rechecks:
            return False
        doing = {task.step.id for task in tasks}
        given = self._runner.input(self._runner.new_id(), "scheduled", tasks).rechecking(
            rechecks,
            tuple(requests.planned_step(state, r.entry.step_id) for r in rechecks),
            tuple(state.states[r.entry.step_id] for r in rechecks if r.entry.step_id not in doing),
        )
        await self._runner.run_input(given, Course())
        return True

    async def _take_manual_undos(self) -> None:
        """Record what people undid by hand because no API could."""
        step_ids = requests.manually_undone(self._state)
        if step_ids:
            undone = manually_undone(self._state, step_ids)
            self._journal.state = undone.state
            await self._journal.record(undone.updates, tuple(self._state.states[i] for i in step_ids))

    async def _remind(self, now: datetime) -> None:
        """Remind people again of steps that wait for a decision."""
        due = agenda.to_remind(self._state.states.values(), now)
        if due:
            self._journal.state = self._state.with_steps(*(step.reminded() for step in due))
            await self._journal.record(reminders=tuple(step.step_id for step in due))

    async def _rest(self) -> None:
        """Sleep until something is due or somebody sends something; after at most a month times are resolved anew."""
        state, now, heard = self._state, workflow.now(), self._heard
        self._journal.show()
        if state.plan is None:
            await workflow.wait_condition(lambda: bool(self._state.queue))
            return
        points = agenda.turning_points(state.plan.ceremony_at, state.plan.ends_at)
        if state.closing is not None:
            points = (*points, state.closing.until)
        wake = agenda.next_wake(state.states.values(), state.rechecks, points, now, options.LONGEST_TIMER)
        if wake - now > saga.LONG_SLEEP:
            self._continue_as_new_when_long(saga.SLEEPY_HISTORY_EVENTS)
        try:
            await workflow.wait_condition(
                lambda: bool(self._state.queue) or self._heard != heard,
                timeout=wake - now,
                timeout_summary=f"until {wake:%Y-%m-%d %H:%M} UTC",
            )
        except TimeoutError:
            if wake - now >= options.LONGEST_TIMER:
                await self._journal.resolve_agenda()

    def _continue_as_new_when_long(self, events: int = saga.LONG_HISTORY_EVENTS) -> None:
        """Continue as new, only with no transaction and no handler running."""
        is_long = options.is_long() or workflow.info().get_current_history_length() > events
        if is_long and workflow.all_handlers_finished() and not self._state.queue:
            workflow.continue_as_new(self._journal.carried())
