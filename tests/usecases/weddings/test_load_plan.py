from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.stage import Staged
from wedsync.domain.errors import NotFound
from wedsync.domain.plans.fill_inputs import facts_of
from wedsync.kit.ids import new_id
from wedsync.usecases.plans.load import LoadPlan, PlanShelf, load_plan


async def test_a_plan_is_read_compiled_with_its_times_resolved(wedding: Staged, shelf: PlanShelf) -> None:
    wanted = LoadPlan(organization_id=wedding.organization_id, wedding_id=wedding.id, version=1)
    loaded = await load_plan(shelf, wanted)
    assert [step.id for step in loaded.steps] == ["venue", "event", "after"]
    assert loaded.ends_at - loaded.ceremony_at == timedelta(days=2)
    assert loaded.tzdata_version != ""
    assert loaded.wedding == facts_of(wedding.plan)
    with pytest.raises(NotFound):
        await load_plan(shelf, wanted.model_copy(update={"version": 9}))


async def test_another_organizations_plan_is_not_found(wedding: Staged, shelf: PlanShelf) -> None:
    with pytest.raises(NotFound):
        await load_plan(shelf, LoadPlan(organization_id=new_id(), wedding_id=wedding.id, version=1))
