from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Client
from temporalio.service import RPCError

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.webhooks.messages import DrainTotals
from wedsync.store.session import Database
from wedsync.store.tables.webhooks import inbox as inbox_table
from wedsync.usecases.webhooks.drain import drain_batch

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


async def drain(house: Any, now: datetime = NOW) -> Any:
    return await drain_batch(house.db, house.provider, "normal", 50, now)


async def test_an_event_that_names_its_wedding_is_told_to_it(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.record("evt_1", wedding_id=wedding, step_id="deposit", object_id="pi_1", facts={"amount_minor": 5})
    drained = await drain(house)
    assert (drained.claimed, drained.totals) == (1, DrainTotals(processed=1))
    (told,) = await house.told(wedding)
    assert (told.source, told.event_id, told.step_id, told.facts) == ("stripe", "evt_1", "deposit", {"amount_minor": 5})
    row = (await house.rows())["evt_1"]
    assert (row.state, row.organization_id, row.wedding_id, row.step_id, row.due_at) == (
        "processed",
        "o1",
        wedding,
        "deposit",
        None,
    )


async def test_an_event_about_a_held_object_is_told_to_its_holder(house: Any) -> None:
    wedding, other = await house.add_wedding(), await house.add_wedding()
    await house.add_reference(wedding, "pi_1", "deposit")
    await house.add_reference(other, "pi_2", "deposit")
    await house.record("evt_1", object_id="pi_1")
    await drain(house)
    (told,) = await house.told(wedding)
    assert (told.wedding_id, told.step_id) == (wedding, "deposit")
    assert await house.told(other) == []


async def test_an_event_that_no_step_waits_for_is_kept_and_told_to_nobody(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.record("evt_1", type="other", wedding_id=wedding)
    await house.record("evt_2", type="other")
    assert (await drain(house)).totals == DrainTotals(processed=2)
    assert await house.told(wedding) == []
    assert (await house.rows())["evt_1"].organization_id == "o1"


async def test_an_event_that_overtakes_its_reference_is_told_once_the_reference_is_written(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.record("evt_1", object_id="pi_1")
    assert (await drain(house)).totals == DrainTotals(unmatched=1)
    row = (await house.rows())["evt_1"]
    assert (row.state, row.error, row.attempts) == ("unmatched", "no wedding claims it", 0)
    idle = await drain(house, NOW + timedelta(milliseconds=400))
    assert (idle.claimed, idle.next_due_seconds) == (0, pytest.approx(0.6))
    await house.add_reference(wedding, "pi_1")
    assert (await drain(house, NOW + timedelta(seconds=1))).totals == DrainTotals(processed=1)
    assert [event.event_id for event in await house.told(wedding)] == ["evt_1"]


async def test_an_event_that_nobody_claims_rests_after_ten_minutes_and_stays_visible(house: Any) -> None:
    await house.record("evt_1", object_id="pi_1")
    await drain(house, NOW + timedelta(minutes=9))
    row = (await house.rows())["evt_1"]
    assert (row.state, row.due_at) == ("unmatched", None)
    assert (await drain(house, NOW + timedelta(days=1))).next_due_seconds is None


@pytest.mark.parametrize(
    ("status", "state", "note"),
    [
        ("ended", "processed", "the wedding has ended"),
        ("cancelled", "processed", "the wedding has ended"),
        ("active", "received", "the wedding's workflow does not run"),
    ],
)
async def test_an_event_of_a_silent_wedding_is_settled_only_if_the_wedding_has_ended(
    house: Any, status: str, state: str, note: str
) -> None:
    wedding = await house.add_wedding(status=status, is_running=False)
    await house.record("evt_1", wedding_id=wedding)
    await drain(house)
    row = (await house.rows())["evt_1"]
    assert (row.state, row.error, row.wedding_id) == (state, note, wedding)


async def test_one_bad_event_does_not_hold_up_the_others_and_dies_with_its_reason(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.record("bad", wedding_id=wedding)
    await house.record("good", wedding_id=wedding)
    async with house.db.system() as connection:
        broken = update(inbox_table).where(inbox_table.c.event_id == "bad").values(event={"type": ["Anna's secret"]})
        await connection.execute(broken)
    assert (await drain(house)).totals == DrainTotals(processed=1, put_off=1)
    assert [event.event_id for event in await house.told(wedding)] == ["good"]
    now = NOW
    for _ in range(4):
        now += timedelta(hours=1)
        last = await drain(house, now)
    assert last.totals == DrainTotals(dead=1)
    row = (await house.rows())["bad"]
    assert (row.state, row.attempts, row.due_at) == ("dead", 5, None)
    assert row.error.startswith("the stored event does not fit: ")
    assert "Anna" not in row.error


@pytest.mark.parametrize("fault", ["no server", "no namespace"])
async def test_a_batch_whose_weddings_cannot_be_told_is_left_as_it_was(house: Any, fault: str) -> None:
    wedding = await house.add_wedding()
    await house.record("evt_1", wedding_id=wedding)

    async def failing() -> Client:
        served = house.client.service_client.config
        address, namespace = ("127.0.0.1:1", "default") if fault == "no server" else (served.target_host, "gone")
        converter = house.client.data_converter
        return await Client.connect(address, namespace=namespace, data_converter=converter, lazy=True)

    with pytest.raises((RuntimeError, RPCError)):
        await drain_batch(house.db, failing, "normal", 50, NOW)
    row = (await house.rows())["evt_1"]
    assert (row.state, row.attempts, row.due_at) == ("received", 0, NOW)
    assert (await drain(house)).totals == DrainTotals(processed=1)


async def test_without_a_database_the_batch_fails_as_unavailable(house: Any) -> None:
    db = Database("postgresql://nobody:x@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable):
        await drain_batch(db, house.provider, "normal", 50, NOW)
    await db.close()
