"""Resolve when the steps that are not due yet will be, by the time zone data at hand."""

from __future__ import annotations

from datetime import datetime

from wedsync.domain.weddings import times
from wedsync.domain.weddings.compile import compile_plan
from wedsync.domain.weddings.messages import Message
from wedsync.usecases.weddings.load_plan import PlanShelf


class ResolveAgenda(Message):
    """The steps asked about, and when the steps that they may be anchored to ended."""

    organization_id: str
    wedding_id: str
    plan_version: int
    steps: tuple[str, ...]
    ended: dict[str, datetime]


class Agenda(Message):
    """`due`: the instants that are known. `after`: steps that wait for another step's end. The rest is due at once."""

    due: dict[str, datetime]
    after: dict[str, str]
    ceremony_at: datetime
    tzdata_version: str


async def resolve_agenda(shelf: PlanShelf, wanted: ResolveAgenda) -> Agenda:
    """The instants by this process's time zone data, whose version is recorded with them."""
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.plan_version)
    due: dict[str, datetime] = {}
    after: dict[str, str] = {}
    for step in compile_plan(plan, shelf.manifests):
        if step.id not in wanted.steps:
            continue
        match times.due_at(step, plan, wanted.ended):
            case times.At(instant):
                due[step.id] = instant
            case times.After(anchor):
                after[step.id] = anchor
    return Agenda(due=due, after=after, ceremony_at=times.ceremony_instant(plan), tzdata_version=times.tzdata_version())
