"""`Wedding`: one wedding from creation to clean-up. Orders its transactions, keeps its ledger and its agenda."""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.routing.vendor import VendorEvent
    from wedsync.domain.weddings import agenda, closing, requests
    from wedsync.domain.weddings.ledger import TransactionResult
    from wedsync.domain.weddings.messages import (
        REPAIR_UPDATE,
        SETTLED_SIGNAL,
        SUBMIT_UPDATE,
        VENDOR_EVENT_SIGNAL,
        WEDDING_WORKFLOW,
        TransactionRequest,
    )
    from wedsync.domain.weddings.wedding_state import KEPT_EVENTS, KEPT_IDS, Waiting, WeddingState, WeddingStatus
    from workflows.wedding_desk import WeddingDesk
    from workflows.wedding_ledger import undone_by_hand
    from workflows.wedding_requests import Requests

#: A run whose history has grown so long is continued as a new one at the next quiet moment.
LONG_HISTORY_EVENTS = 4_000
_OVER = ("cancelled", "ended")


@workflow.defn(name=WEDDING_WORKFLOW)
class Wedding:
    """The entity."""

    @workflow.init
    def __init__(self, state: WeddingState) -> None:
        self._desk = WeddingDesk(state)
        self._requests = Requests(self._desk)

    @workflow.run
    async def run(self, state: WeddingState) -> str:
        """Live until the wedding is over; returns its last status."""
        await self._desk.open()
        while self._desk.state.status not in _OVER:
            await self._keep_time()
            if self._desk.state.status in _OVER and workflow.patched("end-at-once"):
                break
            if not await self._do_next() and not closing.is_closed(self._desk.state, workflow.now()):
                await self._rest()
            self._continue_as_new_when_long()
        await self._answer_the_rest()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._desk.state.status

    # ---- what others say

    @workflow.update(name=SUBMIT_UPDATE)
    async def submit(self, request: TransactionRequest) -> str:
        """Take a request in; its transaction's id comes back at once. A known request answers again."""
        if request.id not in self._desk.state.seen:
            self._desk.change(
                seen=(*self._desk.state.seen, request.id)[-KEPT_IDS:], queue=(*self._desk.state.queue, request)
            )
            if request.kind == "undo" and self._desk.child is not None and self._desk.touches_running(request):
                await self._desk.stop_child(cancel=request.cancel)
        return request.id

    @submit.validator
    def check(self, request: TransactionRequest) -> None:
        """Refuse what can't be; while a transaction runs, that is judged when its turn comes."""
        if request.id in self._desk.state.seen or self._desk.running is not None or self._desk.state.plan is None:
            return
        error = requests.refusal(self._desk.state, request)
        if error is not None:
            raise ApplicationError(error.detail, error.model_dump(), type=error.code, non_retryable=True)

    @workflow.update(name=REPAIR_UPDATE)
    async def repair(self) -> int:
        """Write everything that users list anew; returns the number of steps written."""
        return await self._desk.rebuild()

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        """A vendor's word. One that comes early is kept until its step waits; a known one is dropped."""
        # A run takes 10,000 signals at the most: one at rest must not sleep through those that say nothing new.
        if self._take_in(event) or (self._is_long() and workflow.patched("noise-ends-a-long-run")):
            self._desk.heard += 1

    @workflow.signal(name=SETTLED_SIGNAL)
    def settled(self, result: TransactionResult) -> None:
        """A transaction's last act."""
        self._desk.settled[result.id] = result

    @workflow.query(name="plan")
    def plan(self) -> dict[str, JsonValue]:
        """Each step's status, vendor and object."""
        return {
            step_id: {"status": s.status, "vendor": s.vendor, "object": s.external_id, "round": s.round}
            for step_id, s in self._desk.state.states.items()
        }

    @workflow.query(name="ledger")
    def ledger(self) -> dict[str, JsonValue]:
        """What is booked, where, and by which transaction."""
        return {
            entry.step_id: {
                "vendor": entry.binding.vendor,
                "account": entry.binding.account,
                "state": entry.state,
                "fields": {name: field.model_dump(mode="json") for name, field in entry.fields.items()},
            }
            for entry in self._desk.state.entries.values()
        }

    @workflow.query(name="agenda")
    def agenda(self) -> list[dict[str, JsonValue]]:
        """What is due when."""
        states = self._desk.state.states.values()
        later = [s for s in states if s.status in agenda.UNBEGUN]
        return [s.model_dump(mode="json", include={"step_id", "status", "due_at"}) for s in later]

    @workflow.query(name="waiting")
    def waiting(self) -> list[Waiting]:
        """What is waited for."""
        found = [
            Waiting(step_id=s.step_id, what=s.waits_for, object_id=s.external_id, until=s.deadline_at)
            for s in self._desk.state.states.values()
            if s.status == "waiting"
        ]
        found += [
            Waiting(step_id=s.step_id, what="decision", until=s.deadline_at)
            for s in self._desk.state.states.values()
            if s.status == "held"
        ]
        return found + [
            Waiting(step_id=r.entry.step_id, what="recheck", until=r.due_at) for r in self._desk.state.rechecks
        ]

    # ---- its life

    def _take_in(self, event: VendorEvent) -> bool:
        """Keep what may matter; False for what is known, or over."""
        key = f"{event.source}:{event.event_id}"
        if key in self._desk.state.known_events:
            return False
        self._desk.change(known_events=(*self._desk.state.known_events, key)[-KEPT_IDS:])
        if not requests.may_matter(self._desk.state, event):
            return False
        events = (*self._desk.state.events, event)
        if len(events) > KEPT_EVENTS:
            events = requests.shed(events) if workflow.patched("reports-are-shed-first") else events[-KEPT_EVENTS:]
        self._desk.change(events=events)
        return True

    async def _keep_time(self) -> None:
        """Turn to the phase and the mode that the hour asks for; end the wedding when its time is over."""
        plan, now = self._desk.plan, workflow.now()
        phase, mode = agenda.phase_at(now, plan.ceremony_at), agenda.mode_at(now, plan.ceremony_at)
        before = (self._desk.state.phase, self._desk.state.mode, self._desk.state.status)
        status = self._status_at(now)
        if (phase, mode, status) == before:
            return
        self._desk.change(phase=phase, mode=mode, status=status)
        self._desk.show()
        await self._desk.record()

    def _status_at(self, now: datetime) -> WeddingStatus:
        """The status that the hour, and what is still open, ask for."""
        state = self._desk.state
        if state.queue:
            return state.status
        if state.closing is not None:
            if not closing.is_closed(state, now):
                return state.status
            left = closing.open_matters(state)
            if left:
                workflow.logger.error("wedding.ends_with_open_matters", extra={"steps": left})
            return state.closing.becomes
        return self._desk.ended_as("ended") if now >= self._desk.plan.ends_at else state.status

    async def _answer_the_rest(self) -> None:
        """What was asked for before the wedding ended, and never came to its turn, is refused."""
        if self._desk.state.queue and workflow.patched("answer-the-rest"):
            rest = self._desk.state.queue
            self._desk.change(queue=())
            for request in rest:
                await self._requests.carry_out(request)

    async def _do_next(self) -> bool:
        """Run the transaction whose turn it is; False when there is none."""
        if self._desk.state.queue:
            request, *rest = self._desk.state.queue
            self._desk.change(queue=tuple(rest))
            await self._requests.carry_out(request)
            return True
        now = workflow.now()
        await self._remind(now)
        await self._take_hands_word()
        if await self._requests.decide_the_overdue(now):
            return True
        deeds = requests.scheduled_deeds(self._desk.state, now)
        rechecks = tuple(r for r in self._desk.state.rechecks if r.due_at <= now)
        if not deeds and not rechecks:
            return False
        given = self._desk.input(self._desk.new_id(), "scheduled", deeds=deeds).model_copy(
            update={
                "rechecks": rechecks,
                "undo_steps": tuple(requests.planned_step(self._desk.state, r.entry.step_id) for r in rechecks),
                "undo_states": tuple(
                    self._desk.state.states[r.entry.step_id]
                    for r in rechecks
                    if r.entry.step_id not in {deed.step.id for deed in deeds}
                ),
            }
        )
        await self._desk.run_child(given)
        return True

    async def _take_hands_word(self) -> None:
        """People undid by hand what no API could."""
        step_ids = requests.undone_by_hand(self._desk.state)
        if step_ids:
            undone = undone_by_hand(self._desk.state, step_ids)
            self._desk.state = undone.state
            await self._desk.record(undone.news, tuple(self._desk.state.states[i] for i in step_ids))

    async def _remind(self, now: datetime) -> None:
        """Steps that wait for a decision say so once more."""
        due = {state.step_id: state for state in agenda.to_remind(self._desk.state.states.values(), now)}
        if due:
            reminded = {step_id: state.model_copy(update={"remind_at": None}) for step_id, state in due.items()}
            self._desk.change(states={**self._desk.state.states, **reminded})
            await self._desk.record(reminders=tuple(due))

    async def _rest(self) -> None:
        """Sleep until something is due or somebody speaks; after a month at most times are resolved anew."""
        plan, now = self._desk.plan, workflow.now()
        points = agenda.turning_points(plan.ceremony_at, plan.ends_at)
        if self._desk.state.closing is not None:
            points = (*points, self._desk.state.closing.until)
        wake = agenda.next_wake(
            self._desk.state.states.values(), self._desk.state.rechecks, points, now, options.LONGEST_TIMER
        )
        heard = self._desk.heard
        self._desk.show()
        try:
            await workflow.wait_condition(
                lambda: bool(self._desk.state.queue) or self._desk.heard != heard,
                timeout=wake - now,
                timeout_summary=f"until {wake:%Y-%m-%d %H:%M} UTC",
            )
        except TimeoutError:
            if wake - now >= options.LONGEST_TIMER:
                await self._desk.resolve_agenda()

    def _continue_as_new_when_long(self) -> None:
        """Only with no transaction and no handler running."""
        if self._is_long() and workflow.all_handlers_finished() and not self._desk.state.queue:
            workflow.continue_as_new(self._desk.state)

    def _is_long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > LONG_HISTORY_EVENTS
