"""Resolve by the present time zone data when later steps will be due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from wedsync.domain.plans import times
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.step import StepState
from wedsync.usecases.plans.load import PlanShelf


class ResolveAgenda(Message):
    """Steps to resolve, and when the steps that they may be anchored to ended."""

    organization_id: str
    wedding_id: str
    plan_version: int
    steps: tuple[StepState, ...]
    ended: dict[str, datetime]


class Agenda(Message):
    """`due`: the known instants; a step that is not in it waits for another one's end."""

    due: dict[str, datetime]
    tzdata_version: str


async def resolve_agenda(shelf: PlanShelf, wanted: ResolveAgenda) -> Agenda:
    """Resolve the instants by this process's time zone data, whose version is recorded with them."""
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.plan_version)
    asked = {step.step_id for step in wanted.steps}
    compiled = shelf.compiled(wanted.wedding_id, wanted.plan_version, plan)
    due = due_instants(plan, (step for i, step in compiled.items() if i in asked), wanted.ended)
    return Agenda(due=due, tzdata_version=times.tzdata_version())


def due_instants(plan: Plan, steps: Iterable[PlannedStep], ended: Mapping[str, datetime]) -> dict[str, datetime]:
    """Return the instants at which steps with a time of their own are due, as far as they are known."""
    found = {step.id: times.due_at(step, plan, ended) for step in steps}
    return {step_id: due.at for step_id, due in found.items() if isinstance(due, times.At)}
