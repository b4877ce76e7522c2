"""A wedding's desk: its carried state, and what it has done with it: run a transaction, resolve times, show itself."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import ACTIVITY_FAILED
    from activities.weddings import (
        LoadPlan,
        ReadResult,
        RecordWedding,
        ResolveAgenda,
        StepRow,
        TransactionNews,
        WeddingActivities,
    )
    from wedsync.domain.weddings import agenda, closing, requests, saga
    from wedsync.domain.weddings import search_attributes as names
    from wedsync.domain.weddings.ledger import Deed, StepError, StepState, TransactionInput, TransactionResult
    from wedsync.domain.weddings.messages import (
        TRANSACTION_WORKFLOW,
        TransactionKind,
        TransactionRequest,
        transaction_workflow_id,
    )
    from wedsync.domain.weddings.wedding_state import ClosingStatus, PlanFacts, WeddingState, WeddingStatus
    from workflows.board import VERSIONS_PER_TRANSACTION, WEDDING_VERSIONS_FROM
    from workflows.details import upsert_changed, wedding_details
    from workflows.wedding_ledger import absorb, lost_child

#: How often the row of a transaction is looked at that an earlier run had started.
_ASK_AGAIN = timedelta(seconds=10)
_PHASE = SearchAttributeKey.for_keyword(names.WEDDING_PHASE)
_DATE = SearchAttributeKey.for_keyword(names.WEDDING_DATE)
_WEDDING = SearchAttributeKey.for_keyword(names.WEDDING_ID)
_ORGANIZATION = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
_STATUS = SearchAttributeKey.for_keyword(names.TRANSACTION_STATUS)
_VENDOR = SearchAttributeKey.for_keyword_list(names.VENDOR)


class WeddingDesk:
    """The state of one `Wedding`, and the deeds on it that more than one chapter of its life needs."""

    def __init__(self, state: WeddingState) -> None:
        self.state = state
        self.settled: dict[str, TransactionResult] = {}
        #: Counts the vendors' words that may matter.
        self.heard = 0
        #: The id of the transaction that runs.
        self.running: str | None = None
        self.child: workflow.ChildWorkflowHandle[Any, Any] | None = None
        #: The steps it is about: until it is taken in, only it knows how they stand.
        self._in_its_hands: frozenset[str] = frozenset()

    def change(self, **changes: object) -> None:
        """Replace parts of the carried state."""
        self.state = self.state.model_copy(update=changes)

    def new_id(self) -> str:
        """A ULID, the same on replay."""
        return agenda.ulid(workflow.now(), workflow.random().getrandbits(80))

    async def open(self) -> None:
        """Read the plan, once in the wedding's life."""
        if self.state.plan is not None:
            self.show()
            return
        start = self.state.start
        loaded = await workflow.execute_local_activity_method(
            WeddingActivities.load_plan,
            LoadPlan(organization_id=start.organization_id, wedding_id=start.wedding_id, version=start.plan_version),
            **options.local("read the plan"),
        )
        facts = PlanFacts(version=start.plan_version, **loaded.model_dump(exclude={"reference"}))
        states = {step.id: unbegun(step.id, step.at) for step in facts.steps}
        self.change(plan=facts, states=states, status="active")
        await self.resolve_agenda()

    @property
    def plan(self) -> PlanFacts:
        """The compiled plan."""
        if self.state.plan is None:
            raise RuntimeError("the plan is read when the wedding opens")
        return self.state.plan

    def input(self, tx: str, kind: TransactionKind, deeds: tuple[Deed, ...] = ()) -> TransactionInput:
        """What a transaction is told: all it needs, so that it asks nobody."""
        state, plan, start = self.state, self.plan, self.state.start
        self.change(seq=state.seq + 1)
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
            deeds=requests.on_standing_ground(state, deeds),
            results=state.results(),
            told_by="settling",
            satisfied=tuple(i for i in state.states if i not in doing and requests.stands(state, i)),
        )

    async def run_child(self, given: TransactionInput) -> TransactionResult:
        """Run one transaction to its settling and take in what it came to."""
        self.running, self._in_its_hands = given.transaction_id, given.step_ids()
        self.show()
        try:
            result = await self._settled_child(given)
        except WorkflowAlreadyStartedError:
            result = await self._settled_before(given)
        self.running, self.child = None, None
        ahead = (result.ended_at - workflow.now()).total_seconds()
        if ahead > 0:
            await workflow.sleep(ahead, summary="until the transaction's clock is reached")
        folded = absorb(self.state, given, result)
        if folded.state.leftovers != self.state.leftovers and not workflow.patched("leftovers-kept"):
            folded = folded._replace(state=folded.state.model_copy(update={"leftovers": self.state.leftovers}))
        self.state, self._in_its_hands = folded.state, frozenset()
        await self.resolve_agenda()
        self.show()
        if folded.news or folded.steps:
            await self.record(folded.news, folded.steps)
        return result

    async def _settled_child(self, given: TransactionInput) -> TransactionResult:
        """Start the transaction's workflow and await its word, or its end without one."""
        start = self.state.start
        handle = await workflow.start_child_workflow(
            TRANSACTION_WORKFLOW,
            given,
            id=transaction_workflow_id(start.wedding_id, given.transaction_id),
            # Never twice, not even for a wedding that an operator reset to before it.
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            search_attributes=self._attributes("running"),
            priority=options.priority(self.state.mode, start.organization_id),
            static_summary=f"{given.kind} of {start.wedding_id}",
        )
        self.child = handle
        if self._undo_asked(given.transaction_id):
            await self.stop_child(cancel=any(r.cancel for r in self.state.queue if self.touches_running(r)))
        await workflow.wait_condition(lambda: given.transaction_id in self.settled or handle.done())
        return self.settled.pop(given.transaction_id, None) or await _result_of(handle, given)

    async def _settled_before(self, given: TransactionInput) -> TransactionResult:
        """The outcome of a transaction that an earlier run of this wedding had started: its word, or its row."""
        tx = given.transaction_id
        while tx not in self.settled:
            try:
                return await _read_result(given)
            except ACTIVITY_FAILED:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(
                        lambda: tx in self.settled, timeout=_ASK_AGAIN, timeout_summary="until it has settled"
                    )
        return self.settled.pop(tx)

    async def stop_child(self, *, cancel: bool) -> None:
        """Ask the running transaction to start nothing new and to undo; one that has just ended needs no asking."""
        if self.child is not None:
            with contextlib.suppress(ApplicationError):
                await self.child.signal("stop", cancel)

    def touches_running(self, request: TransactionRequest) -> bool:
        """Whether an undo is about the transaction that runs."""
        return self.running is not None and (request.everything or request.target == self.running)

    def _undo_asked(self, tx: str) -> bool:
        return any(request.kind == "undo" and self.touches_running(request) for request in self.state.queue)

    async def resolve_agenda(self) -> None:
        """Ask when the steps that have not begun are due, and show it."""
        start, states = self.state.start, self.state.states
        later = tuple(
            step.id for step in self.plan.steps if step.at is not None and states[step.id].status in agenda.UNBEGUN
        )
        if not later:
            return
        resolved = await workflow.execute_local_activity_method(
            WeddingActivities.resolve_agenda,
            ResolveAgenda(
                organization_id=start.organization_id,
                wedding_id=start.wedding_id,
                plan_version=self.plan.version,
                steps=later,
                ended={s.step_id: s.ended_at for s in states.values() if s.ended_at and s.status in saga.SATISFYING},
            ),
            **options.local("resolve what is due when"),
        )
        changed = dict(states)
        for step_id in later:
            changed[step_id] = states[step_id].model_copy(update={"due_at": resolved.due.get(step_id)})
        moved = tuple(changed[i] for i in later if changed[i].due_at != states[i].due_at)
        self.change(states=changed)
        if moved:
            await self.record((), moved)

    def ended_as(self, becomes: ClosingStatus) -> WeddingStatus:
        """The status of a wedding that ends now: it lives on as `closing` while something of it is open."""
        if not closing.open_matters(self.state) or not workflow.patched("closing"):
            return becomes
        self.change(closing=closing.closing_as(becomes, self.plan.ends_at, workflow.now()))
        return "closing"

    async def rebuild(self) -> int:
        """Write everything that users list anew, rows that are gone too; returns the number of steps written.

        A running transaction writes its steps itself, and what the wedding wrote of them now would outrank that.
        """
        state = self.state
        news = tuple(
            TransactionNews(transaction_id=card.id, kind=card.kind, status=card.status, gaps=card.gaps)
            for card in state.cards.values()
        )
        planned = tuple(
            StepRow(step_id=step.id, service=step.service, capability=step.capability, action=step.action)
            for step in self.plan.steps
        )
        steps = tuple(step for step_id, step in state.states.items() if step_id not in self._in_its_hands)
        await self.record(news, steps, planned=planned)
        return len(steps)

    async def record(
        self,
        news: tuple[TransactionNews, ...] = (),
        steps: tuple[StepState, ...] = (),
        *,
        reminders: tuple[str, ...] = (),
        overdue: dict[str, StepError] | None = None,
        planned: tuple[StepRow, ...] = (),
    ) -> None:
        """Write the wedding's own state and what moved on with it."""
        state, plan, start = self.state, self.plan, self.state.start
        self.change(writes=state.writes + 1)
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
                reminders=reminders,
                overdue=overdue or {},
                planned=planned,
                version=state.writes + 1,
                step_version=state.seq * VERSIONS_PER_TRANSACTION + WEDDING_VERSIONS_FROM + state.writes,
                now=workflow.now(),
            ),
            **options.local("show the wedding"),
        )

    def _attributes(self, status: str) -> TypedSearchAttributes:
        start = self.state.start
        return TypedSearchAttributes(
            [
                SearchAttributePair(_ORGANIZATION, start.organization_id),
                SearchAttributePair(_WEDDING, start.wedding_id),
                SearchAttributePair(_DATE, self.plan.ceremony_local[:10]),
                SearchAttributePair(_PHASE, self.state.phase),
                SearchAttributePair(_STATUS, status),
            ]
        )

    def show(self) -> None:
        """For the operator: search attributes and current details."""
        state = self.state
        updates: list[SearchAttributeUpdate[Any]] = [
            _ORGANIZATION.value_set(state.start.organization_id),
            _WEDDING.value_set(state.start.wedding_id),
            _PHASE.value_set(state.phase),
        ]
        if state.plan is not None:
            updates.append(_DATE.value_set(state.plan.ceremony_local[:10]))
            updates.append(_VENDOR.value_set(sorted({e.binding.vendor for e in state.entries.values()})))
        newest = max(state.cards.values(), key=lambda card: card.id, default=None)
        if self.running or newest:
            updates.append(_STATUS.value_set("running" if self.running else newest.status if newest else ""))
        upsert_changed(updates)
        running = f", transaction {self.running} runs" if self.running else ""
        headline = f"**{state.status}**, {state.phase}, mode {state.mode}{running}"
        workflow.set_current_details(wedding_details(headline, state.states.values()))


def unbegun(step_id: str, at: str | None, before: StepState | None = None) -> StepState:
    """A step that has not begun; its rounds go on from an earlier orchestration's."""
    rounds = before.round if before else 0
    return StepState(step_id=step_id, status="scheduled" if at else "pending", round=rounds)


async def _read_result(given: TransactionInput) -> TransactionResult:
    """What Postgres holds of the transaction. Raises ApplicationError when it has not settled."""
    return await workflow.execute_local_activity_method(
        WeddingActivities.read_result,
        ReadResult(
            organization_id=given.organization_id,
            wedding_id=given.wedding_id,
            transaction_id=given.transaction_id,
        ),
        **options.local("read what it came to"),
    )


async def _result_of(handle: workflow.ChildWorkflowHandle[Any, Any], given: TransactionInput) -> TransactionResult:
    """The result of a child that ended without a signal; one that was terminated leaves its steps to a person."""
    try:
        await handle
        return await _read_result(given)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 (a child fails in many ways; each ends here)
        workflow.logger.error("transaction.lost", extra={"transaction_id": given.transaction_id})
        keeps = bool(given.rechecks) and workflow.patched("lost-looks-kept")
        return lost_child(given, type(error).__name__, workflow.now(), keeps_looks=keeps)
