"""What of our own fails ends a transaction, never the wedding."""

from __future__ import annotations

from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus

from tests.support.plans import booking, plan
from tests.support.stage import Stage


async def test_a_transaction_that_cannot_begin_needs_attention_and_the_wedding_lives_on(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue")))
    async with stage.db.tenant(wedding.organization_id) as conn:
        await conn.execute(text("UPDATE weddings SET plan_version = 7 WHERE id = :id"), {"id": wedding.id})
    row = await wedding.until(await wedding.request_change(), "needs_attention")
    assert row.error["code"] == "not_found"
    again = await wedding.until(await wedding.request_change(), "needs_attention")
    assert again.error["detail"] == f"wedding {wedding.id} has no plan version 7"
    assert (await wedding.handle.describe()).status == WorkflowExecutionStatus.RUNNING
    assert await wedding.ledger() == []
