from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.inbox.messages import DrainTotals, retry_workflow_id
from wedsync.domain.inbox.triage import NewRow
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import WEDDING_WORKFLOW, wedding_workflow_id
from wedsync.local.temporal_server import DYNAMIC_CONFIG, EmbeddedTemporal
from wedsync.store.db.session import Database
from wedsync.store.inbox import operator_queries
from wedsync.store.inbox import queries as inbox
from wedsync.store.inbox.tables import contact_refs
from wedsync.store.inbox.tables import inbox as inbox_table
from wedsync.usecases.inbox.decide import FULL_WAIT
from wedsync.usecases.inbox.drain import drain_batch, retry_event

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
VENDOR_KEY = SearchAttributeKey.for_keyword_list("Vendor")


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
    await drain(house, NOW)
    await drain(house, NOW + timedelta(minutes=9))
    row = (await house.rows())["evt_1"]
    assert (row.state, row.due_at) == ("unmatched", None)
    assert (await drain(house, NOW + timedelta(days=1))).next_due_seconds is None


async def test_an_event_that_nobody_could_look_at_for_long_is_awaited_as_any_other(house: Any) -> None:
    wedding, late = await house.add_wedding(), NOW + timedelta(minutes=30)
    await house.record("evt_1", object_id="pi_1")
    await drain(house, late)
    row = (await house.rows())["evt_1"]
    assert (row.state, row.due_at - late < timedelta(seconds=5)) == ("unmatched", True)
    await house.add_reference(wedding, "pi_1")
    assert (await drain(house, late + timedelta(seconds=5))).totals == DrainTotals(processed=1)


async def test_a_replayed_event_is_awaited_anew(house: Any) -> None:
    await house.record("evt_1", object_id="pi_1")
    await drain(house, NOW)
    await drain(house, NOW + timedelta(minutes=9))
    later = NOW + timedelta(days=1)
    async with house.db.system() as connection:
        everything = {"ids": None, "source": None, "since": None, "until": None, "limit": 10}
        await operator_queries.replay(
            connection, operator_queries.Scope("o1", True), later, states=["unmatched"], **everything
        )
    await drain(house, later)
    assert (await house.rows())["evt_1"].due_at is not None


@pytest.mark.parametrize(
    ("status", "state", "note"),
    [
        ("ended", "processed", "the wedding has ended"),
        ("cancelled", "processed", "the wedding has ended"),
        ("active", "retrying", "the wedding's workflow does not run"),
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
    row = (await house.rows())["bad"]
    assert (row.state, row.attempts, row.due_at) == ("retrying", 1, NOW + timedelta(seconds=10))
    # Its own workflow tries it again; the drain leaves it alone.
    assert (await drain(house, NOW + timedelta(days=1))).claimed == 0
    handle = house.client.get_workflow_handle(retry_workflow_id(row.id))
    described = await handle.describe()
    assert (described.workflow_type, described.typed_search_attributes[VENDOR_KEY]) == ("RetryWebhook", ["stripe"])
    await handle.terminate()
    retried = [await retry_event(house.db, house.provider, row.id, NOW) for _ in range(8)]
    assert [one.wait_seconds for one in retried] == [30, 90, 270, 810, 2430, 3600, 3600, None]
    assert (retried[-1].state, retried[-1].attempts) == ("dead", 9)
    # A dead one is not tried again.
    assert (await retry_event(house.db, house.provider, row.id, NOW)).wait_seconds is None
    row = (await house.rows())["bad"]
    assert (row.state, row.attempts, row.due_at) == ("dead", 9, None)
    assert row.error.startswith("the stored event does not fit: ")
    assert "Anna" not in row.error


async def test_an_event_that_postgres_refuses_never_stops_its_lane(house: Any) -> None:
    wedding = await house.add_wedding()
    # Random, so that Postgres can't compress it to fit an index entry.
    await house.record("long", wedding_id=wedding, object_id=secrets.token_hex(5000), occurred_at=NOW)
    await house.record("good", wedding_id=wedding, object_id="pi_1", occurred_at=NOW)
    assert (await drain(house)).totals == DrainTotals(processed=1, put_off=1)
    rows = await house.rows()
    assert (rows["good"].state, rows["long"].state, rows["long"].attempts) == ("processed", "retrying", 1)
    assert rows["long"].error == "the event could not be processed: ProgramLimitExceeded"
    handle = house.client.get_workflow_handle(retry_workflow_id(rows["long"].id))
    assert (await handle.describe()).workflow_type == "RetryWebhook"
    await handle.terminate()
    again = await retry_event(house.db, house.provider, rows["long"].id, NOW)
    assert (again.state, again.attempts, again.wait_seconds) == ("retrying", 2, 30)
    assert (await drain(house, NOW + timedelta(hours=1))).claimed == 0


async def test_an_event_that_cannot_be_compared_never_stops_its_lane(house: Any) -> None:
    wedding = await house.add_wedding()
    for event_id, moment in (("aware", NOW), ("naive", NOW.replace(tzinfo=None)), ("none", None)):
        await house.record(event_id, wedding_id=wedding, object_id="pi_1", occurred_at=moment)
    await house.record("not one", wedding_id=wedding)
    async with house.db.system() as connection:
        row = update(inbox_table).where(inbox_table.c.event_id == "not one")
        await connection.execute(row.values(event=["no event"]))
    assert (await drain(house)).totals == DrainTotals(processed=2, put_off=2)
    rows = await house.rows()
    assert {name: row.state for name, row in rows.items()} == {
        "aware": "processed", "none": "processed", "naive": "retrying", "not one": "retrying",
    }  # fmt: skip
    assert sorted({event.event_id for event in await house.told(wedding)}) == ["aware", "none"]
    for name in ("naive", "not one"):
        await house.client.get_workflow_handle(retry_workflow_id(rows[name].id)).terminate()


async def test_an_older_event_never_follows_a_newer_one_of_the_same_object(house: Any) -> None:
    wedding = await house.add_wedding()
    at = NOW - timedelta(minutes=5)
    same = {"wedding_id": wedding, "object_id": "pi_1"}
    await house.record("newer", occurred_at=at, **same)
    await drain(house)
    await house.record("older", occurred_at=at - timedelta(seconds=1), type="payment.failed", **same)
    await house.record("equal", occurred_at=at, **same)
    await house.record("timeless", **same)
    await house.record("other topic", occurred_at=at - timedelta(days=1), type="booking.confirmed", **same)
    await drain(house)
    told = [event.event_id for event in await house.told(wedding)]
    assert sorted(told) == ["equal", "newer", "other topic", "timeless"]
    row = (await house.rows())["older"]
    assert (row.state, row.error) == ("processed", "a newer event of the same object was processed before")


async def test_events_of_one_object_in_one_batch_are_told_in_the_order_they_occurred(house: Any) -> None:
    wedding = await house.add_wedding()
    order = [3, 1, 4, 0, 2]
    for number in order:
        moment = NOW - timedelta(minutes=10) + timedelta(seconds=number)
        await house.record(f"evt_{number}", wedding_id=wedding, object_id="pi_1", occurred_at=moment)
    assert (await drain(house)).totals == DrainTotals(processed=5)
    assert [event.event_id for event in await house.told(wedding)] == [f"evt_{number}" for number in range(5)]


async def test_an_event_is_matched_by_the_phone_it_names(house: Any) -> None:
    wedding, other = await house.add_wedding(), await house.add_wedding()
    async with house.db.system() as connection:
        for known, digest in ((wedding, b"one"), (other, b"two")):
            values = {
                "organization_id": "o1",
                "digest": digest,
                "wedding_id": known,
                "contact_id": "a",
                "created_at": NOW,
            }
            await connection.execute(insert(contact_refs).values(values))
        told = VendorEvent(source="twilio", event_id="SM1", type="message.delivered", vendor_type="x")
        rows = [("twilio", NewRow(event=told, priority=3, sealed_body=b"", contacts=(b"two", b"unknown")))]
        await inbox.record_all(connection, rows, NOW)
    assert (await drain(house)).totals == DrainTotals(processed=1)
    assert [event.event_id for event in await house.told(other)] == ["SM1"]
    assert await house.told(wedding) == []


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


async def test_a_wedding_whose_run_takes_no_more_signals_is_told_later(house: Any, tmp_path: Path) -> None:
    wedding, other = await house.add_wedding(is_running=False), await house.add_wedding(is_running=False)
    config = {**DYNAMIC_CONFIG, "history.maximumSignalsPerExecution": "2"}
    server = EmbeddedTemporal(tmp_path, headless=True, dynamic_config=config)
    await asyncio.to_thread(server.start)
    try:
        client = await Client.connect(server.address, data_converter=house.client.data_converter)

        async def provider() -> Client:
            return client

        for wedding_id in (wedding, other):
            await client.start_workflow(WEDDING_WORKFLOW, id=wedding_workflow_id(wedding_id), task_queue="nobody's")
        for number in range(3):
            await house.record(f"evt_{number}", wedding_id=wedding)
        assert (await drain_batch(house.db, provider, "normal", 50, NOW)).totals == DrainTotals(processed=2, put_off=1)
        # Alone in its batch, it keeps nobody waiting.
        later = NOW + FULL_WAIT
        assert (await drain_batch(house.db, provider, "normal", 50, later)).totals == DrainTotals(put_off=1)
        (full,) = [row for row in (await house.rows()).values() if row.state != "processed"]
        assert (full.state, full.attempts, full.due_at) == ("received", 0, later + FULL_WAIT)
        await house.record("evt_9", wedding_id=other, received_at=later)
        assert (await drain_batch(house.db, provider, "normal", 50, later)).totals == DrainTotals(processed=1)
    finally:
        await asyncio.to_thread(server.stop)


async def test_without_a_database_the_batch_fails_as_unavailable(house: Any) -> None:
    db = Database("postgresql://nobody:x@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable):
        await drain_batch(db, house.provider, "normal", 50, NOW)
    await db.close()
