"""What a wedding does about requests: orchestrate, undo, decide, move."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.errors import read_failure
    from activities.weddings import RevisedPlan, RevisePlan, TransactionNews, WeddingActivities
    from wedsync.domain.weddings import agenda, requests
    from wedsync.domain.weddings.ledger import StepError, StepState, TransactionResult
    from wedsync.domain.weddings.messages import Decision, TransactionKind, TransactionRequest
    from wedsync.domain.weddings.wedding_state import PlanFacts
    from workflows.wedding_desk import WeddingDesk, unbegun
    from workflows.wedding_ledger import skipped


class Requests:
    """Carries requests out, one at a time."""

    def __init__(self, desk: WeddingDesk) -> None:
        self._desk = desk

    async def carry_out(self, request: TransactionRequest) -> None:
        """Do what was asked, or write why not."""
        error = requests.refusal(self._desk.state, request)
        if error is not None and error.code == "already_undone":
            done = TransactionNews(transaction_id=request.id, status="rolled_back")
            await self._desk.record((done,))
        elif error is not None:
            await self._refuse(request, error)
        elif request.decision is not None:
            await self._decide(request.id, request.decision)
        elif request.kind == "orchestrate":
            await self._orchestrate(request)
        elif request.kind == "timeline":
            await self._shift(request.id, request.ceremony_at or self._desk.plan.ceremony_local, request.zone)
        elif request.kind == "undo":
            await self._undo(request)
        else:
            await self._refuse(request, StepError(code="unknown_kind", detail=f"{request.kind} can't be asked for"))

    async def _refuse(self, request: TransactionRequest, error: StepError) -> None:
        await self._desk.record((TransactionNews(transaction_id=request.id, status="cancelled", error=error),))

    async def _orchestrate(self, request: TransactionRequest) -> None:
        states = {
            step.id: unbegun(step.id, step.at, self._desk.state.states[step.id]) for step in self._desk.plan.steps
        }
        self._desk.change(states=states, origin=request.id)
        await self._desk.resolve_agenda()
        await self._desk.run_child(
            self._desk.input(request.id, "orchestrate", requests.first_deeds(self._desk.state, workflow.now()))
        )

    async def _undo(self, request: TransactionRequest, kind: TransactionKind = "undo") -> None:
        """Undo what is still set by the target. Undoing a timeline change moves the wedding back."""
        target = None if request.everything else request.target
        card = self._desk.state.cards.get(target) if target else None
        if card is not None and card.kind == "timeline":
            error = requests.move_back_refusal(self._desk.state, card)
            if error is None:
                await self._shift(request.id, card.before_at, card.before_zone, undoes=card.id)
            else:
                await self._refuse(request, error)
            return
        entries = requests.to_undo(self._desk.state, target)
        looks = requests.left_behind(self._desk.state, target, workflow.now())
        touched = (*entries, *(look.entry for look in looks))
        given = self._desk.input(request.id, kind).model_copy(
            update={
                "rolls_back": True,
                "undo": entries,
                "undo_needs": {step.id: step.needs for step in self._desk.plan.steps},
                "undo_steps": tuple(requests.planned_step(self._desk.state, entry.step_id) for entry in touched),
                "undo_states": requests.undo_states(self._desk.state, target, touched),
                "rechecks": looks,
                "superseded": requests.superseded(target, entries),
                "cancel": request.cancel,
            }
        )
        result = await self._desk.run_child(given)
        await self._after_undo(request, target, result)

    async def _after_undo(self, request: TransactionRequest, target: str | None, result: TransactionResult) -> None:
        """The undone transactions, and what was scheduled in their name, say so too."""
        becomes = "cancelled" if request.cancel and result.status == "rolled_back" else result.status
        cards, news = dict(self._desk.state.cards), []
        for card in self._desk.state.cards.values():
            is_touched = target is None or target in (card.id, card.origin)
            if is_touched and card.id != result.id and card.status not in ("rolled_back", "cancelled"):
                cards[card.id] = card.model_copy(update={"status": becomes, "cancels": request.cancel})
                news.append(TransactionNews(transaction_id=card.id, status=becomes))
        ends = request.everything
        origin = "" if ends or target == self._desk.state.origin else self._desk.state.origin
        self._desk.change(cards=cards, origin=origin)
        if ends:
            self._desk.change(status=self._desk.ended_as("cancelled"))
        self._desk.show()
        await self._desk.record(tuple(news))

    async def _decide(self, tx: str, decision: Decision) -> None:
        """A person's word on a held step."""
        if decision.choice == "rollback":
            await self._undo(self._rollback(tx, decision.step_id), kind="scheduled")
            return
        if decision.choice == "use" and decision.vendor:
            revised = await self._revise(tx, vendors={decision.step_id: decision.vendor})
            if revised is None:
                return
        if decision.choice == "skip":
            self._desk.state = skipped(self._desk.state, decision.step_id, tx, workflow.now())
            await self._desk.record((), (self._desk.state.states[decision.step_id],))
        deeds = requests.decision_deeds(self._desk.state, decision, workflow.now())
        await self._desk.run_child(self._desk.input(tx, "scheduled", deeds))

    def _rollback(self, tx: str, step_id: str) -> TransactionRequest:
        """The undo that a held step's rollback is."""
        state = self._desk.state
        target, whole = requests.rollback_target(state, step_id), requests.origin_of(state, step_id)
        if target != whole and not workflow.patched("rollback-of-the-holder"):
            target = whole
        return TransactionRequest(id=tx, kind="scheduled", seq=1, target=target)

    async def decide_the_overdue(self, now: datetime) -> bool:
        """A hold whose deadline is past takes its default; without one its people are told, and asked again."""
        for state in agenda.overdue(self._desk.state.states.values(), "held", now):
            default = self._default_of(state.step_id)
            if isinstance(default, Decision):
                await self._decide(self._desk.new_id(), default)
                return True
            await self._put_off(state, default, now)
        return False

    def _default_of(self, step_id: str) -> Decision | StepError:
        """What is done when nobody decides about the held step, or why nothing is."""
        choice = requests.planned_step(self._desk.state, step_id).otherwise
        if choice is None:
            return StepError(code="no_default", detail="nobody decided in time, and the plan gives no default")
        decision = Decision(step_id=step_id, choice=choice)
        request = TransactionRequest(id="default", kind="scheduled", seq=1, decision=decision)
        return requests.refusal(self._desk.state, request) or decision

    async def _put_off(self, held: StepState, why: StepError, now: datetime) -> None:
        is_said = workflow.patched("overdue-hold-said")
        patience = timedelta(seconds=requests.planned_step(self._desk.state, held.step_id).decide_within_seconds)
        later = agenda.put_off(held, patience, now) if is_said else held.model_copy(update={"deadline_at": None})
        self._desk.change(states={**self._desk.state.states, held.step_id: later})
        if is_said:
            await self._desk.record(overdue={held.step_id: why})

    async def _shift(self, tx: str, ceremony_at: str, zone: str | None, undoes: str = "") -> None:
        """Move the wedding: every vendor holds the new time, or all are put back."""
        before = self._desk.plan
        revised = await self._revise(tx, ceremony_at=ceremony_at, zone=zone)
        if revised is None:
            return
        given = self._desk.input(tx, "timeline", requests.change_deeds(self._desk.state))
        result = await self._desk.run_child(given)
        if result.status == "completed":
            self._take_over(tx, before, undoes)
        else:
            self._desk.change(plan=before)
        await self._desk.resolve_agenda()
        news = (TransactionNews(transaction_id=undoes, status="rolled_back"),) if undoes else ()
        await self._desk.record(news if result.status == "completed" else ())

    def _take_over(self, tx: str, before: PlanFacts, undoes: str) -> None:
        """The new time stands; who set the one before is remembered, and stands again when that is undone."""
        state = self._desk.state
        cards = dict(state.cards)
        moved = {"before_at": before.ceremony_local, "before_zone": before.zone, "set_before": state.ceremony_set_by}
        cards[tx] = cards[tx].model_copy(update=moved)
        setter = tx
        if undoes:
            cards[undoes] = cards[undoes].model_copy(update={"status": "rolled_back"})
            setter = cards[undoes].set_before
            if setter and not workflow.patched("setter-restored"):
                setter = ""
        self._desk.change(ceremony_set_by=setter, cards=cards)

    async def _revise(
        self, tx: str, *, ceremony_at: str | None = None, zone: str | None = None, vendors: dict[str, str] | None = None
    ) -> RevisedPlan | None:
        """Write a new plan version and take it up; None when the change makes no valid plan: refused."""
        start, plan = self._desk.state.start, self._desk.plan
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
                **options.records("write a new plan version", self._desk.state.mode, start.organization_id),
            )
        except ActivityError as error:
            failure = read_failure(error)
            reason = StepError(code=failure.reason or failure.code, detail=failure.detail)
            await self._desk.record((TransactionNews(transaction_id=tx, status="cancelled", error=reason),))
            return None
        facts = PlanFacts(version=revised.version, **revised.loaded.model_dump(exclude={"reference"}))
        self._desk.change(plan=facts)
        return revised
