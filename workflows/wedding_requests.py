"""Carry out a wedding's requests: orchestrate, undo, decide, move."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from activities.weddings import RevisedPlan, RevisePlan, WeddingActivities
    from wedsync.domain.weddings import agenda, requests
    from wedsync.domain.weddings.apply_result import skip
    from wedsync.domain.weddings.messages import Decision, TransactionKind, TransactionRequest
    from wedsync.domain.weddings.step import StepError, StepState, step_error
    from wedsync.domain.weddings.transaction import TransactionUpdate
    from wedsync.domain.weddings.wedding_state import Course, PlanFacts
    from workflows.wedding_journal import WeddingJournal, plan_facts
    from workflows.wedding_transactions import TransactionRunner


class Requests:
    """Carries requests out, one at a time."""

    def __init__(self, journal: WeddingJournal, runner: TransactionRunner) -> None:
        self._journal = journal
        self._runner = runner

    async def perform_call(self, request: TransactionRequest) -> None:
        """Do what was requested, or write why not."""
        if request.kind != "orchestrate":
            await self._journal.open()
        error = requests.refusal(self._journal.state, request)
        if error is not None and error.code == "already_undone":
            await self._journal.record((TransactionUpdate(transaction_id=request.id, status="rolled_back"),))
        elif error is not None:
            await self.refuse(request.id, error)
        elif request.decision is not None:
            await self._decide(request.id, request.decision)
        elif request.kind == "orchestrate":
            await self._runner.orchestrate(request)
        elif request.kind == "timeline":
            await self._move(request.id, request.ceremony_at or self._plan.ceremony_local, request.zone)
        elif request.kind == "undo":
            await self._undo(request)
        else:
            await self.refuse(request.id, StepError(code="unknown_kind", detail=f"{request.kind} can't be asked for"))

    @property
    def _plan(self) -> PlanFacts:
        return self._journal.state.compiled

    async def refuse(self, tx: str, error: StepError) -> None:
        """Write why nothing is done."""
        await self._journal.record((TransactionUpdate(transaction_id=tx, status="cancelled", error=error),))

    async def _undo(self, request: TransactionRequest, kind: TransactionKind = "undo") -> None:
        """Undo what is still set by the target. Undoing a timeline change moves the wedding back."""
        state = self._journal.state
        target = None if request.everything else request.target
        card = state.cards.get(target) if target else None
        if card is not None and card.kind == "timeline":
            error = requests.move_back_refusal(state, card)
            if error is None:
                await self._move(request.id, card.before_at, card.before_zone, undoes=card.id)
            else:
                await self.refuse(request.id, error)
            return
        entries = requests.to_undo(state, target)
        left = requests.left_behind(state, target, workflow.now())
        touched = (*entries, *(recheck.entry for recheck in left))
        given = self._runner.input(request.id, kind).undoing(
            entries,
            {step.id: step.needs for step in self._plan.steps},
            tuple(requests.planned_step(state, entry.step_id) for entry in touched),
            requests.undo_states(state, target, touched),
            left,
            requests.superseded(target, entries),
            cancel=request.cancel,
        )
        await self._runner.run_input(given, Course(request=request, target=target, is_undo=True))

    async def _decide(self, tx: str, decision: Decision) -> None:
        """Do as a person decided about a held step."""
        journal = self._journal
        if decision.choice == "rollback":
            target = requests.rollback_target(journal.state, decision.step_id)
            await self._undo(TransactionRequest(id=tx, kind="scheduled", seq=1, target=target), kind="scheduled")
            return
        chosen = {decision.step_id: decision.vendor} if decision.choice == "use" and decision.vendor else {}
        if chosen and not await self._revise(tx, vendors=chosen):
            return
        if decision.choice == "skip":
            journal.state = skip(journal.state, decision.step_id, tx, workflow.now())
            await journal.record((), (journal.state.states[decision.step_id],))
        tasks = requests.decision_tasks(journal.state, decision, workflow.now())
        await self._runner.run(tx, "scheduled", Course(), tasks)

    async def decide_the_overdue(self, now: datetime) -> bool:
        """Take the default of a hold whose deadline is past; without one, notify its people and ask again."""
        for state in agenda.overdue(self._journal.state.states.values(), "held", now):
            default = self._default_of(state.step_id)
            if isinstance(default, Decision):
                await self._decide(self._runner.new_id(), default)
                return True
            await self._put_off(state, default, now)
        return False

    def _default_of(self, step_id: str) -> Decision | StepError:
        """Return what is done when nobody decides about the held step, or why nothing is."""
        choice = requests.planned_step(self._journal.state, step_id).otherwise
        if choice is None:
            return StepError(code="no_default", detail="nobody decided in time, and the plan gives no default")
        decision = Decision(step_id=step_id, choice=choice)
        request = TransactionRequest(id="default", kind="scheduled", seq=1, decision=decision)
        return requests.refusal(self._journal.state, request) or decision

    async def _put_off(self, held: StepState, why: StepError, now: datetime) -> None:
        journal = self._journal
        patience = timedelta(seconds=requests.planned_step(journal.state, held.step_id).decide_within_seconds)
        journal.state = journal.state.with_steps(held.put_off(patience, now))
        await journal.record(overdue={held.step_id: why})

    async def _move(self, tx: str, ceremony_at: str, zone: str | None, undoes: str = "") -> None:
        """Move the wedding: every vendor holds the new time, or all are put back."""
        before = self._plan
        if await self._revise(tx, ceremony_at=ceremony_at, zone=zone):
            tasks = requests.change_tasks(self._journal.state)
            await self._runner.run(tx, "timeline", Course(before=before, undoes=undoes), tasks)

    async def _revise(
        self, tx: str, *, ceremony_at: str | None = None, zone: str | None = None, vendors: dict[str, str] | None = None
    ) -> bool:
        """Write a new plan version and adopt it; False when the change makes no valid plan: refused."""
        journal, start = self._journal, self._journal.state.start
        try:
            revised: RevisedPlan = await workflow.execute_activity_method(
                WeddingActivities.revise_plan,
                RevisePlan(
                    organization_id=start.organization_id,
                    wedding_id=start.wedding_id,
                    transaction_id=tx,
                    from_version=self._plan.version,
                    ceremony_at=ceremony_at,
                    zone=zone,
                    vendors=vendors or {},
                    now=workflow.now(),
                ),
                **options.records("write a new plan version", journal.state.mode, start.organization_id),
            )
        except ActivityError as error:
            await self.refuse(tx, step_error(read_failure(error)))
            return False
        journal.state = journal.state.planned_anew(plan_facts(revised.version, revised.loaded))
        return True
