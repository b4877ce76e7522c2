from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.support.stage import Staged
from wedsync.domain.plans import times
from wedsync.domain.weddings.step import unbegun
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.resolve_agenda import ResolveAgenda, resolve_agenda

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


async def test_the_agenda_knows_instants_and_what_waits_for_another_step(wedding: Staged, shelf: PlanShelf) -> None:
    asked = ResolveAgenda(
        organization_id=wedding.organization_id, wedding_id=wedding.id, plan_version=1,
        steps=tuple(unbegun(step_id, None) for step_id in ("venue", "event", "after")), ended={},
    )  # fmt: skip
    first = await resolve_agenda(shelf, asked)
    assert first.due == {"event": times.ceremony_instant(wedding.plan) - timedelta(days=3)}
    assert first.tzdata_version == times.tzdata_version()
    later = await resolve_agenda(shelf, asked.model_copy(update={"ended": {"event": NOW}}))
    assert later.due == {**first.due, "after": NOW + timedelta(days=1)}
    few = await resolve_agenda(shelf, asked.model_copy(update={"steps": (unbegun("venue", None),)}))
    assert few.due == {}
