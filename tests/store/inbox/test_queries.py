from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from wedsync.domain.inbox.triage import ClaimedRow, Match, NewRow, Verdict
from wedsync.domain.vendors.event import VendorEvent
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.store.weddings.tables import external_refs, weddings

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def db(fresh_database_urls: Any) -> AsyncIterator[Database]:
    database = Database(fresh_database_urls.app)
    async with database.system() as connection:
        await connection.execute(insert(organizations).values(id="o1", name="Studio", created_at=NOW))
        for wedding_id, mode, status in (("w1", "normal", "active"), ("w2", "wedding_day", "active")):
            await connection.execute(insert(weddings).values(wedding(wedding_id, mode, status)))
        await connection.execute(
            insert(external_refs).values(
                organization_id="o1",
                vendor="stripe",
                account="default",
                object_id="pi_day",
                wedding_id="w2",
                step_id="deposit",
                transaction_id="t1",
                created_at=NOW,
            )
        )
    yield database
    await database.close()


def wedding(wedding_id: str, mode: str, status: str) -> dict[str, Any]:
    return {
        "id": wedding_id,
        "organization_id": "o1",
        "reference": wedding_id,
        "status": status,
        "phase": "preparation",
        "mode": mode,
        "ceremony_local": "2027-06-19T16:00",
        "zone": "Europe/Rome",
        "ceremony_at": NOW,
        "plan_version": 1,
        "created_at": NOW,
        "updated_at": NOW,
        "ended_at": None,
    }


def new_row(event_id: str, priority: int = 3, **changes: Any) -> NewRow:
    event = VendorEvent(source="stripe", event_id=event_id, type="payment.succeeded", vendor_type="x", **changes)
    return NewRow(event=event, priority=priority, sealed_body=b"sealed\x00bytes")


async def record(db: Database, *rows: NewRow, now: datetime = NOW) -> dict[str, Any]:
    async with db.system() as connection:
        return dict(await inbox.record(connection, "stripe", rows, now))


async def claim(db: Database, lane: Any = "normal", limit: int = 50, now: datetime = NOW) -> list[ClaimedRow]:
    async with db.system() as connection:
        return await inbox.claim(connection, lane, limit, now)


async def test_an_event_is_recorded_once_however_often_it_comes(db: Database) -> None:
    assert await record(db, new_row("evt_1")) == {"evt_1": "normal"}
    assert await record(db, new_row("evt_1"), new_row("evt_2"), new_row("evt_2")) == {"evt_2": "normal"}
    answers = await asyncio.gather(*(record(db, new_row("evt_3")) for _ in range(8)))
    assert sorted(len(answer) for answer in answers) == [0] * 7 + [1]
    async with db.system() as connection:
        rows = (await connection.execute(select(inbox_table.c.event_id, inbox_table.c.body))).all()
    assert sorted(event_id for event_id, _ in rows) == ["evt_1", "evt_2", "evt_3"]
    assert {bytes(body) for _, body in rows} == {b"sealed\x00bytes"}


async def test_the_same_id_of_another_source_is_another_event(db: Database) -> None:
    await record(db, new_row("evt_1"))
    async with db.system() as connection:
        assert await inbox.record(connection, "paypal", [new_row("evt_1")], NOW) == {"evt_1": "normal"}


async def test_events_of_a_wedding_on_its_day_are_critical_by_name_or_by_object(db: Database) -> None:
    lanes = await record(
        db,
        new_row("named", wedding_id="w2"),
        new_row("by_object", object_id="pi_day"),
        new_row("other", wedding_id="w1", object_id="pi_1"),
    )
    assert lanes == {"named": "critical", "by_object": "critical", "other": "normal"}
    assert sorted(row.event_id for row in await claim(db, "critical")) == ["by_object", "named"]
    assert [row.event_id for row in await claim(db, "normal")] == ["other"]


async def test_what_waits_of_a_wedding_goes_ahead_once_its_day_has_come(db: Database) -> None:
    async with db.system() as connection:
        await connection.execute(update(weddings).where(weddings.c.id == "w2").values(mode="normal"))
    lanes = await record(
        db,
        new_row("named", wedding_id="w2"),
        new_row("by_object", priority=4, object_id="pi_day"),
        new_row("done", wedding_id="w2"),
        new_row("other", wedding_id="w1"),
        new_row("somebody", object_id="pi_2"),
    )
    assert set(lanes.values()) == {"normal"}
    async with db.system() as connection:
        done = inbox_table.c.event_id == "done"
        await connection.execute(update(inbox_table).where(done).values(due_at=None, state="processed"))
        assert await inbox.raise_waiting(connection, "w2") == 0
        await connection.execute(update(weddings).where(weddings.c.id == "w2").values(mode="wedding_day"))
        assert await inbox.raise_waiting(connection, "w2") == 2
        assert await inbox.raise_waiting(connection, "w2") == 0
    assert sorted(row.event_id for row in await claim(db, "critical")) == ["by_object", "named"]
    assert sorted(row.event_id for row in await claim(db, "normal")) == ["other", "somebody"]


async def test_another_organizations_events_are_not_raised_by_a_weddings_day(db: Database) -> None:
    async with db.system() as connection:
        await connection.execute(insert(organizations).values(id="o2", name="Other", created_at=NOW))
        await connection.execute(update(weddings).where(weddings.c.id == "w2").values(mode="normal"))
    await record(db, new_row("foreign", wedding_id="w2").model_copy(update={"organization_id": "o2"}))
    async with db.system() as connection:
        await connection.execute(update(weddings).where(weddings.c.id == "w2").values(mode="wedding_day"))
        assert await inbox.raise_waiting(connection, "w2") == 0


async def test_the_urgent_and_then_the_old_are_claimed_first(db: Database) -> None:
    await record(db, new_row("late_high", priority=2), now=NOW)
    await record(db, new_row("old_low", priority=4), now=NOW - timedelta(hours=1))
    await record(db, new_row("old_high", priority=2), now=NOW - timedelta(minutes=1))
    assert [row.event_id for row in await claim(db)] == ["old_high", "late_high", "old_low"]
    assert [row.event_id for row in await claim(db, limit=1)] == ["old_high"]


async def test_a_wedding_on_its_day_goes_before_sources_that_call_themselves_critical(db: Database) -> None:
    before = NOW - timedelta(hours=1)
    await record(db, *(new_row(f"loud_{number}", priority=1) for number in range(3)), now=before)
    await record(db, new_row("named", priority=4, wedding_id="w2"))
    assert [row.event_id for row in await claim(db, "critical", limit=2)] == ["named", "loud_0"]
    # What was critical already is raised as well when the day comes.
    async with db.system() as connection:
        await connection.execute(update(inbox_table).where(inbox_table.c.event_id == "named").values(priority=1))
        assert await inbox.raise_waiting(connection, "w2") == 1
    assert [row.event_id for row in await claim(db, "critical", limit=1)] == ["named"]


async def test_who_floods_the_critical_lane_does_not_hold_up_the_others(db: Database) -> None:
    async with db.system() as connection:
        await connection.execute(insert(organizations).values(id="o2", name="Other", created_at=NOW))
    for number in range(9):
        loud = new_row(f"loud_{number}", priority=1).model_copy(update={"organization_id": "o2"})
        await record(db, loud, now=NOW - timedelta(minutes=9 - number))
    await record(db, new_row("quiet", priority=1).model_copy(update={"organization_id": "o1"}))
    await record(db, new_row("nobodys", priority=1))
    claimed = [row.event_id for row in await claim(db, "critical", limit=4)]
    assert claimed == ["loud_0", "loud_1", "nobodys", "quiet"] or claimed == ["loud_0", "loud_1", "quiet", "nobodys"]
    async with db.system() as one, db.system() as other:
        first = await inbox.claim(one, "critical", 4, NOW)
        second = await inbox.claim(other, "critical", 50, NOW)
    assert len({row.id for row in (*first, *second)}) == 11 == len(first) + len(second)


async def test_a_message_is_known_by_what_was_signed_under_any_id(db: Database) -> None:
    def keyed(event_id: str, key: bytes | None) -> NewRow:
        return new_row(event_id).model_copy(update={"replay_key": key})

    assert await record(db, keyed("d-1", b"one")) == {"d-1": "normal"}
    assert await record(db, keyed("d-2", b"one"), keyed("d-3", b"two"), keyed("d-1", b"three")) == {"d-3": "normal"}
    assert set(await record(db, keyed("d-4", None), keyed("d-5", None))) == {"d-4", "d-5"}
    async with db.system() as connection:
        assert set(await inbox.record(connection, "paypal", [keyed("d-1", b"one")], NOW)) == {"d-1"}


async def test_two_drains_never_hold_the_same_row(db: Database) -> None:
    await record(db, *(new_row(f"evt_{number}") for number in range(10)))
    async with db.system() as one, db.system() as other:
        first = await inbox.claim(one, "normal", 6, NOW)
        second = await inbox.claim(other, "normal", 50, NOW)
    assert (len(first), len(second)) == (6, 4)
    assert not {row.id for row in first} & {row.id for row in second}


async def test_rows_of_a_drain_that_died_are_claimed_again(db: Database) -> None:
    await record(db, new_row("evt_1"))

    async def drain_that_dies() -> None:
        async with db.system() as connection:
            (row,) = await inbox.claim(connection, "normal", 50, NOW)
            await inbox.record_outcomes(connection, {row.id: Verdict(state="processed", attempts=0)}, NOW)
            raise RuntimeError("the worker dies")

    with pytest.raises(RuntimeError):
        await drain_that_dies()
    assert len(await claim(db)) == 1


async def test_settled_rows_say_what_became_of_them_and_are_not_claimed_again(db: Database) -> None:
    await record(db, new_row("done"), new_row("later"))
    match = Match(organization_id="o1", wedding_id="w1", step_id="deposit", ended=False)
    later = NOW + timedelta(seconds=30)
    async with db.system() as connection:
        rows = {row.event_id: row for row in await inbox.claim(connection, "normal", 50, NOW)}
        verdicts = {
            rows["done"].id: Verdict(state="processed", attempts=0, match=match),
            rows["later"].id: Verdict(state="received", attempts=1, error="does not fit", due_at=later),
        }
        await inbox.record_outcomes(connection, verdicts, NOW)
        assert await inbox.next_due_at(connection, "normal") == later
        assert await inbox.next_due_at(connection, "critical") is None
    assert await claim(db) == []
    (again,) = await claim(db, now=later)
    assert (again.event_id, again.attempts) == ("later", 1)
    async with db.system() as connection:
        table = inbox_table.c
        columns = (table.state, table.organization_id, table.wedding_id, table.step_id, table.processed_at)
        (done,) = (await connection.execute(select(*columns).where(table.event_id == "done"))).all()
    assert tuple(done) == ("processed", "o1", "w1", "deposit", NOW)


async def test_lanes_with_rows_due_too_long_are_found(db: Database) -> None:
    await record(db, new_row("evt_1", wedding_id="w2"))
    async with db.system() as connection:
        assert await inbox.overdue_lanes(connection, NOW) == ()
        assert await inbox.overdue_lanes(connection, NOW + timedelta(seconds=1)) == ("critical",)


async def test_references_and_weddings_are_found_by_their_keys_only(db: Database) -> None:
    async with db.system() as connection:
        found = await inbox.references(connection, {("stripe", "pi_day"), ("paypal", "pi_day"), ("stripe", "x")})
        rows = await inbox.wedding_rows(connection, {"w1", "nobody"})
        assert await inbox.references(connection, set()) == {}
        assert await inbox.wedding_rows(connection, set()) == {}
    assert [(key, ref.wedding_id, ref.step_id) for key, (ref,) in found.items()] == [
        (("stripe", "pi_day"), "w2", "deposit")
    ]
    assert [(row.id, row.organization_id, row.ended) for row in rows.values()] == [("w1", "o1", False)]


async def test_waiting_rows_are_found_by_an_index(db: Database) -> None:
    await record(db, new_row("evt_1"))
    async with db.system() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = (
            await connection.exec_driver_sql(
                "EXPLAIN SELECT id FROM inbox WHERE due_at <= now() AND priority > 1 "
                "ORDER BY priority, received_at LIMIT 50 FOR UPDATE SKIP LOCKED"
            )
        ).scalars()
        assert "ix_inbox_waiting" in "\n".join(plan)
