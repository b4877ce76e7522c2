"""VSCO Workspace's client against its stand-in and the vendor's contract, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call, Effect
from wedsync.sandbox.embedded import EmbeddedSandbox

CONTRACT = "vsco-workspace-tave"
REFERENCE = "0123456789abcdefghijklmnopqrstuv"


def moment(at: datetime, offset_minutes: int = 120, zone: str = "Europe/Rome") -> dict[str, Any]:
    local = at.astimezone(timezone(timedelta(minutes=offset_minutes))).replace(tzinfo=None)
    return {"local": local.isoformat(timespec="seconds"), "zone": zone, "instant": at.isoformat()}


def booking(hour: int = 14, **fields: Any) -> dict[str, Any]:
    starts = datetime(2027, 6, 19, hour, tzinfo=UTC)
    return {
        "title": "Photography",
        "starts": moment(starts),
        "ends": moment(starts + timedelta(hours=9)),
        "guests": 80,
        "contact": {"id": "ada", "name": "Ada Lovelace", "email": "ada@example.com"},
        "price": "2400.00",
        "currency": "EUR",
        "price_minor": 240000,
        **fields,
    }


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(operation: str, inputs: dict[str, Any] | None = None, **fields: Any) -> Call:
        return make_call("vsco", "booking.request", operation, inputs or booking(), **fields)

    return make


async def book(client: Any, call: Callable[..., Call], inputs: dict[str, Any] | None = None, **fields: Any) -> Effect:
    job = await client.send(call("create_job", inputs, **fields))
    added: Effect = await client.send(call("add_event", inputs, facts=job.facts, **fields))
    return added


async def test_a_booking_is_a_booked_job_with_its_session(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("vsco")
    booked = await book(client, call)
    assert booked.state == "done"
    assert booked.facts["booking_id"] == booked.external_id == booked.facts["job_id"]
    assert (await client.inspect(call("add_event", facts=booked.facts))).state == "done"
    assert [entry["operation"] for entry in await sandbox.ledger("vsco")] == ["create_job", "add_event"]
    assert await assert_contract("vsco", CONTRACT, responses=True) == 3


async def test_the_session_is_at_the_venues_wall_time(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    await book(sandbox.client("vsco"), call)
    job, event = [json.loads(base64.b64decode(one["body_base64"])) for one in await sandbox.requests("vsco")]
    assert job["eventDate"] == "2027-06-19"
    assert job["externalMappings"][0]["id"] == event["externalMappings"][0]["id"] == REFERENCE
    times = [event[name] for name in ("startDate", "startTime", "endDate", "endTime", "timezoneName")]
    assert times == ["2027-06-19", "16:00:00", "2027-06-20", "01:00:00", "Europe/Rome"]


async def test_a_studio_that_answers_later_gets_a_lead_and_the_step_waits(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    await sandbox.webhook_policy("vsco", muted=True)
    await sandbox.set_clock("2026-11-20T12:00:00+00:00")
    client = sandbox.client("vsco")
    inputs = booking(answer="webhook")
    waiting = await book(client, call, inputs)
    assert waiting.state == "waiting"
    await sandbox.set_clock("2026-11-20T12:10:00+00:00")
    assert (await client.inspect(call("add_event", inputs, facts=waiting.facts))).state == "done"
    await assert_contract("vsco", CONTRACT, responses=True)


async def test_a_lead_waits_and_a_closed_one_was_turned_down(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("vsco")
    inputs = booking(answer="webhook")
    lead = await client.send(call("create_job", inputs))
    asked = call("add_event", inputs, facts=lead.facts)
    assert (await client.inspect(asked)).state == "waiting"
    path, key = f"/job/{lead.external_id}", {"X-API-KEY": "studio"}
    await sandbox.http("vsco").request("PUT", path, json_body={"closed": True}, headers=key)
    with pytest.raises(VendorRejected) as refused:
        await client.inspect(asked)
    assert refused.value.reason == "job_closed"
    assert await client.find(call("create_job", inputs)) is not None


async def test_operations_that_vsco_has_not_are_invalid(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("vsco")
    with pytest.raises(InvalidInput):
        await client.send(call("confirm"))
    with pytest.raises(InvalidInput):
        await client.find(call("delete_job"))
    with pytest.raises(InvalidInput):
        await client.send(call("create_job", {"title": 3}))


@pytest.mark.parametrize("operation", ["create_job", "add_event"])
async def test_a_dropped_answer_is_unknown_and_found_by_external_mapping(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any], operation: str
) -> None:
    client = sandbox.client("vsco")
    job = None if operation == "create_job" else await client.send(call("create_job"))
    attempt = call(operation, facts=job.facts if job else {})
    assert await client.find(attempt) is None
    await sandbox.faults("vsco", mode="commit_then_drop", operation=operation, times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(attempt)
    found = await client.find(attempt)
    newest = (await sandbox.ledger("vsco"))[-1]
    assert found is not None
    assert newest["object_id"] == found.facts["job_id" if operation == "create_job" else "event_id"]
    await assert_contract("vsco", CONTRACT, responses=True)


async def test_an_undo_deletes_the_event_and_the_job_once(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("vsco")
    booked = await book(client, call)
    for expected in ("done", "absent"):
        states = [
            (await client.send(call(operation, facts=booked.facts))).state
            for operation in ("delete_event", "delete_job")
        ]
        assert states == [expected, expected]
    assert {entry["state"] for entry in await sandbox.ledger("vsco")} == {"undone"}
    assert (await client.inspect(call("add_event", facts=booked.facts))).state == "absent"
    await assert_contract("vsco", CONTRACT)


async def test_an_undo_without_an_event_deletes_only_the_job(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("vsco")
    job = await client.send(call("create_job"))
    assert (await client.send(call("delete_event", facts=job.facts))).state == "absent"
    assert (await client.send(call("delete_job", facts=job.facts))).state == "done"


async def test_a_change_moves_job_and_session(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("vsco")
    booked = await book(client, call)
    later = booking(hour=40 - 24)
    for operation in ("update_job", "update_event"):
        assert (await client.send(call(operation, later, facts=booked.facts))).state == "done"
    newest = (await sandbox.requests("vsco", "update_event"))[-1]
    assert json.loads(base64.b64decode(newest["response_body_base64"]))["startTime"] == "18:00:00"
    await assert_contract("vsco", CONTRACT, responses=True)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 9}, VendorThrottled),
        ({"mode": "refuse", "operation": "create_job"}, VendorRejected),
    ],
)
async def test_faults_become_their_errors(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], fault: dict[str, Any], error: type[Exception]
) -> None:
    await sandbox.faults("vsco", **fault)
    with pytest.raises(error) as raised:
        await sandbox.client("vsco").send(call("create_job"))
    if isinstance(raised.value, VendorThrottled):
        assert raised.value.retry_after_seconds == 9
    if isinstance(raised.value, VendorRejected):
        assert raised.value.reason == "validation-error"


async def test_a_refused_key_is_not_authorized(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("vsco", api_key="revoked").send(call("create_job"))


async def test_an_event_needs_its_job(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("vsco")
    with pytest.raises(InvalidInput):
        await client.send(call("add_event"))
    with pytest.raises(VendorRejected):
        await client.send(call("add_event", facts={"job_id": "01h35ccwymj5ctckp8px1azhg6"}))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


@st.composite
def bookings(draw: st.DrawFn) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=draw(st.integers(0, 9 * 365 * 24 * 60)))
    offset, zone = draw(
        st.sampled_from([(540, "Asia/Tokyo"), (330, "Asia/Kolkata"), (0, "UTC"), (-600, "Pacific/Honolulu")])
    )
    return {
        "title": draw(TEXT),
        "starts": moment(at, offset, zone),
        "ends": moment(at + timedelta(minutes=draw(st.integers(1, 20_000))), offset, zone),
        "guests": draw(st.integers(0, 100_000)),
        "contact": {"id": "c", "name": draw(TEXT)},
        "price": draw(st.sampled_from([None, "80000", "12.345"])),
        "currency": draw(st.sampled_from(["JPY", "KWD", "EUR"])),
        "notes": draw(TEXT) if draw(st.booleans()) else "",
        "answer": draw(st.sampled_from(["now", "webhook"])),
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=bookings())
async def test_every_request_is_valid_by_the_contract(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any], inputs: dict[str, Any]
) -> None:
    await sandbox.reset()
    client = sandbox.client("vsco", webhook_url="")
    booked = await book(client, call, inputs)
    for operation in ("update_job", "update_event", "delete_event", "delete_job"):
        await client.send(call(operation, inputs, facts=booked.facts))
    for operation in ("create_job", "add_event"):
        assert await client.find(call(operation, inputs)) is None
    assert await assert_contract("vsco", CONTRACT, responses=True) == 8
