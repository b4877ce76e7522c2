"""A transaction begins by one write, which also gives what it goes by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.stage import Staged
from wedsync.domain.errors import NotFound
from wedsync.domain.plans import times
from wedsync.domain.weddings.projection import ProjectionWrite, TransactionOutcome
from wedsync.domain.weddings.transaction import TransactionResult
from wedsync.kit.settings import Settings
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.begin_transaction import BeginTransaction, Begun, FirstSteps, begin_transaction
from wedsync.usecases.weddings.links import link_maker
from wedsync.usecases.weddings.prepare_steps import StepAtVendor
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def begin(writer: HeldWriter, shelf: PlanShelf, settings: Settings, header: WeddingHeader) -> Any:
    async def begun(tx: str, run_id: str = "one", **more: Any) -> Begun:
        values = {"header": header, "transaction_id": tx, "kind": "orchestrate", "seq": 1, "origin_tx": tx}
        wanted = BeginTransaction.model_validate({**values, "plan_version": 1, **more})
        return await begin_transaction(writer, shelf, link_maker(settings), wanted, run_id)

    return begun


async def test_a_first_orchestration_is_given_the_plan_its_instants_and_what_is_due_first(
    wedding: Staged, begin: Any
) -> None:
    tx = await wedding.request_change(undispatched=True)
    begun = await begin(tx, wants_plan=True, first=FirstSteps(rounds={"venue": 2}))
    assert [step.id for step in begun.plan.steps] == ["venue", "event", "after"]
    due = times.ceremony_instant(wedding.plan) - timedelta(days=3)
    assert [(s.step_id, s.status, s.round, s.due_at) for s in begun.first_states] == [
        ("venue", "pending", 2, None),
        ("event", "scheduled", 0, due),
        ("after", "scheduled", 0, None),
    ]
    assert begun.preparation.prepared == ("venue/generic",)
    assert (begun.held_by, begun.settled) == ("one", None)
    row = await wedding.transaction(tx)
    assert (row.status, row.run_id, row.step_ids, row.started_at) == ("running", "one", ["venue"], NOW)
    assert (await wedding.steps())["event"].due_at == due


async def test_a_later_transaction_is_given_only_what_it_asks_for(wedding: Staged, begin: Any) -> None:
    tx = await wedding.request_change("scheduled", undispatched=True)
    begun = await begin(
        tx,
        kind="scheduled",
        steps=(StepAtVendor(step_id="event", vendor="google_calendar"),),
        step_ids=("venue", "event"),
    )
    assert (begun.plan, begun.first_states) == (None, ())
    assert begun.preparation.prepared == ("event/google_calendar",)
    assert (await wedding.transaction(tx)).step_ids == ["venue", "event"]


async def test_what_the_agenda_began_has_a_row_from_then_on(wedding: Staged, begin: Any) -> None:
    await begin("own", kind="scheduled", seq=4, origin_tx="first", step_ids=("event",))
    row = await wedding.transaction("own")
    assert (row.kind, row.status, row.request) == (
        "scheduled",
        "running",
        {"kind": "scheduled", "seq": 4, "origin": "first"},
    )


async def test_another_run_is_told_who_may_have_sent_something(
    wedding: Staged, begin: Any, header: WeddingHeader
) -> None:
    tx = await wedding.request_change(undispatched=True)
    assert (await begin(tx)).held_by == "one"
    assert (await begin(tx)).held_by == "one"
    continued = header.model_copy(update={"continued_from": "one", "version": 14})
    assert (await begin(tx, "two", header=continued)).held_by == "two"


async def test_what_has_settled_comes_back_as_it_was(
    wedding: Staged, begin: Any, writer: HeldWriter, header: WeddingHeader
) -> None:
    tx = await wedding.request_change(undispatched=True)
    await begin(tx)
    result = TransactionResult(id=tx, seq=1, kind="orchestrate", status="held", started_at=NOW, ended_at=NOW)
    settled: ProjectionWrite = header.write("one", outcome=TransactionOutcome(result=result, version=13))
    await writer.write(settled)
    assert (await begin(tx)).settled == result


async def test_without_its_plan_nothing_begins(wedding: Staged, begin: Any) -> None:
    tx = await wedding.request_change(undispatched=True)
    with pytest.raises(NotFound):
        await begin(tx, plan_version=9)
    assert (await wedding.transaction(tx)).run_id is None
