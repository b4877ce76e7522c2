from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tests.support.rows import row_of
from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.weddings.projection import (
    Answer,
    AuditRow,
    EventRow,
    ProjectionWrite,
    Reference,
    StepWrite,
    TransactionBegin,
    TransactionMove,
    TransactionOutcome,
    WeddingRow,
    Written,
)
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.transaction import TransactionResult
from wedsync.store.db.session import Database
from wedsync.store.tables import metadata
from wedsync.store.weddings import projection
from wedsync.store.weddings.projection_writer import ProjectionWriter

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
OURS, THEIRS = "ours", "theirs"
WEDDINGS = [f"w{number:03}" for number in range(100)]
STEPS = ("venue", "deposit", "cake")


@pytest.fixture
async def db(fresh_database_urls: Any) -> AsyncIterator[Database]:
    """Weddings of ours, and one of theirs, of three steps each."""
    database = Database(fresh_database_urls.app, 4)
    async with database.system() as conn:
        for organization in (OURS, THEIRS):
            await conn.execute(insert(metadata.tables["organizations"]).values(row_of("organizations", organization)))
        owners = [*((OURS, name) for name in WEDDINGS), (THEIRS, "theirs")]
        weddings = [{**row_of("weddings", whose, name), "reference": name} for whose, name in owners]
        await conn.execute(insert(metadata.tables["weddings"]), weddings)
        steps = [
            {**row_of("steps", whose, name), "step_id": step, "position": position}
            for whose, name in owners
            for position, step in enumerate(STEPS)
        ]
        await conn.execute(insert(metadata.tables["steps"]), steps)
    yield database
    await database.close()


@pytest.fixture
def writer(db: Database) -> ProjectionWriter:
    return ProjectionWriter(db)


def write_of(name: str = "w000", organization: str = OURS, **rows: Any) -> ProjectionWrite:
    return ProjectionWrite(organization_id=organization, wedding_id=name, now=NOW, **rows)


def step_of(status: Any, version: int, step: str = "venue", **more: Any) -> StepWrite:
    return StepWrite(state=StepState(step_id=step, status=status, **more), version=version)


def begin_of(run: str, continued_from: str = "", tx: str = "tx") -> ProjectionWrite:
    begin = TransactionBegin(id=tx, kind="scheduled", step_ids=("venue",), run_id=run, continued_from=continued_from)
    return write_of(begin=begin)


def outcome_of(status: Any = "completed", version: int = 2, tx: str = "tx") -> ProjectionWrite:
    result = TransactionResult(id=tx, seq=1, kind="scheduled", status=status, started_at=NOW, ended_at=NOW)
    audit = AuditRow(action="transaction.settled", subject=f"transaction/{tx}", detail={"status": status})
    return write_of(outcome=TransactionOutcome(result=result, version=version, audit=audit))


async def rows_of(db: Database, table: str, wedding: str | None = None) -> list[Any]:
    chosen = metadata.tables[table]
    found = select(chosen)
    if wedding is not None:
        found = found.where(chosen.c["id" if table == "weddings" else "wedding_id"] == wedding)
    async with db.system() as conn:
        return list((await conn.execute(found)).all())


async def told(db: Database, wedding: str = "w000") -> list[Any]:
    """The wedding's events in order, numbered 1, 2, 3, ... as its row says."""
    events = sorted(await rows_of(db, "wedding_events", wedding), key=lambda row: row.id)
    (row,) = await rows_of(db, "weddings", wedding)
    assert [each.id for each in events] == list(range(1, row.event_seq + 1))
    return [(each.type, each.data.get("status")) for each in events]


async def count_commits(db: Database) -> int:
    """How many database transactions wrote the events that there are."""
    async with db.system() as conn:
        return int(await conn.scalar(text("SELECT count(DISTINCT xmin::text) FROM wedding_events")) or 0)


# -- versions, events


async def test_older_equal_and_unchanged_writes_leave_no_trace(db: Database, writer: ProjectionWriter) -> None:
    taken = [
        await writer.write(write_of(steps=(step,)))
        for step in (
            step_of("running", 5, vendor="generic"),
            step_of("pending", 4),
            step_of("failed", 5),
            step_of("running", 6, vendor="generic"),
            step_of("succeeded", 7, vendor="generic"),
        )
    ]
    assert [written.first_event for written in taken] == [1, None, None, None, 2]
    assert await told(db) == [("step", "running"), ("step", "succeeded")]
    row = next(row for row in await rows_of(db, "steps", "w000") if row.step_id == "venue")
    assert (row.status, row.vendor, row.version) == ("succeeded", "generic", 7)


async def test_one_write_tells_all_of_it_in_order(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(begin_of("run"))
    result = TransactionResult(id="tx", seq=1, kind="scheduled", status="held", started_at=NOW, ended_at=NOW)
    written = await writer.write(
        write_of(
            rolling_back="tx",
            references=(Reference(vendor="v", account="a", object_id="o", step_id="venue", transaction_id="tx"),),
            steps=(step_of("succeeded", 1, "cake"), step_of("held", 1, "venue")),
            outcome=TransactionOutcome(result=result, version=2),
            moves=(TransactionMove(id="tx", status="completed", version=3),),
            events=(EventRow(type="step", data={"id": "venue", "status": "reminded"}),),
            wedding=WeddingRow(
                status="closing", phase="cleanup", mode="normal", plan_version=1, ceremony_local="2027-06-20T16:00",
                zone="Europe/Rome", ceremony_at=NOW + timedelta(days=1), version=1,
            ),
            audit=(AuditRow(action="step.reminded", subject="step/venue"),),
            answer=Answer(question="q", vendor="v", facts={"sun": True}),
        )
    )  # fmt: skip
    assert (written.first_event, written.last_event, written.has_settled) == (2, 8, True)
    assert written.previous_ceremony is not None
    assert written.previous_ceremony.local == "2027-06-19T16:00"
    assert await told(db) == [
        ("transaction", "running"),
        ("transaction", "rolling_back"),
        ("step", "held"),
        ("step", "succeeded"),
        ("transaction", "held"),
        ("transaction", "completed"),
        ("step", "reminded"),
        ("wedding", "closing"),
    ]
    assert [len(await rows_of(db, name)) for name in ("external_refs", "audit_log", "read_answers")] == [1, 1, 1]


async def test_an_outcome_is_audited_once(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(begin_of("run"))
    wanted = (outcome_of(), outcome_of(), outcome_of("rolled_back", 3))
    taken = [(await writer.write(outcome)).has_settled for outcome in wanted]
    assert taken == [True, False, True]
    (row,) = await rows_of(db, "transactions", "w000")
    assert (row.status, row.result["status"]) == ("rolled_back", "completed")
    assert [audit.detail["status"] for audit in await rows_of(db, "audit_log")] == ["completed", "rolled_back"]


async def test_an_older_answer_never_replaces_a_newer_one(db: Database, writer: ProjectionWriter) -> None:
    for facts, hours in (({"sun": True}, 2), ({"sun": False}, 1)):
        answer = Answer(question="q", vendor="v", facts=facts)
        await writer.write(write_of(answer=answer).model_copy(update={"now": NOW + timedelta(hours=hours)}))
    assert [row.facts for row in await rows_of(db, "read_answers")] == [{"sun": True}]


# -- who may write what


async def test_a_foreign_row_fails_alone(db: Database, writer: ProjectionWriter) -> None:
    steps = (step_of("running", 1),)
    lone = asyncio.create_task(writer.write(write_of("w050", steps=steps)))
    await asyncio.sleep(0)
    wanted = [write_of("w001", steps=steps), write_of("theirs", steps=steps), write_of("w002", steps=steps)]
    first, foreign, last = await asyncio.gather(*map(writer.write, wanted), return_exceptions=True)
    assert isinstance(foreign, IntegrityError)
    assert isinstance(first, Written)
    assert isinstance(last, Written)
    assert [await told(db, name) for name in ("w001", "w002", "theirs")] == [[("step", "running")]] * 2 + [[]]
    await lone


@pytest.mark.parametrize("rows", [
    {"begin": TransactionBegin(id="theirs", kind="undo", run_id="run")},
    {"references": (Reference(vendor="v", account="a", object_id="o", step_id="s", transaction_id="t"),)},
    {"events": (EventRow(type="step", data={"id": "venue"}),)},
    {"steps": ()},
])  # fmt: skip
async def test_no_row_of_another_organizations_wedding_is_written(
    db: Database, writer: ProjectionWriter, rows: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError):
        await writer.write(write_of("theirs", OURS, **rows))
    assert [await rows_of(db, name) for name in ("transactions", "external_refs", "wedding_events")] == [[], [], []]


async def test_a_transaction_of_another_wedding_is_not_claimed(db: Database, writer: ProjectionWriter) -> None:
    theirs = write_of("theirs", THEIRS, begin=TransactionBegin(id="tx", kind="undo", run_id="theirs"))
    assert (await writer.write(theirs)).claim is not None
    with pytest.raises(IntegrityError):
        await writer.write(begin_of("theirs"))
    assert not (await writer.write(outcome_of())).has_settled
    assert [row.status for row in await rows_of(db, "transactions")] == ["running"]


async def test_a_session_of_one_organization_writes_nothing_of_another(db: Database) -> None:
    with pytest.raises(ProgrammingError, match="nothing of another organization"):
        async with db.tenant(OURS) as conn:
            await projection.apply_writes(conn, [write_of(), write_of("theirs", THEIRS, steps=(step_of("held", 1),))])
    assert await told(db, "theirs") == []


async def test_the_rows_of_a_wedding_carry_its_organization(db: Database) -> None:
    for table in ("plans", "transactions", "steps", "external_refs", "wedding_events"):
        with pytest.raises(IntegrityError, match="organization_id_wedding_id"):
            async with db.tenant(OURS) as conn:
                await conn.execute(insert(metadata.tables[table]).values(row_of(table, OURS, "theirs")))


async def test_the_functions_are_the_systems_with_a_fixed_search_path(fresh_database_urls: Any) -> None:
    with psycopg.connect(fresh_database_urls.owner) as conn:
        found = conn.execute(
            "SELECT proname::text, pg_get_userbyid(proowner), prosecdef, 'search_path=pg_catalog, public, pg_temp' "
            "= ANY (proconfig), has_function_privilege('wedsync_app', oid, 'EXECUTE'), "
            "has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc "
            "WHERE proname IN ('write_projections', 'claim_transaction') ORDER BY 1"
        ).fetchall()
        may_create = conn.execute("SELECT has_schema_privilege('wedsync_system', 'public', 'CREATE')").fetchone()
    assert found == [
        ("claim_transaction", "wedsync_system", False, True, False, False),
        ("write_projections", "wedsync_system", True, True, True, False),
    ]
    assert may_create == (False,)


# -- claims


async def claim(writer: ProjectionWriter, run: str, continued_from: str = "") -> str:
    found = (await writer.write(begin_of(run, continued_from))).claim
    assert found is not None
    return found.run_id


async def test_a_transaction_is_held_by_one_run_and_its_continuations(db: Database, writer: ProjectionWriter) -> None:
    assert await claim(writer, "one") == "one"
    assert await claim(writer, "one") == "one"
    assert await claim(writer, "other") == "one"
    assert await claim(writer, "other", "stranger") == "one"
    assert await claim(writer, "two", "one") == "two"
    assert await claim(writer, "two", "one") == "two"
    assert await claim(writer, "one") == "two"
    assert await claim(writer, "three", "one") == "two"
    assert await told(db) == [("transaction", "running")]
    (row,) = await rows_of(db, "transactions", "w000")
    assert (row.version, row.run_id, row.started_at) == (1, "two", NOW)


async def test_of_two_runs_that_claim_at_once_one_does(db: Database) -> None:
    writers = [ProjectionWriter(db) for _ in range(2)]
    found = await asyncio.gather(*(claim(one, run) for one, run in zip(writers, ("one", "two"), strict=True)))
    assert len(set(found)) == 1
    (row,) = await rows_of(db, "transactions", "w000")
    assert row.run_id in found


async def test_what_was_asked_for_is_claimed_when_its_row_stands(db: Database, writer: ProjectionWriter) -> None:
    async with db.system() as conn:
        row = {**row_of("transactions", OURS, "w000"), "id": "tx", "request": {"kind": "undo"}}
        await conn.execute(insert(metadata.tables["transactions"]).values(row))
    assert await claim(writer, "one", "zero") == "one"
    (found,) = await rows_of(db, "transactions", "w000")
    assert (found.kind, found.request, found.step_ids) == ("orchestrate", {"kind": "undo"}, ["venue"])
    assert [row.status for row in await rows_of(db, "weddings", "w000")] == ["active"]


async def test_a_settled_transaction_is_claimed_no_more_and_says_how_it_ended(writer: ProjectionWriter) -> None:
    await writer.write(begin_of("one"))
    await writer.write(outcome_of("held"))
    for run, continued_from in (("one", ""), ("two", "one"), ("other", "")):
        found = (await writer.write(begin_of(run, continued_from))).claim
        assert found is not None
        assert (found.run_id, found.settled_status) == ("one", "held")
        assert found.settled_result is not None
        assert found.settled_result.status == "held"


async def test_what_was_refused_before_any_run_came_is_claimed_by_none(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(begin_of("one", tx="other"))
    async with db.system() as conn:
        row = {**row_of("transactions", OURS, "w000"), "id": "tx"}
        await conn.execute(insert(metadata.tables["transactions"]).values(row))
    await writer.write(write_of(moves=(TransactionMove(id="tx", status="cancelled", version=9),)))
    found = (await writer.write(begin_of("one"))).claim
    assert found is not None
    assert found.settled_status == "cancelled"
    row_found = next(row for row in await rows_of(db, "transactions", "w000") if row.id == "tx")
    assert (row_found.run_id, row_found.status) == (None, "cancelled")


# -- who holds a wedding


def by(run: str, takes_from: str = "", name: str = "w000", **rows: Any) -> ProjectionWrite:
    return write_of(name, run_id=run, takes_from=takes_from, **rows)


async def venue(db: Database, name: str = "w000") -> Any:
    return next(row for row in await rows_of(db, "steps", name) if row.step_id == "venue")


#: One row of every kind that a write may have.
EVERYTHING: dict[str, Any] = {
    "begin": TransactionBegin(id="tx", kind="scheduled", run_id="one"),
    "rolling_back": "tx",
    "references": (Reference(vendor="v", account="a", object_id="o", step_id="venue", transaction_id="tx"),),
    "steps": (step_of("failed", 10**9),),
    "outcome": outcome_of("completed", 10**9).outcome,
    "moves": (TransactionMove(id="tx", status="completed", version=10**9 + 1),),
    "events": (EventRow(type="step", data={"id": "venue"}),),
    "wedding": WeddingRow(
        status="closing", phase="cleanup", mode="normal", plan_version=1, ceremony_local="2027-06-20T16:00",
        zone="Europe/Rome", ceremony_at=NOW, version=10**9,
    ),
    "audit": (AuditRow(action="step.reminded", subject="step/venue"),),
    "answer": Answer(question="q", vendor="v", facts={}),
}  # fmt: skip


async def test_a_run_that_took_a_wedding_over_outranks_every_earlier_write(
    db: Database, writer: ProjectionWriter
) -> None:
    await writer.write(begin_of("one"))
    first = await writer.write(by("one", steps=(step_of("running", 10**9),), outcome=outcome_of("held", 10**9).outcome))
    taken = await writer.write(
        by(
            "two", "one",
            steps=(step_of("succeeded", 1),),
            moves=(TransactionMove(id="tx", status="completed", version=2),),
            wedding=EVERYTHING["wedding"].at(1),
        )
    )  # fmt: skip
    assert (first.contested_by, taken.contested_by) == (None, None)
    assert [status for _, status in await told(db)] == [
        "running",
        "running",
        "held",
        "succeeded",
        "completed",
        "closing",
    ]
    row = await venue(db)
    (wedding,) = await rows_of(db, "weddings", "w000")
    assert (row.status, row.version) == ("succeeded", (2 << 40) + 1)
    assert (wedding.run_id, wedding.run_epoch, wedding.version) == ("two", 2, (2 << 40) + 1)


async def test_a_stale_run_writes_nothing_and_is_told_who_holds_the_wedding(
    db: Database, writer: ProjectionWriter
) -> None:
    await writer.write(by("one", steps=(step_of("running", 5),)))
    await writer.write(by("two", "one", steps=(step_of("held", 1),)))
    before = [await rows_of(db, name) for name in ("transactions", "steps", "weddings", "wedding_events")]
    for takes_from in ("", "stranger", "one"):
        written = await writer.write(by("one", takes_from, **EVERYTHING))
        assert written == Written(contested_by="two")
    assert [await rows_of(db, name) for name in ("transactions", "steps", "weddings", "wedding_events")] == before
    assert [await rows_of(db, name) for name in ("external_refs", "audit_log")] == [[], []]


async def test_of_a_stale_run_no_answer_is_kept_either(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(by("two"))
    own = by("two", answer=Answer(question="own", vendor="v", facts={}))
    await asyncio.gather(*map(writer.write, (by("one", answer=EVERYTHING["answer"]), own)))
    assert [row.question for row in await rows_of(db, "read_answers")] == ["own"]


async def test_the_run_that_holds_a_wedding_goes_on_writing_by_its_own_versions(
    db: Database, writer: ProjectionWriter
) -> None:
    for version, status in ((5, "running"), (4, "pending"), (6, "succeeded")):
        assert (await writer.write(by("one", "zero", steps=(step_of(status, version),)))).contested_by is None
    assert [status for _, status in await told(db)] == ["running", "succeeded"]
    (wedding,) = await rows_of(db, "weddings", "w000")
    assert (wedding.run_id, wedding.run_epoch) == ("one", 1)


async def test_of_two_runs_that_take_over_at_once_one_does(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(by("zero"))
    writers = [ProjectionWriter(db) for _ in range(2)]
    wanted = [by(run, "zero", steps=(step_of("running", 5, vendor=run),)) for run in ("one", "two")]
    found = await asyncio.gather(*(one.write(write) for one, write in zip(writers, wanted, strict=True)))
    (loser,) = [written.contested_by for written in found if written.contested_by]
    (wedding,) = await rows_of(db, "weddings", "w000")
    assert loser == wedding.run_id == (await venue(db)).vendor
    assert wedding.run_epoch == 2


async def test_a_stale_run_in_a_group_harms_no_other(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(by("two"))
    wanted = (
        by("one", steps=(step_of("failed", 9),)),
        by("two", steps=(step_of("running", 1),)),
        by("one", name="w001", steps=(step_of("held", 1),)),
    )
    stale, own, other = await asyncio.gather(*map(writer.write, wanted))
    assert (stale.contested_by, own.contested_by, other.contested_by) == ("two", None, None)
    assert [await told(db, name) for name in ("w000", "w001")] == [[("step", "running")], [("step", "held")]]


async def test_who_writes_for_no_run_takes_nobodys_place(db: Database, writer: ProjectionWriter) -> None:
    await writer.write(by("one", steps=(step_of("running", 5),)))
    written = await writer.write(write_of(steps=(step_of("failed", 10**9),)))
    assert written.contested_by is None
    (wedding,) = await rows_of(db, "weddings", "w000")
    assert (wedding.run_id, wedding.run_epoch, (await venue(db)).status) == ("one", 1, "running")


# -- what others are told


async def subscribe(db: Database, *organizations: str) -> None:
    async with db.system() as conn:
        rows = [row_of("webhook_subscriptions", name) for name in organizations]
        await conn.execute(insert(metadata.tables["webhook_subscriptions"]), rows)


async def test_a_group_tells_each_organizations_subscribers_of_their_own(
    db: Database, writer: ProjectionWriter
) -> None:
    await subscribe(db, OURS, THEIRS)
    wanted = [
        write_of("w000", steps=(step_of("succeeded", 1), step_of("running", 1, "cake"))),
        write_of("theirs", THEIRS, steps=(step_of("failed", 1),)),
        write_of("w000", steps=(step_of("failed", 2, "cake"),)),
    ]
    await asyncio.gather(*map(writer.write, wanted))
    assert await count_commits(db) == 1
    events = {row.id: row for row in await rows_of(db, "outgoing_events")}
    sent = [(row.subscription_id, row.organization_id, events[row.event_id]) for row in await rows_of(db, "deliveries")]
    assert sorted((name, whose, event.type, event.sequence) for name, whose, event in sent) == [
        ("sub-ours", OURS, "step.failed", 3),
        ("sub-ours", OURS, "step.succeeded", 1),
        ("sub-theirs", THEIRS, "step.failed", 1),
    ]
    assert {(event.organization_id, event.wedding_id) for event in events.values()} == {
        (OURS, "w000"),
        (THEIRS, "theirs"),
    }


async def test_what_cannot_be_told_is_not_written_and_harms_no_other(db: Database, writer: ProjectionWriter) -> None:
    await subscribe(db, OURS)
    odd = write_of("w001", events=(EventRow(type="transaction", data={"id": "tx", "status": "unheard of"}),))
    good = (write_of(name, steps=(step_of("failed", 1),)) for name in ("w000", "w002"))
    first, bad, last = await asyncio.gather(*map(writer.write, (next(good), odd, next(good))), return_exceptions=True)
    assert isinstance(bad, KeyError)
    assert isinstance(first, Written)
    assert isinstance(last, Written)
    assert [len(await told(db, name)) for name in ("w000", "w001", "w002")] == [1, 0, 1]


# -- group commit


async def test_those_who_come_together_share_few_commits(db: Database, writer: ProjectionWriter) -> None:
    wanted = [write_of(name, steps=(step_of("running", 1),)) for name in WEDDINGS]
    assert [one.first_event for one in await asyncio.gather(*map(writer.write, wanted))] == [1] * 100
    assert await count_commits(db) <= 3
    assert {tuple(await told(db, name)) for name in WEDDINGS} == {(("step", "running"),)}


async def test_a_group_is_bounded(db: Database) -> None:
    writer = ProjectionWriter(db, most_in_commit=10)
    await asyncio.gather(*(writer.write(write_of(name, steps=(step_of("running", 1),))) for name in WEDDINGS))
    assert await count_commits(db) == 10


async def test_writes_of_one_wedding_in_one_group_apply_in_their_order(db: Database, writer: ProjectionWriter) -> None:
    wanted = [write_of(steps=(step_of(status, version),)) for version, status in ((1, "running"), (2, "succeeded"))]
    other = write_of("w001", steps=(step_of("running", 1),))
    taken = await asyncio.gather(*map(writer.write, (wanted[0], other, wanted[1])))
    assert [one.first_event for one in taken] == [1, 1, 2]
    assert await told(db) == [("step", "running"), ("step", "succeeded")]


async def test_two_writers_with_rows_in_opposite_orders_never_deadlock(db: Database) -> None:
    names = WEDDINGS[:20]

    async def write_all(order: list[str], base: int) -> None:
        async with db.unbound() as conn:
            writes = [
                write_of(name, steps=tuple(step_of("running", base, step, attempts=base) for step in STEPS))
                for name in order
            ]
            answers = [write_of(order[0], answer=Answer(question=q, vendor="v", facts={})) for q in ("a", "b")]
            await projection.apply_writes(conn, [*writes, *(answers if base % 2 else answers[::-1])])

    for version in range(1, 30, 2):
        await asyncio.gather(write_all(names, version), write_all(names[::-1], version + 1))
    for name in names:
        assert {row.version for row in await rows_of(db, "steps", name)} == {30}
        await told(db, name)


async def test_watchers_are_notified_once_a_wedding(db: Database, writer: ProjectionWriter) -> None:
    notices: asyncio.Queue[str] = asyncio.Queue()

    async def hear() -> None:
        async for payload in db.listen(projection.EVENTS_CHANNEL):
            notices.put_nowait(payload)

    listening = asyncio.create_task(hear())
    assert await notices.get() == ""
    steps = tuple(step_of("running", 1, step) for step in STEPS)
    wanted = (write_of(steps=steps), write_of("w001", steps=steps), write_of(steps=(step_of("failed", 2),)))
    await asyncio.gather(*map(writer.write, wanted))
    await writer.write(write_of("w002", steps=steps))
    assert sorted([await notices.get() for _ in range(3)]) == ["w000", "w001", "w002"]
    assert notices.empty()
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


async def test_a_cancelled_caller_harms_no_other(db: Database, writer: ProjectionWriter) -> None:
    calls = [asyncio.create_task(writer.write(write_of(name, steps=(step_of("held", 1),)))) for name in WEDDINGS[:9]]
    await asyncio.sleep(0)
    calls[3].cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, Written) for one in done] == [place != 3 for place in range(9)]
    again = await writer.write(write_of("w009", steps=(step_of("held", 1),)))
    assert again.first_event == 1


async def test_a_caller_that_returned_finds_its_write_committed(db: Database, writer: ProjectionWriter) -> None:
    async def write_and_look(name: str) -> int:
        await writer.write(write_of(name, steps=(step_of("running", 1),)))
        async with db.tenant(OURS) as conn:
            count = "SELECT count(*) FROM wedding_events WHERE wedding_id = :wedding"
            return int(await conn.scalar(text(count), {"wedding": name}) or 0)

    assert await asyncio.gather(*map(write_and_look, WEDDINGS[:20])) == [1] * 20


async def test_without_a_database_everybody_is_told_so() -> None:
    gone = Database("postgresql://nobody@127.0.0.1:9/none", 1)
    writer = ProjectionWriter(gone)
    done = await asyncio.gather(*(writer.write(write_of(name)) for name in WEDDINGS[:5]), return_exceptions=True)
    assert [type(one) for one in done] == [StoreUnavailable] * 5
    await writer.close()
    await gone.close()


async def test_a_writer_that_closes_has_written_all(db: Database, writer: ProjectionWriter) -> None:
    calls = [asyncio.create_task(writer.write(write_of(name, steps=(step_of("held", 1),)))) for name in WEDDINGS]
    await asyncio.sleep(0)
    await writer.close()
    await asyncio.sleep(0)
    assert all(call.done() for call in calls)


async def test_a_wedding_that_somebody_holds_keeps_the_others_waiting_for_a_while_only(
    db: Database, writer: ProjectionWriter, monkeypatch: pytest.MonkeyPatch, fresh_database_urls: Any
) -> None:
    with psycopg.connect(fresh_database_urls.owner) as conn:
        # Sooner than the five seconds that it has.
        conn.execute("SET ROLE wedsync_system")
        conn.execute("ALTER FUNCTION write_projections(jsonb) SET lock_timeout = '100ms'")
    steps = (step_of("held", 1),)
    async with db.system() as holder:
        await holder.execute(text("SELECT FROM weddings WHERE id = 'w001' FOR UPDATE"))
        wanted = (writer.write(write_of(name, steps=steps)) for name in ("w000", "w001", "w002"))
        first, held, last = await asyncio.gather(*wanted, return_exceptions=True)
    assert isinstance(held, StoreUnavailable)
    assert isinstance(first, Written)
    assert isinstance(last, Written)
