"""Keep a wedding's journal: its carried state, and what it writes for everybody who lists or watches."""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

from workflows import options

with workflow.unsafe.imports_passed_through():
    from activities.weddings import (
        LoadedPlan,
        LoadPlan,
        RecordWedding,
        ResolveAgenda,
        StepRow,
        WeddingActivities,
        WeddingHeader,
    )
    from wedsync.domain.weddings import agenda, saga
    from wedsync.domain.weddings import search_attributes as names
    from wedsync.domain.weddings.step import StepError, StepState, unbegun
    from wedsync.domain.weddings.transaction import TransactionUpdate
    from wedsync.domain.weddings.wedding_state import PlanFacts, WeddingState
    from workflows.details import upsert_changed, wedding_details

_PHASE = SearchAttributeKey.for_keyword(names.WEDDING_PHASE)
_DATE = SearchAttributeKey.for_keyword(names.WEDDING_DATE)
_WEDDING = SearchAttributeKey.for_keyword(names.WEDDING_ID)
_ORGANIZATION = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
_STATUS = SearchAttributeKey.for_keyword(names.TRANSACTION_STATUS)
_VENDOR = SearchAttributeKey.for_keyword_list(names.VENDOR)


class WeddingJournal:
    """Keeps the state of one `Wedding`, which all its parts read and write."""

    def __init__(self, state: WeddingState) -> None:
        self.state = state
        self._writes = state.writes

    # ---- versions

    def next_version(self) -> int:
        """Number the next write: later writes win over earlier ones. The number below it is free, too."""
        self._writes += 2
        return self._writes

    def header(self) -> WeddingHeader:
        """Return whose write it is: the wedding, and the run that this one continues."""
        start = self.state.start
        return WeddingHeader(
            organization_id=start.organization_id,
            wedding_id=start.wedding_id,
            continued_from=workflow.info().continued_run_id or "",
            version=self.next_version(),
            now=workflow.now(),
        )

    def carried(self) -> WeddingState:
        """Return the state from which the next run goes on."""
        return self.state.having_written(self._writes)

    # ---- the plan

    async def open(self) -> None:
        """Read the plan, once in the wedding's life, where no first orchestration does."""
        if self.state.plan is not None:
            return
        start = self.state.start
        loaded = await workflow.execute_local_activity_method(
            WeddingActivities.load_plan,
            LoadPlan(organization_id=start.organization_id, wedding_id=start.wedding_id, version=start.plan_version),
            **options.local("read the plan"),
        )
        self.take_plan(loaded)

    def take_plan(self, loaded: LoadedPlan) -> None:
        """Keep the compiled plan."""
        facts = plan_facts(self.state.start.plan_version, loaded)
        states = {step.id: unbegun(step.id, step.at) for step in facts.steps}
        self.state = self.state.opened(facts, states)

    def later_steps(self) -> tuple[StepState, ...]:
        """List the steps that have a time of their own and have not begun."""
        state = self.state
        timed = (state.states[step.id] for step in state.compiled.steps if step.at is not None)
        return tuple(step for step in timed if step.status in agenda.UNBEGUN)

    def resolving(self) -> ResolveAgenda | None:
        """Ask when the steps that have not begun are due; None: nothing has a time of its own."""
        state, later = self.state, self.later_steps()
        if not later:
            return None
        return ResolveAgenda(
            organization_id=state.start.organization_id,
            wedding_id=state.start.wedding_id,
            plan_version=state.compiled.version,
            steps=later,
            ended={s.step_id: s.ended_at for s in state.states.values() if s.ended_at and s.status in saga.SATISFYING},
        )

    async def resolve_agenda(self) -> None:
        """Resolve anew when the steps that have not begun are due, and show it."""
        wanted = self.resolving()
        if wanted is None:
            return
        resolved = await workflow.execute_local_activity_method(
            WeddingActivities.resolve_agenda, wanted, **options.local("resolve what is due when")
        )
        before = self.state
        self.state = before.due(resolved.due, [step.step_id for step in wanted.steps])
        moved = tuple(s for i, s in self.state.states.items() if s.due_at != before.states[i].due_at)
        if moved:
            await self.record((), moved)

    # ---- what others see

    async def record(
        self,
        updates: tuple[TransactionUpdate, ...] = (),
        steps: tuple[StepState, ...] = (),
        *,
        reminders: tuple[str, ...] = (),
        overdue: dict[str, StepError] | None = None,
        planned: tuple[StepRow, ...] = (),
    ) -> None:
        """Write the wedding's own state and the changes that came with it."""
        await workflow.execute_local_activity_method(
            WeddingActivities.record_wedding,
            RecordWedding(
                header=self.header(),
                wedding=self.state.row(),
                transactions=updates,
                steps=steps,
                reminders=reminders,
                overdue=overdue or {},
                planned=planned,
            ),
            **options.local("show the wedding"),
        )

    async def rebuild(self, running: tuple[StepState, ...]) -> int:
        """Write everything that users list anew, missing rows too; return the number of steps written."""
        await self.open()
        state = self.state
        updates = tuple(
            TransactionUpdate(transaction_id=card.id, kind=card.kind, status=card.status, gaps=card.gaps)
            for card in state.cards.values()
        )
        planned = tuple(
            StepRow(step_id=step.id, service=step.service, capability=step.capability, action=step.action)
            for step in state.compiled.steps
        )
        steps = {**state.states, **{step.step_id: step for step in running}}
        await self.record(updates, tuple(steps.values()), planned=planned)
        return len(steps)

    def show(self, running: str = "") -> None:
        """Show an operator the wedding: search attributes, and current details in the Temporal UI."""
        state = self.state
        updates: list[SearchAttributeUpdate[Any]] = [
            _ORGANIZATION.value_set(state.start.organization_id),
            _WEDDING.value_set(state.start.wedding_id),
            _PHASE.value_set(state.phase),
        ]
        if state.plan is not None:
            updates.append(_DATE.value_set(state.plan.ceremony_local[:10]))
            updates.append(_VENDOR.value_set(sorted({e.binding.vendor for e in state.entries.values()})))
        newest = next(reversed(state.cards.values()), None)
        if running or newest:
            updates.append(_STATUS.value_set("running" if running else newest.status if newest else ""))
        upsert_changed(updates)
        what = f", transaction {running} runs" if running else ""
        headline = f"**{state.status}**, {state.phase}, mode {state.mode}{what}"
        workflow.set_current_details(wedding_details(headline, state.states.values()))


def plan_facts(version: int, loaded: LoadedPlan) -> PlanFacts:
    """Return the plan as the wedding carries it."""
    return PlanFacts.model_validate({"version": version, **{k: v for k, v in loaded if k != "reference"}})
