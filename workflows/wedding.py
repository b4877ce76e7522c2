"""`Wedding`: one wedding from creation to clean-up. Orders its transactions, keeps its ledger and its agenda."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, SearchAttributeUpdate, TypedSearchAttributes
from temporalio.exceptions import ActivityError, ApplicationError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from activities.weddings import (
        LoadPlan,
        RecordWedding,
        ResolveAgenda,
        RevisedPlan,
        RevisePlan,
        TransactionNews,
        WeddingActivities,
    )
    from wedsync.domain.routing.vendor import VendorEvent
    from wedsync.domain.weddings import agenda, requests, saga
    from wedsync.domain.weddings import search_attributes as names
    from wedsync.domain.weddings.ledger import Deed, StepError, StepState, TransactionInput, TransactionResult
    from wedsync.domain.weddings.messages import (
        SUBMIT_UPDATE,
        TRANSACTION_WORKFLOW,
        VENDOR_EVENT_SIGNAL,
        WEDDING_WORKFLOW,
        Decision,
        TransactionKind,
        TransactionRequest,
        transaction_workflow_id,
    )
    from wedsync.domain.weddings.wedding_state import (
        KEPT_EVENTS,
        KEPT_IDS,
        PlanFacts,
        Waiting,
        WeddingState,
        WeddingStatus,
    )
    from workflows.board import VERSIONS_PER_TRANSACTION, WEDDING_VERSIONS_FROM
    from workflows.details import wedding_details
    from workflows.wedding_ledger import absorb, lost_child, skipped

_PHASE = SearchAttributeKey.for_keyword(names.WEDDING_PHASE)
_DATE = SearchAttributeKey.for_keyword(names.WEDDING_DATE)
_WEDDING = SearchAttributeKey.for_keyword(names.WEDDING_ID)
_ORGANIZATION = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
_STATUS = SearchAttributeKey.for_keyword(names.TRANSACTION_STATUS)
_VENDOR = SearchAttributeKey.for_keyword_list(names.VENDOR)
#: A run whose history has grown so long is continued as a new one at the next quiet moment.
LONG_HISTORY_EVENTS = 4_000


@workflow.defn(name=WEDDING_WORKFLOW)
class Wedding:
    """The entity."""

    @workflow.init
    def __init__(self, state: WeddingState) -> None:
        self._state = state
        self._settled: dict[str, TransactionResult] = {}
        self._running: str | None = None
        self._child: workflow.ChildWorkflowHandle[object, TransactionResult] | None = None
        self._repairs = 0

    @workflow.run
    async def run(self, state: WeddingState) -> str:
        """Live until the wedding is over; returns its last status."""
        await self._open()
        while self._state.status not in ("cancelled", "ended"):
            await self._keep_time()
            if not await self._do_next():
                await self._rest()
            self._continue_as_new_when_long()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._state.status

    # ---- what others say

    @workflow.update(name=SUBMIT_UPDATE)
    async def submit(self, request: TransactionRequest) -> str:
        """Take a request in; its transaction's id comes back at once. A known request answers again."""
        if request.id not in self._state.seen:
            self._change(seen=(*self._state.seen, request.id)[-KEPT_IDS:], queue=(*self._state.queue, request))
            if request.kind == "undo" and self._child is not None and self._touches_running(request):
                await self._child.signal("stop", request.cancel)
        return request.id

    @submit.validator
    def check(self, request: TransactionRequest) -> None:
        """Refuse what can't be; while a transaction runs, that is judged when its turn comes."""
        if request.id in self._state.seen or self._running is not None or self._state.plan is None:
            return
        error = requests.refusal(self._state, request)
        if error is not None:
            raise ApplicationError(error.detail, error.model_dump(), type=error.code, non_retryable=True)

    @workflow.update(name="repair")
    async def repair(self) -> int:
        """Write everything that users list anew; returns the number of steps written."""
        news = tuple(TransactionNews(transaction_id=card.id, status=card.status) for card in self._state.cards.values())
        await self._record(news, tuple(self._state.states.values()))
        return len(self._state.states)

    @workflow.signal(name=VENDOR_EVENT_SIGNAL)
    def vendor_event(self, event: VendorEvent) -> None:
        """A vendor's word. One that comes early is kept until its step waits; a known one is dropped."""
        key = f"{event.source}:{event.event_id}"
        if key in self._state.known_events:
            return
        self._change(
            known_events=(*self._state.known_events, key)[-KEPT_IDS:],
            events=(*self._state.events, event)[-KEPT_EVENTS:],
        )

    @workflow.signal(name="settled")
    def settled(self, result: TransactionResult) -> None:
        """A transaction's last act."""
        self._settled[result.id] = result

    @workflow.query(name="plan")
    def plan(self) -> dict[str, JsonValue]:
        """Each step's status, vendor and object."""
        return {
            step_id: {"status": s.status, "vendor": s.vendor, "object": s.external_id, "round": s.round}
            for step_id, s in self._state.states.items()
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
            for entry in self._state.entries.values()
        }

    @workflow.query(name="agenda")
    def agenda(self) -> list[dict[str, JsonValue]]:
        """What is due when."""
        states = self._state.states.values()
        later = [s for s in states if s.status in agenda.UNBEGUN]
        return [s.model_dump(mode="json", include={"step_id", "status", "due_at"}) for s in later]

    @workflow.query(name="waiting")
    def waiting(self) -> list[Waiting]:
        """What is waited for."""
        found = [
            Waiting(step_id=s.step_id, what=s.waits_for, object_id=s.external_id, until=s.deadline_at)
            for s in self._state.states.values()
            if s.status == "waiting"
        ]
        found += [
            Waiting(step_id=s.step_id, what="decision", until=s.deadline_at)
            for s in self._state.states.values()
            if s.status == "held"
        ]
        return found + [Waiting(step_id=r.entry.step_id, what="recheck", until=r.due_at) for r in self._state.rechecks]

    # ---- its life

    def _change(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)

    async def _open(self) -> None:
        """Read the plan, once in the wedding's life."""
        self._show()
        if self._state.plan is not None:
            return
        start = self._state.start
        loaded = await workflow.execute_local_activity_method(
            WeddingActivities.load_plan,
            LoadPlan(organization_id=start.organization_id, wedding_id=start.wedding_id, version=start.plan_version),
            **options.local("read the plan"),
        )
        facts = PlanFacts(version=start.plan_version, **loaded.model_dump(exclude={"reference"}))
        states = {step.id: _unbegun(step.id, step.at) for step in facts.steps}
        self._change(plan=facts, states=states, status="active")
        await self._resolve_agenda()
        self._show()

    async def _keep_time(self) -> None:
        """Turn to the phase and the mode that the hour asks for; end the wedding when its time is over."""
        plan, now = self._plan, workflow.now()
        phase, mode = agenda.phase_at(now, plan.ceremony_at), agenda.mode_at(now, plan.ceremony_at)
        over = now >= plan.ends_at and not self._state.queue
        if (phase, mode) == (self._state.phase, self._state.mode) and not over:
            return
        self._change(phase=phase, mode=mode, status="ended" if over else self._state.status)
        self._show()
        await self._record()

    async def _do_next(self) -> bool:
        """Run the transaction whose turn it is; False when there is none."""
        if self._state.queue:
            request, *rest = self._state.queue
            self._change(queue=tuple(rest))
            await self._carry_out(request)
            return True
        now = workflow.now()
        if await self._decide_the_overdue(now):
            return True
        deeds = requests.scheduled_deeds(self._state, now)
        rechecks = tuple(r for r in self._state.rechecks if r.due_at <= now)
        if not deeds and not rechecks:
            return False
        tx = agenda.ulid(now, workflow.random().getrandbits(80))
        given = self._input(tx, "scheduled", deeds=deeds).model_copy(
            update={
                "rechecks": rechecks,
                "undo_steps": tuple(requests.planned_step(self._state, r.entry.step_id) for r in rechecks),
                "undo_states": tuple(
                    self._state.states[r.entry.step_id]
                    for r in rechecks
                    if r.entry.step_id not in {deed.step.id for deed in deeds}
                ),
            }
        )
        await self._run_child(given)
        return True

    async def _rest(self) -> None:
        """Sleep until something is due or somebody speaks; after a month at most times are resolved anew."""
        plan, now = self._plan, workflow.now()
        points = agenda.turning_points(plan.ceremony_at, plan.ends_at)
        wake = agenda.next_wake(self._state.states.values(), self._state.rechecks, points, now, options.LONGEST_TIMER)
        events = len(self._state.events)
        self._show()
        try:
            await workflow.wait_condition(
                lambda: bool(self._state.queue) or len(self._state.events) != events,
                timeout=wake - now,
                timeout_summary=f"until {wake:%Y-%m-%d %H:%M} UTC",
            )
        except TimeoutError:
            if wake - now >= options.LONGEST_TIMER:
                await self._resolve_agenda()

    def _continue_as_new_when_long(self) -> None:
        """Only with no transaction and no handler running."""
        info = workflow.info()
        is_long = info.is_continue_as_new_suggested() or info.get_current_history_length() > LONG_HISTORY_EVENTS
        if is_long and workflow.all_handlers_finished() and not self._state.queue:
            workflow.continue_as_new(self._state)

    # ---- requests

    async def _carry_out(self, request: TransactionRequest) -> None:
        error = requests.refusal(self._state, request)
        if error is not None and error.code == "already_undone":
            done = TransactionNews(transaction_id=request.id, status="rolled_back")
            await self._record((done,))
        elif error is not None:
            await self._refuse(request, error)
        elif request.decision is not None:
            await self._decide(request.id, request.decision)
        elif request.kind == "orchestrate":
            await self._orchestrate(request)
        elif request.kind == "timeline":
            await self._shift(request.id, request.ceremony_at or self._plan.ceremony_local, request.zone)
        elif request.kind == "undo":
            await self._undo(request)
        else:
            await self._refuse(request, StepError(code="unknown_kind", detail=f"{request.kind} can't be asked for"))

    async def _refuse(self, request: TransactionRequest, error: StepError) -> None:
        await self._record((TransactionNews(transaction_id=request.id, status="cancelled", error=error),))

    async def _orchestrate(self, request: TransactionRequest) -> None:
        states = {step.id: _unbegun(step.id, step.at, self._state.states[step.id]) for step in self._plan.steps}
        self._change(states=states, origin=request.id)
        await self._resolve_agenda()
        await self._run_child(self._input(request.id, "orchestrate", requests.first_deeds(self._state, workflow.now())))

    async def _undo(self, request: TransactionRequest, kind: TransactionKind = "undo") -> None:
        """Undo what is still set by the target. Undoing a timeline change moves the wedding back."""
        target = None if request.everything else request.target
        card = self._state.cards.get(target) if target else None
        if card is not None and card.kind == "timeline":
            if self._state.ceremony_set_by == card.id:
                await self._shift(request.id, card.before_at, card.before_zone, undoes=card.id)
            else:
                detail = f"the time was set anew by {self._state.ceremony_set_by}"
                await self._refuse(request, StepError(code="superseded", detail=detail))
            return
        entries = requests.to_undo(self._state, target)
        given = self._input(request.id, kind).model_copy(
            update={
                "undo": entries,
                "undo_needs": {step.id: step.needs for step in self._plan.steps},
                "undo_steps": tuple(requests.planned_step(self._state, entry.step_id) for entry in entries),
                "undo_states": requests.undo_states(self._state, target, entries),
                "cancel": request.cancel,
            }
        )
        result = await self._run_child(given)
        await self._after_undo(request, target, result)

    async def _after_undo(self, request: TransactionRequest, target: str | None, result: TransactionResult) -> None:
        """The undone transactions, and what was scheduled in their name, say so too."""
        becomes = "cancelled" if request.cancel and result.status == "rolled_back" else result.status
        cards, news = dict(self._state.cards), []
        for card in self._state.cards.values():
            is_touched = target is None or target in (card.id, card.origin)
            if is_touched and card.id != result.id and card.status not in ("rolled_back", "cancelled"):
                cards[card.id] = card.model_copy(update={"status": becomes})
                news.append(TransactionNews(transaction_id=card.id, status=becomes))
        ends = request.everything
        origin = "" if ends or target == self._state.origin else self._state.origin
        status: WeddingStatus = "cancelled" if ends else self._state.status
        self._change(cards=cards, origin=origin, status=status)
        self._show()
        await self._record(tuple(news))

    async def _decide(self, tx: str, decision: Decision) -> None:
        """A person's word on a held step."""
        if decision.choice == "rollback":
            origin = self._state.entries[decision.step_id].origin_tx if decision.step_id in self._state.entries else ""
            request = TransactionRequest(id=tx, kind="scheduled", seq=1, target=origin or self._state.origin)
            await self._undo(request, kind="scheduled")
            return
        if decision.choice == "use" and decision.vendor:
            revised = await self._revise(tx, vendors={decision.step_id: decision.vendor})
            if revised is None:
                return
        if decision.choice == "skip":
            self._state = skipped(self._state, decision.step_id, tx, workflow.now())
            await self._record((), (self._state.states[decision.step_id],))
        deeds = requests.decision_deeds(self._state, decision, workflow.now())
        await self._run_child(self._input(tx, "scheduled", deeds))

    async def _decide_the_overdue(self, now: datetime) -> bool:
        """A hold whose deadline is past takes its default; without one it goes on waiting for a person."""
        for state in agenda.overdue(self._state.states.values(), "held", now):
            choice = requests.planned_step(self._state, state.step_id).otherwise
            decision = Decision(step_id=state.step_id, choice=choice) if choice else None
            request = TransactionRequest(id="default", kind="scheduled", seq=1, decision=decision)
            if decision is None or requests.refusal(self._state, request) is not None:
                states = dict(self._state.states)
                states[state.step_id] = state.model_copy(update={"deadline_at": None})
                self._change(states=states)
                continue
            await self._decide(agenda.ulid(now, workflow.random().getrandbits(80)), decision)
            return True
        return False

    async def _shift(self, tx: str, ceremony_at: str, zone: str | None, undoes: str = "") -> None:
        """Move the wedding: every vendor holds the new time, or all are put back."""
        before = self._plan
        revised = await self._revise(tx, ceremony_at=ceremony_at, zone=zone)
        if revised is None:
            return
        given = self._input(tx, "timeline", requests.change_deeds(self._state))
        result = await self._run_child(given)
        if result.status == "completed":
            cards = dict(self._state.cards)
            cards[tx] = cards[tx].model_copy(update={"before_at": before.ceremony_local, "before_zone": before.zone})
            if undoes:
                cards[undoes] = cards[undoes].model_copy(update={"status": "rolled_back"})
            self._change(ceremony_set_by="" if undoes else tx, cards=cards)
        else:
            self._change(plan=before.model_copy(update={"version": self._plan.version}))
        await self._resolve_agenda()
        news = (TransactionNews(transaction_id=undoes, status="rolled_back"),) if undoes else ()
        await self._record(news if result.status == "completed" else ())

    async def _revise(
        self, tx: str, *, ceremony_at: str | None = None, zone: str | None = None, vendors: dict[str, str] | None = None
    ) -> RevisedPlan | None:
        """Write a new plan version and take it up; None when the change makes no valid plan: refused."""
        start, plan = self._state.start, self._plan
        try:
            revised: RevisedPlan = await workflow.execute_activity_method(
                WeddingActivities.revise_plan,
                RevisePlan(
                    organization_id=start.organization_id,
                    wedding_id=start.wedding_id,
                    transaction_id=tx,
                    from_version=plan.version,
                    ceremony_at=ceremony_at,
                    zone=zone,
                    vendors=vendors or {},
                    now=workflow.now(),
                ),
                **options.records("write a new plan version", self._state.mode, start.organization_id),
            )
        except ActivityError as error:
            failure = read_failure(error)
            reason = StepError(code=failure.reason or failure.code, detail=failure.detail)
            await self._record((TransactionNews(transaction_id=tx, status="cancelled", error=reason),))
            return None
        facts = PlanFacts(version=revised.version, **revised.loaded.model_dump(exclude={"reference"}))
        self._change(plan=facts)
        return revised

    # ---- its transactions

    @property
    def _plan(self) -> PlanFacts:
        if self._state.plan is None:
            raise RuntimeError("the plan is read when the wedding opens")
        return self._state.plan

    def _input(self, tx: str, kind: TransactionKind, deeds: tuple[Deed, ...] = ()) -> TransactionInput:
        """What a transaction is told: all it needs, so that it asks nobody."""
        state, plan, start = self._state, self._plan, self._state.start
        self._change(seq=state.seq + 1)
        doing = {deed.step.id for deed in deeds}
        return TransactionInput(
            organization_id=start.organization_id,
            wedding_id=start.wedding_id,
            reference=start.reference,
            wedding_date=plan.ceremony_local[:10],
            phase=state.phase,
            mode=state.mode,
            locale=plan.locale,
            plan_version=plan.version,
            transaction_id=tx,
            seq=state.seq + 1,
            kind=kind,
            origin_tx=state.origin or tx,
            parallelism=plan.parallelism,
            deeds=deeds,
            results=state.results(),
            satisfied=tuple(
                step_id
                for step_id, step in state.states.items()
                if step.status in saga.SATISFYING and step_id not in doing
            ),
        )

    async def _run_child(self, given: TransactionInput) -> TransactionResult:
        """Run one transaction to its settling and take in what it came to."""
        self._running = given.transaction_id
        self._show()
        start = self._state.start
        handle = await workflow.start_child_workflow(
            TRANSACTION_WORKFLOW,
            given,
            id=transaction_workflow_id(start.wedding_id, given.transaction_id),
            result_type=TransactionResult,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            search_attributes=self._attributes("running"),
            priority=options.priority(self._state.mode, start.organization_id),
            static_summary=f"{given.kind} of {start.wedding_id}",
        )
        self._child = handle
        if self._undo_asked(given.transaction_id):
            await handle.signal("stop", any(r.cancel for r in self._state.queue if self._touches_running(r)))
        await workflow.wait_condition(lambda: given.transaction_id in self._settled or handle.done())
        result = self._settled.pop(given.transaction_id, None) or await _result_of(handle, given)
        self._running, self._child = None, None
        ahead = (result.ended_at - workflow.now()).total_seconds()
        if ahead > 0:
            await workflow.sleep(ahead, summary="until the transaction's clock is reached")
        folded = absorb(self._state, given, result)
        self._state = folded.state
        await self._resolve_agenda()
        self._show()
        if folded.news:
            await self._record(folded.news)
        return result

    def _touches_running(self, request: TransactionRequest) -> bool:
        return self._running is not None and (request.everything or request.target == self._running)

    def _undo_asked(self, tx: str) -> bool:
        return any(request.kind == "undo" and self._touches_running(request) for request in self._state.queue)

    async def _resolve_agenda(self) -> None:
        """Ask when the steps that have not begun are due, and show it."""
        start, states = self._state.start, self._state.states
        later = tuple(
            step.id for step in self._plan.steps if step.at is not None and states[step.id].status in agenda.UNBEGUN
        )
        if not later:
            return
        resolved = await workflow.execute_local_activity_method(
            WeddingActivities.resolve_agenda,
            ResolveAgenda(
                organization_id=start.organization_id,
                wedding_id=start.wedding_id,
                plan_version=self._plan.version,
                steps=later,
                ended={s.step_id: s.ended_at for s in states.values() if s.ended_at and s.status in saga.SATISFYING},
            ),
            **options.local("resolve what is due when"),
        )
        changed = dict(states)
        for step_id in later:
            changed[step_id] = states[step_id].model_copy(update={"due_at": resolved.due.get(step_id)})
        moved = tuple(changed[i] for i in later if changed[i].due_at != states[i].due_at)
        self._change(states=changed)
        if moved:
            await self._record((), moved)

    async def _record(self, news: tuple[TransactionNews, ...] = (), steps: tuple[StepState, ...] = ()) -> None:
        """Write the wedding's own state and what moved on with it."""
        state, plan, start = self._state, self._plan, self._state.start
        self._change(writes=state.writes + 1)
        await workflow.execute_local_activity_method(
            WeddingActivities.record_wedding,
            RecordWedding(
                organization_id=start.organization_id,
                wedding_id=start.wedding_id,
                status=state.status,
                phase=state.phase,
                mode=state.mode,
                plan_version=plan.version,
                ceremony_local=plan.ceremony_local,
                zone=plan.zone,
                ceremony_at=plan.ceremony_at,
                transactions=news,
                steps=steps,
                version=state.writes + 1,
                step_version=state.seq * VERSIONS_PER_TRANSACTION + WEDDING_VERSIONS_FROM + state.writes,
                now=workflow.now(),
            ),
            **options.local("show the wedding"),
        )

    def _attributes(self, status: str) -> TypedSearchAttributes:
        start = self._state.start
        return TypedSearchAttributes(
            [
                SearchAttributePair(_ORGANIZATION, start.organization_id),
                SearchAttributePair(_WEDDING, start.wedding_id),
                SearchAttributePair(_DATE, self._plan.ceremony_local[:10]),
                SearchAttributePair(_PHASE, self._state.phase),
                SearchAttributePair(_STATUS, status),
            ]
        )

    def _show(self) -> None:
        """For the operator: search attributes and current details."""
        state = self._state
        updates: list[SearchAttributeUpdate[Any]] = [
            _ORGANIZATION.value_set(state.start.organization_id),
            _WEDDING.value_set(state.start.wedding_id),
            _PHASE.value_set(state.phase),
        ]
        if state.plan is not None:
            updates.append(_DATE.value_set(state.plan.ceremony_local[:10]))
            updates.append(_VENDOR.value_set(sorted({e.binding.vendor for e in state.entries.values()})))
        newest = max(state.cards.values(), key=lambda card: card.id, default=None)
        if self._running or newest:
            updates.append(_STATUS.value_set("running" if self._running else newest.status if newest else ""))
        workflow.upsert_search_attributes(updates)
        running = f", transaction {self._running} runs" if self._running else ""
        headline = f"**{state.status}**, {state.phase}, mode {state.mode}{running}"
        workflow.set_current_details(wedding_details(headline, state.states.values()))


def _unbegun(step_id: str, at: str | None, before: StepState | None = None) -> StepState:
    rounds = before.round if before else 0
    return StepState(step_id=step_id, status="scheduled" if at else "pending", round=rounds)


async def _result_of(
    handle: workflow.ChildWorkflowHandle[object, TransactionResult], given: TransactionInput
) -> TransactionResult:
    """The result of a child that ended; one that was terminated leaves its steps to a person."""
    try:
        return await handle
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 (a child fails in many ways; each ends here)
        workflow.logger.error("transaction.lost", extra={"transaction_id": given.transaction_id})
        return lost_child(given, type(error).__name__, workflow.now())
