"""What a wedding writes of itself, and of what runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.stage import Staged
from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.weddings.projection import Reference
from wedsync.domain.weddings.step import StepError, StepState
from wedsync.domain.weddings.transaction import TransactionUpdate
from wedsync.store.db.session import Database
from wedsync.store.weddings.projection_writer import ProjectionWriter
from wedsync.usecases.weddings.record_wedding import (
    RecordWedding,
    ShowProgress,
    StepRow,
    record_wedding,
    show_progress,
)
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


async def data_of(wedding: Staged, sql: str) -> list[Any]:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        return list(await conn.scalars(text(sql), {"w": wedding.id}))


EVENTS = "SELECT data FROM wedding_events WHERE wedding_id = :w ORDER BY id"


async def test_progress_shows_steps_and_that_it_rolls_back(
    wedding: Staged, writer: HeldWriter, header: WeddingHeader
) -> None:
    tx = await wedding.request_change(undispatched=True)
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        await conn.execute(text("UPDATE transactions SET version = 1 WHERE id = :tx"), {"tx": tx})
    shown = ShowProgress(
        header=header, transaction_id=tx, is_rolling_back=True, steps=(StepState(step_id="venue", status="failed"),)
    )
    for _ in range(2):
        await show_progress(writer, shown, "one")
    assert (await wedding.transaction(tx)).status == "rolling_back"
    assert [event["status"] for event in await data_of(wedding, EVENTS)] == ["rolling_back", "failed"]


async def test_what_has_settled_rolls_back_no_more(wedding: Staged, writer: HeldWriter, header: WeddingHeader) -> None:
    tx = await wedding.request_change(undispatched=True)
    done = RecordWedding(
        header=header, wedding=None, transactions=(TransactionUpdate(transaction_id=tx, status="completed"),)
    )
    await record_wedding(wedding.stage.db, writer, done, "one")
    shown = ShowProgress(header=header, transaction_id=tx, is_rolling_back=True, steps=())
    await show_progress(writer, shown, "one")
    assert (await wedding.transaction(tx)).status == "completed"


async def test_reminders_and_overdue_holds_are_told_and_audited(
    wedding: Staged, writer: HeldWriter, header: WeddingHeader
) -> None:
    why = StepError(code="result_needed", detail="d")
    wanted = RecordWedding(header=header, wedding=None, reminders=("venue",), overdue={"event": why})
    await record_wedding(wedding.stage.db, writer, wanted, "one")
    assert await data_of(wedding, EVENTS) == [
        {"id": "venue", "status": "held", "reminder": True},
        {"id": "event", "status": "held", "reminder": True, "overdue": True},
    ]
    sql = "SELECT action FROM audit_log WHERE subject LIKE '%' || :w || '%' ORDER BY id"
    assert await data_of(wedding, sql) == ["step.reminded", "step.overdue"]


async def test_a_repair_makes_rows_anew_that_are_gone(
    wedding: Staged, writer: HeldWriter, header: WeddingHeader
) -> None:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        await conn.execute(text("DELETE FROM steps WHERE wedding_id = :w AND step_id = 'venue'"), {"w": wedding.id})
    row = StepRow(step_id="venue", service="villa", capability="booking", action="booking.request")
    wanted = RecordWedding(
        header=header,
        wedding=None,
        planned=(row,),
        steps=(StepState(step_id="venue", status="succeeded", external_id="bk_1"),),
        transactions=(TransactionUpdate(transaction_id="gone", kind="orchestrate", status="completed"),),
    )
    await record_wedding(wedding.stage.db, writer, wanted, "one")
    venue = (await wedding.steps())["venue"]
    assert (venue.status, venue.external_id, venue.service) == ("succeeded", "bk_1", "villa")
    assert (await wedding.transaction("gone")).status == "completed"


async def test_without_a_database_a_record_is_tried_again(wedding: Staged, header: WeddingHeader) -> None:
    async def provide() -> Any:
        raise RuntimeError("nobody is there")

    gone = Database("postgresql://nobody@127.0.0.1:9/none", 1)
    wanted = RecordWedding(header=header, wedding=None)
    with pytest.raises(StoreUnavailable):
        await record_wedding(gone, HeldWriter(ProjectionWriter(gone), provide), wanted, "one")
    await gone.close()


async def test_references_are_kept_once(wedding: Staged, writer: HeldWriter, header: WeddingHeader) -> None:
    known = Reference(vendor="generic", account="v", object_id="bk_1", step_id="venue", transaction_id="t")
    for _ in range(2):
        await writer.write(header.write("one", references=(known,)))
    assert await data_of(wedding, "SELECT count(*) FROM external_refs WHERE wedding_id = :w") == [1]
