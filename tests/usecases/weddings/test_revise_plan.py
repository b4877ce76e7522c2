from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.stage import Staged
from wedsync.domain.errors import InvalidInput
from wedsync.store.weddings import projection
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.revise_plan import RevisePlan, revise_plan

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


def revision(wedding: Staged, tx: str, **change: Any) -> RevisePlan:
    return RevisePlan(
        organization_id=wedding.organization_id, wedding_id=wedding.id, transaction_id=tx, from_version=1, now=NOW,
        **change,
    )  # fmt: skip


async def test_a_revision_is_written_once_and_one_that_makes_no_plan_never(wedding: Staged, shelf: PlanShelf) -> None:
    db = wedding.stage.db
    moved = revision(wedding, "one", ceremony_at="2028-06-19T16:00", zone="Asia/Tokyo")
    first, again = await revise_plan(db, shelf, moved), await revise_plan(db, shelf, moved)
    assert (first.version, again.version, first.loaded.zone) == (2, 2, "Asia/Tokyo")
    with pytest.raises(InvalidInput):
        await revise_plan(db, shelf, revision(wedding, "two", vendors={"venue": "stripe"}))
    other = await revise_plan(db, shelf, revision(wedding, "three", vendors={"venue": "vsco"}))
    assert (other.version, other.loaded.steps[0].vendors) == (3, ("generic", "vsco"))


async def test_a_plan_version_is_written_once_by_its_transaction_and_numbered_anew(wedding: Staged) -> None:
    async def add(tx: str) -> int:
        async with wedding.stage.db.tenant(wedding.organization_id) as conn:
            return await projection.write_plan(
                conn, organization_id=wedding.organization_id, wedding_id=wedding.id, body=json.dumps({"by": tx}),
                transaction_id=tx, now=NOW,
            )  # fmt: skip

    assert [await add(tx) for tx in ("one", "two", "one", "two", "three")] == [2, 3, 2, 3, 4]
    assert [body.get("by") for body in await wedding.plan_versions()] == [None, "one", "two", "three"]
