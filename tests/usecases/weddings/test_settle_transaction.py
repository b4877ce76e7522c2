"""A transaction settles by one write, of all that moved on with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.stage import Staged
from wedsync.domain.plans import times
from wedsync.domain.vendors.manifest import ActionSpec
from wedsync.domain.weddings.ledger import Binding, LedgerEntry
from wedsync.domain.weddings.projection import WeddingRow
from wedsync.domain.weddings.step import StepState, unbegun
from wedsync.domain.weddings.transaction import TransactionResult, TransactionUpdate
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.resolve_agenda import ResolveAgenda
from wedsync.usecases.weddings.settle_transaction import Settled, SettleTransaction, settle_transaction
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def settle(writer: HeldWriter, shelf: PlanShelf, header: WeddingHeader) -> Any:
    async def settled(tx: str, status: Any = "completed", version: int = 12, **more: Any) -> Settled:
        about = {name: more.pop(name) for name in ("steps_of", "entries") if name in more}
        result = TransactionResult(
            id=tx, seq=1, kind="orchestrate", status=status, started_at=NOW, ended_at=NOW,
            steps=about.get("steps_of", ()), entries=about.get("entries", ()),
        )  # fmt: skip
        values = {"header": header.model_copy(update={"version": version}), "wedding": None, "result": result, **more}
        return await settle_transaction(writer, shelf, SettleTransaction.model_validate(values), "one")

    return settled


async def count(wedding: Staged, table: str) -> int:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        sql = f"SELECT count(*) FROM {table} WHERE wedding_id = :w"
        return int(await conn.scalar(text(sql), {"w": wedding.id}) or 0)


async def test_a_settled_result_is_written_once(wedding: Staged, settle: Any) -> None:
    tx = await wedding.request_change(undispatched=True)
    for status, version in (("completed", 2), ("rolled_back", 2), ("held", 1)):
        await settle(tx, status, version)
    row = await wedding.transaction(tx)
    assert (row.status, row.result["status"], row.ended_at) == ("completed", "completed", NOW)


def entry() -> LedgerEntry:
    binding = Binding(
        vendor="generic", account="villa", inputs={}, round=1, reference="r", transaction_id="tx", bound_at=NOW,
        spec=ActionSpec(name="booking.request", undo="exact", operations=()),
    )  # fmt: skip
    return LedgerEntry(step_id="venue", binding=binding, state="standing", external_id="bk_1")


async def test_all_that_moved_on_is_written_at_once_and_a_repeat_changes_nothing(wedding: Staged, settle: Any) -> None:
    earlier, tx = [await wedding.request_change(undispatched=True) for _ in range(2)]
    row = WeddingRow(
        status="active", phase="ceremony", mode="wedding_day", plan_version=1, ceremony_local="2027-06-19T16:00",
        zone="Europe/Rome", ceremony_at=NOW,
    )  # fmt: skip
    for _ in range(2):
        await settle(
            tx,
            wedding=row,
            steps_of=(StepState(step_id="venue", status="succeeded", external_id="bk_1"),),
            entries=(entry(),),
            steps=(StepState(step_id="after", status="skipped"),),
            transactions=(TransactionUpdate(transaction_id=earlier, status="rolled_back"),),
        )
        steps = await wedding.steps()
        assert {i: step.status for i, step in steps.items()} == {
            "venue": "succeeded",
            "event": "scheduled",
            "after": "skipped",
        }
        assert [(await wedding.transaction(i)).status for i in (earlier, tx)] == ["rolled_back", "completed"]
        assert (await count(wedding, "external_refs"), await count(wedding, "wedding_events")) == (1, 5)


async def test_settling_says_when_what_comes_later_is_due(wedding: Staged, settle: Any) -> None:
    tx = await wedding.request_change(undispatched=True)
    asked = ResolveAgenda(
        organization_id=wedding.organization_id, wedding_id=wedding.id, plan_version=1, ended={},
        steps=(unbegun("event", "x"), unbegun("after", "x")),
    )  # fmt: skip
    settled = await settle(tx, resolves=asked)
    due = times.ceremony_instant(wedding.plan) - timedelta(days=3)
    assert settled == Settled(due={"event": due}, tzdata_version=times.tzdata_version())
    assert {i: step.due_at for i, step in (await wedding.steps()).items()} == {
        "venue": None,
        "event": due,
        "after": None,
    }
