"""Microsoft Graph's client against its stand-in and the vendor's contract, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox

CONTRACT = "microsoft-graph"
REFERENCE = "0123456789abcdefghijklmnopqrstuv"


def moment(at: datetime, hours: int = 2) -> dict[str, Any]:
    local = (at + timedelta(hours=hours)).replace(tzinfo=None)
    return {"local": local.isoformat(timespec="seconds"), "zone": "Europe/Rome", "instant": at.isoformat()}


def event(hour: int = 14, **fields: Any) -> dict[str, Any]:
    starts = datetime(2027, 6, 19, hour, tzinfo=UTC)
    return {
        "title": "Ceremony",
        "starts": moment(starts),
        "ends": moment(starts + timedelta(hours=1)),
        "place": "Villa Aurora",
        "notes": "Bring the rings",
        "attendees": [
            {"id": "ada", "name": "Ada", "email": "ada@example.com"},
            {"id": "bob", "name": "Bob without address"},
        ],
        **fields,
    }


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(operation: str = "create_event", inputs: dict[str, Any] | None = None, **fields: Any) -> Call:
        return make_call("microsoft_graph", "calendar.create_event", operation, inputs or event(), **fields)

    return make


@pytest.mark.parametrize("mailbox", ["", "ada@example.com"])
async def test_an_event_is_created_in_the_mailbox_and_seen_there(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any], mailbox: str
) -> None:
    client = sandbox.client("microsoft_graph", account_id=mailbox)
    made = await client.send(call())
    seen = await client.inspect(call(facts=made.facts))
    assert made.state == seen.state == "done"
    assert made.facts["event_id"] == made.external_id
    assert str(made.facts["link"]).startswith("https://outlook.office365.com/")
    assert made.etag == seen.etag is not None
    assert made.content == seen.content is not None
    stranger = sandbox.client("microsoft_graph", account_id="eve@example.com")
    assert (await stranger.inspect(call(facts=made.facts))).state == "absent"
    assert await assert_contract("microsoft_graph", CONTRACT, responses=True) == 3


async def test_times_are_sent_as_instants_and_only_people_with_an_address_are_invited(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    await sandbox.client("microsoft_graph").send(call())
    (sent,) = await sandbox.requests("microsoft_graph", "create_event")
    body = json.loads(base64.b64decode(sent["body_base64"]))
    assert body["start"] == {"dateTime": "2027-06-19T14:00:00", "timeZone": "UTC"}
    assert [one["emailAddress"]["address"] for one in body["attendees"]] == ["ada@example.com"]
    assert body["transactionId"] == REFERENCE


async def test_a_repeated_create_makes_one_event(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("microsoft_graph")
    first, again = await client.send(call()), await client.send(call())
    assert first.external_id == again.external_id
    assert len(await sandbox.ledger("microsoft_graph")) == 1


async def test_a_dropped_answer_is_unknown_and_found_by_our_property(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("microsoft_graph")
    assert await client.find(call()) is None
    await sandbox.faults("microsoft_graph", mode="commit_then_drop", operation="create_event", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(call())
    found = await client.find(call())
    (entry,) = await sandbox.ledger("microsoft_graph")
    assert found is not None
    assert found.external_id == entry["object_id"]
    assert await client.find(call(reference=REFERENCE[::-1])) is None
    await assert_contract("microsoft_graph", CONTRACT, responses=True)


async def test_an_undo_deletes_the_event_once(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("microsoft_graph")
    made = await client.send(call())
    undo = call("delete_event", facts=made.facts)
    assert [(await client.send(undo)).state for _ in range(2)] == ["done", "absent"]
    assert (await client.inspect(undo)).state == "absent"
    assert (await sandbox.ledger("microsoft_graph"))[0]["state"] == "undone"
    await assert_contract("microsoft_graph", CONTRACT, responses=True)


async def test_a_change_moves_the_event_and_its_version(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    client = sandbox.client("microsoft_graph")
    made = await client.send(call())
    moved = await client.send(call("update_event", event(hour=16), facts=made.facts))
    assert moved.state == "done"
    assert moved.etag != made.etag
    assert moved.content != made.content
    (one,) = await sandbox.requests("microsoft_graph", "update_event")
    answer = json.loads(base64.b64decode(one["response_body_base64"]))
    assert answer["start"]["dateTime"].startswith("2027-06-19T16:00:00")
    gone = call("update_event", facts={"event_id": "AAMkNever"})
    with pytest.raises(VendorRejected) as refused:
        await client.send(gone)
    assert refused.value.reason == "ErrorItemNotFound"
    await assert_contract("microsoft_graph", CONTRACT, responses=True)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 11}, VendorThrottled),
        ({"mode": "refuse"}, VendorRejected),
    ],
)
async def test_faults_become_their_errors(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], fault: dict[str, Any], error: type[Exception]
) -> None:
    await sandbox.faults("microsoft_graph", **fault)
    with pytest.raises(error) as raised:
        await sandbox.client("microsoft_graph").send(call())
    if isinstance(raised.value, VendorRejected):
        assert raised.value.reason == "ErrorAccessDenied"


async def test_a_refused_token_is_not_authorized(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("microsoft_graph", api_key="revoked").send(call())


async def test_an_event_that_ends_before_it_starts_is_not_sent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    backwards = event(ends=moment(datetime(2027, 6, 19, 13, tzinfo=UTC)))
    with pytest.raises(InvalidInput):
        await sandbox.client("microsoft_graph").send(call(inputs=backwards))
    assert await sandbox.requests("microsoft_graph") == []


@pytest.mark.parametrize("operation", ["update_event", "delete_event", "create_meeting"])
async def test_without_what_it_needs_nothing_is_sent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], operation: str
) -> None:
    with pytest.raises(InvalidInput):
        await sandbox.client("microsoft_graph").send(call(operation))
    assert await sandbox.requests("microsoft_graph") == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=draw(st.integers(0, 9 * 365 * 24 * 60)))
    people = st.fixed_dictionaries(
        {"id": st.just("c"), "name": TEXT, "email": st.sampled_from([None, "zoë@example.com", "a@b.test"])}
    )
    return {
        "title": draw(TEXT),
        "starts": moment(at, 9),
        "ends": moment(at + timedelta(minutes=draw(st.integers(1, 20_000))), 9),
        "place": draw(TEXT),
        "notes": draw(TEXT),
        "attendees": draw(st.lists(people, max_size=4)),
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=events())
async def test_every_request_is_valid_by_the_contract(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any], inputs: dict[str, Any]
) -> None:
    await sandbox.reset()
    client = sandbox.client("microsoft_graph")
    made = await client.send(call(inputs=inputs))
    await client.send(call("update_event", inputs, facts=made.facts))
    await client.find(call(inputs=inputs))
    await client.inspect(call(inputs=inputs, facts=made.facts))
    await client.send(call("delete_event", inputs, facts=made.facts))
    assert await assert_contract("microsoft_graph", CONTRACT, responses=True) == 5
