from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.errors import to_application_error
from tests.support.plans import booking, event, plan
from tests.support.stage import Stage, Staged
from wedsync.domain.errors import InvalidInput, NotFound, StoreUnavailable, TemporalUnreachable
from wedsync.domain.weddings.closing import LONGEST_CLOSING
from wedsync.domain.weddings.projection import ProjectionWrite, Reference, StepWrite, TransactionOutcome
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.transaction import TransactionResult
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.local.ports import free_port
from wedsync.store import projection
from wedsync.store.projection_writer import ProjectionWriter
from wedsync.store.session import Database
from wedsync.usecases.routing.registry import load_registry
from wedsync.usecases.weddings.answer_link import read_link
from wedsync.usecases.weddings.bind_step import BindStep, bind_step, show
from wedsync.usecases.weddings.links import link_maker
from wedsync.usecases.weddings.load_plan import LoadPlan, PlanShelf, load_plan
from wedsync.usecases.weddings.read_result import ReadResult, read_result
from wedsync.usecases.weddings.record import SettleTransaction, settle_transaction
from wedsync.usecases.weddings.resolve_agenda import ResolveAgenda, resolve_agenda
from wedsync.usecases.weddings.revise_plan import RevisePlan, revise_plan

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, 3)
    yield database
    await database.close()


@pytest.fixture
async def wedding(db: Database, settings: Settings) -> Staged:
    """A recorded wedding that nobody runs."""
    stage = Stage(settings, None, db, None)  # type: ignore[arg-type]
    return await stage.wedding(plan(booking("venue"), event(at="ceremony - 3d"), event("after", at="event + 1d")))


@pytest.fixture
def shelf(db: Database) -> PlanShelf:
    return PlanShelf(db, load_registry().manifests)


def written(wedding: Staged, **rows: Any) -> ProjectionWrite:
    return ProjectionWrite(organization_id=wedding.organization_id, wedding_id=wedding.id, now=NOW, **rows)


async def write(wedding: Staged, version: int, status: Any, **more: Any) -> None:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        state = StepState(step_id="venue", status=status, **more)
        await projection.apply_writes(conn, [written(wedding, steps=(StepWrite(state=state, version=version),))])


async def told(wedding: Staged) -> list[str]:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        rows = await conn.execute(
            text("SELECT id, data FROM wedding_events WHERE wedding_id = :w ORDER BY id"), {"w": wedding.id}
        )
        found = rows.all()
    assert [row.id for row in found] == list(range(1, len(found) + 1))
    return [row.data["status"] for row in found]


# -- the projection


async def test_an_older_write_never_overwrites_a_newer_one(wedding: Staged) -> None:
    await write(wedding, 5, "running", vendor="generic")
    await write(wedding, 4, "pending")
    await write(wedding, 5, "failed")
    row = (await wedding.steps())["venue"]
    assert (row.status, row.vendor, row.version) == ("running", "generic", 5)


async def test_a_write_that_changes_nothing_tells_nobody(wedding: Staged) -> None:
    for version in (1, 2, 3):
        await write(wedding, version, "running")
    await write(wedding, 4, "succeeded")
    assert await told(wedding) == ["running", "succeeded"]


async def settle(
    wedding: Staged, result: TransactionResult, version: int = 2, client: Client | None = None, *, tells: bool = False
) -> None:
    async def provide() -> Client:
        return client or wedding.stage.client

    settled = SettleTransaction(
        organization_id=wedding.organization_id, wedding_id=wedding.id, result=result, step_ids=(), version=version,
        step_version=9, now=NOW, tells=tells,
    )  # fmt: skip
    await settle_transaction(ProjectionWriter(wedding.stage.db), provide, settled)


async def test_settling_tells_a_wedding_that_is_gone_nothing(wedding: Staged, temporal_client: Client) -> None:
    tx = await wedding.ask(untold=True)
    result = TransactionResult(id=tx, seq=1, kind="orchestrate", status="completed", started_at=NOW, ended_at=NOW)
    await settle(wedding, result, client=temporal_client, tells=True)
    assert (await wedding.transaction(tx)).status == "completed"


async def test_settling_is_tried_again_when_temporal_cannot_tell_the_wedding(wedding: Staged) -> None:
    tx = await wedding.ask(untold=True)
    result = TransactionResult(id=tx, seq=1, kind="orchestrate", status="completed", started_at=NOW, ended_at=NOW)
    nobody = await Client.connect(f"127.0.0.1:{free_port()}", data_converter=pydantic_data_converter, lazy=True)
    with pytest.raises(TemporalUnreachable) as raised:
        await settle(wedding, result, client=nobody, tells=True)
    assert not to_application_error(raised.value).non_retryable
    assert (await wedding.transaction(tx)).status == "completed"


async def test_a_settled_result_is_written_once(wedding: Staged) -> None:
    tx = await wedding.ask(untold=True)
    for status, version in (("completed", 2), ("rolled_back", 2), ("held", 1)):
        result = TransactionResult(id=tx, seq=1, kind="orchestrate", status=status, started_at=NOW, ended_at=NOW)
        await settle(wedding, result, version)
    row = await wedding.transaction(tx)
    assert (row.status, row.result["status"], row.ended_at) == ("completed", "completed", NOW)


async def test_a_plan_version_is_written_once_by_its_transaction_and_numbered_anew(wedding: Staged) -> None:
    async def add(tx: str) -> int:
        async with wedding.stage.db.tenant(wedding.organization_id) as conn:
            return await projection.write_plan(
                conn, organization_id=wedding.organization_id, wedding_id=wedding.id, body=json.dumps({"by": tx}),
                transaction_id=tx, now=NOW,
            )  # fmt: skip

    assert [await add(tx) for tx in ("one", "two", "one", "two", "three")] == [2, 3, 2, 3, 4]
    assert [body.get("by") for body in await wedding.plan_versions()] == [None, "one", "two", "three"]


async def test_references_are_kept_once(wedding: Staged) -> None:
    for _ in range(2):
        async with wedding.stage.db.tenant(wedding.organization_id) as conn:
            known = Reference(vendor="generic", account="v", object_id="bk_1", step_id="venue", transaction_id="t")
            await projection.apply_writes(conn, [written(wedding, references=(known,))])
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        count = await conn.scalar(text("SELECT count(*) FROM external_refs WHERE wedding_id = :w"), {"w": wedding.id})
    assert count == 1


# -- plans


async def test_a_plan_is_read_compiled_with_its_times_resolved(wedding: Staged, shelf: PlanShelf) -> None:
    wanted = LoadPlan(organization_id=wedding.organization_id, wedding_id=wedding.id, version=1)
    loaded = await load_plan(shelf, wanted)
    assert [step.id for step in loaded.steps] == ["venue", "event", "after"]
    assert loaded.ends_at - loaded.ceremony_at == timedelta(days=2)
    assert loaded.tzdata_version != ""
    with pytest.raises(NotFound):
        await load_plan(shelf, wanted.model_copy(update={"version": 9}))


async def test_another_organizations_plan_is_not_found(wedding: Staged, shelf: PlanShelf) -> None:
    with pytest.raises(NotFound):
        await load_plan(shelf, LoadPlan(organization_id=new_id(), wedding_id=wedding.id, version=1))


async def test_the_agenda_knows_instants_and_what_waits_for_another_step(wedding: Staged, shelf: PlanShelf) -> None:
    asked = ResolveAgenda(
        organization_id=wedding.organization_id, wedding_id=wedding.id, plan_version=1,
        steps=("venue", "event", "after"), ended={},
    )  # fmt: skip
    first = await resolve_agenda(shelf, asked)
    assert (set(first.due), first.after) == ({"event"}, {"after": "event"})
    assert first.ceremony_at - first.due["event"] == timedelta(days=3)
    later = await resolve_agenda(shelf, asked.model_copy(update={"ended": {"event": NOW}}))
    assert (later.due["after"], later.after) == (NOW + timedelta(days=1), {})


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


# -- binding


async def bound(wedding: Staged, shelf: PlanShelf, settings: Settings, vendor: str) -> Any:
    loaded = await load_plan(shelf, LoadPlan(organization_id=wedding.organization_id, wedding_id=wedding.id, version=1))
    wanted = BindStep(
        organization_id=wedding.organization_id, wedding_id=wedding.id, transaction_id="tx", plan_version=1,
        step=loaded.steps[0], vendor=vendor, round=1, results={},
        state=StepState(step_id="venue", status="running", vendor=vendor), version=3, now=NOW,
    )  # fmt: skip
    return await bind_step(ProjectionWriter(wedding.stage.db), shelf, link_maker(settings), wanted)


async def test_a_binding_says_who_is_called_and_shows_the_step(
    wedding: Staged, shelf: PlanShelf, settings: Settings
) -> None:
    first, again = [await bound(wedding, shelf, settings, "generic") for _ in range(2)]
    assert first == again
    assert (first.account, first.round, len(first.reference), first.hand_link) == ("villa", 1, 32, "")
    assert (await wedding.steps())["venue"].status == "running"
    assert (await bound(wedding, shelf, settings, "vsco")).account == "default"


async def test_a_hands_link_is_good_until_the_wedding_can_no_longer_be_closing(
    wedding: Staged, shelf: PlanShelf, settings: Settings
) -> None:
    link = (await bound(wedding, shelf, settings, "honeybook")).hand_link
    opened = read_link(link.rpartition("/")[2], settings)
    loaded = await load_plan(shelf, LoadPlan(organization_id=wedding.organization_id, wedding_id=wedding.id, version=1))
    assert (opened.link.wedding_id, opened.link.step_id) == (wedding.id, "venue")
    assert opened.expires_at == loaded.ends_at + LONGEST_CLOSING


async def test_a_vendor_that_cannot_do_it_is_not_bound(wedding: Staged, shelf: PlanShelf, settings: Settings) -> None:
    for vendor in ("stripe", "nobody"):
        with pytest.raises(InvalidInput):
            await bound(wedding, shelf, settings, vendor)


async def test_a_lost_write_for_watchers_loses_nothing(wedding: Staged) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:9/none", 1)
    shown = StepWrite(state=StepState(step_id="venue", status="running"), version=1)
    await show(ProjectionWriter(gone), written(wedding, steps=(shown,)))
    with pytest.raises(StoreUnavailable):
        async with gone.tenant("o"):
            raise AssertionError("no database is there")
    await gone.close()
    assert (await wedding.steps())["venue"].status == "pending"


async def test_a_result_is_read_back_as_it_was(wedding: Staged) -> None:
    tx = await wedding.ask(untold=True)
    asked = ReadResult(organization_id=wedding.organization_id, wedding_id=wedding.id, transaction_id=tx)
    with pytest.raises(NotFound):
        await read_result(wedding.stage.db, asked)
    result = TransactionResult(id=tx, seq=1, kind="orchestrate", status="completed", started_at=NOW, ended_at=NOW)
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        outcome = TransactionOutcome(result=result, version=2)
        await projection.apply_writes(conn, [written(wedding, outcome=outcome)])
    assert await read_result(wedding.stage.db, asked) == result
