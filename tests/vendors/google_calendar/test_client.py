"""The client against the stand-in, over real HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
)
from wedsync.domain.vendors.call import Call
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.google_calendar import mapping

REFERENCE = "0123456789abcdefghijklmnopqrstuv"
ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}
Make = Callable[..., Call]
Inputs = Callable[..., dict[str, Any]]


@pytest.fixture
def client(sandbox: EmbeddedSandbox) -> VendorClient:
    return sandbox.client("google_calendar", account_id="studio@example.com", api_key="ya29.token")


async def sent(sandbox: EmbeddedSandbox, operation: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    request = (await sandbox.requests("google_calendar", operation))[-1]
    body = base64.b64decode(request["body_base64"])
    return json.loads(body) if body else {}, parse_qs(urlsplit(request["url"]).query)


async def test_an_event_is_made_under_our_reference(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make, event_inputs: Inputs
) -> None:
    inputs = event_inputs(place="Villa Aurora", notes="Bring rings", attendees=[ADA])
    effect = await client.send(calendar_call(inputs=inputs))
    (entry,) = await sandbox.ledger("google_calendar")
    assert (effect.state, effect.external_id, entry["object_id"]) == ("done", REFERENCE, REFERENCE)
    assert effect.facts["event_id"] == REFERENCE
    assert str(effect.facts["link"]).startswith("https://")
    assert effect.etag
    body, query = await sent(sandbox, "insert_event")
    assert query == {"sendUpdates": ["all"]}
    assert body == {
        "id": REFERENCE,
        "summary": "Ceremony",
        "start": {"dateTime": "2027-06-19T16:00:00", "timeZone": "Europe/Rome"},
        "end": {"dateTime": "2027-06-19T17:00:00", "timeZone": "Europe/Rome"},
        "location": "Villa Aurora",
        "description": "Bring rings",
        "attendees": [{"email": "ada@example.com", "displayName": "Ada"}],
        "extendedProperties": {
            "private": {"wedding_id": "wedding-1", "step_id": "step-1", "wedsync_reference": REFERENCE}
        },
    }


async def test_without_attendees_nobody_is_told(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    await client.send(calendar_call())
    body, query = await sent(sandbox, "insert_event")
    assert query == {"sendUpdates": ["none"]}
    assert "attendees" not in body


async def test_a_repeated_wall_time_is_told_apart_by_its_offset(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    moment = {"local": "2027-10-31T02:30:00", "zone": "Europe/Rome", "instant": "2027-10-31T01:30:00Z"}
    ends = {"local": "2027-10-31T04:30:00", "zone": "Europe/Rome", "instant": "2027-10-31T03:30:00Z"}
    await client.send(calendar_call(inputs={"title": "Late", "starts": moment, "ends": ends}))
    body, _ = await sent(sandbox, "insert_event")
    assert body["start"]["dateTime"] == "2027-10-31T02:30:00+01:00"
    assert body["end"]["dateTime"] == "2027-10-31T04:30:00"


async def test_an_event_whose_answer_was_lost_is_found(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    await sandbox.faults("google_calendar", mode="commit_then_drop", operation="insert_event")
    with pytest.raises(OutcomeUnknown):
        await client.send(calendar_call())
    found = await client.find(calendar_call())
    assert found is not None
    assert (found.state, found.external_id) == ("done", REFERENCE)
    assert len(await sandbox.ledger("google_calendar")) == 1


async def test_an_event_that_was_made_already_is_adopted(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    first = await client.send(calendar_call())
    second = await client.send(calendar_call())
    assert (second.external_id, second.facts) == (first.external_id, first.facts)
    assert len(await sandbox.ledger("google_calendar")) == 1


async def test_an_event_that_is_not_there_is_not_found(client: VendorClient, calendar_call: Make) -> None:
    assert await client.find(calendar_call()) is None


async def test_another_ones_event_under_our_id_is_not_adopted(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make, event_inputs: Inputs
) -> None:
    http = sandbox.http("google_calendar")
    times = {name: {"dateTime": "2027-06-19T16:00:00", "timeZone": "Europe/Rome"} for name in ("start", "end")}
    path = "/calendars/studio@example.com/events"
    headers = {"Authorization": "Bearer other"}
    await http.request("POST", path, json_body={"id": REFERENCE, "summary": "Dentist", **times}, headers=headers)
    assert await client.find(calendar_call()) is None
    with pytest.raises(VendorRejected) as caught:
        await client.send(calendar_call())
    assert (caught.value.reason, caught.value.status) == ("duplicate", 409)


async def test_the_id_of_a_deleted_event_is_rejected(client: VendorClient, calendar_call: Make) -> None:
    effect = await client.send(calendar_call())
    await client.send(calendar_call("delete_event", facts=effect.facts))
    assert await client.find(calendar_call()) is None
    with pytest.raises(VendorRejected) as caught:
        await client.send(calendar_call())
    assert caught.value.reason == "duplicate"
    again = await client.send(calendar_call(reference="v" * 32))
    assert again.external_id == "v" * 32


async def test_a_taken_id_that_can_not_be_read_stays_unknown(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    await client.send(calendar_call())
    await sandbox.faults("google_calendar", mode="down", operation="get_event")
    with pytest.raises(OutcomeUnknown):
        await client.send(calendar_call())


async def test_a_delete_undoes_and_may_be_repeated(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    effect = await client.send(calendar_call())
    undo = calendar_call("delete_event", facts=effect.facts)
    assert (await client.send(undo)).state == "done"
    assert (await client.send(undo)).state == "absent"
    (entry,) = await sandbox.ledger("google_calendar")
    assert entry["state"] == "undone"


async def test_a_delete_whose_answer_was_lost_may_be_repeated(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make
) -> None:
    effect = await client.send(calendar_call())
    await sandbox.faults("google_calendar", mode="commit_then_drop", operation="delete_event", times=1)
    undo = calendar_call("delete_event", facts=effect.facts)
    with pytest.raises(OutcomeUnknown):
        await client.send(undo)
    assert (await client.send(undo)).state == "absent"


async def test_an_undo_without_facts_goes_by_the_reference(client: VendorClient, calendar_call: Make) -> None:
    assert (await client.send(calendar_call("delete_event"))).state == "absent"
    await client.send(calendar_call())
    assert (await client.send(calendar_call("delete_event"))).state == "done"


async def test_a_change_moves_the_event_and_the_old_inputs_move_it_back(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make, event_inputs: Inputs
) -> None:
    old = event_inputs(attendees=[ADA])
    new = event_inputs("2027-06-20T11:30:00", attendees=[ADA])
    made = await client.send(calendar_call(inputs=old))
    change = calendar_call("update_event", new, facts=made.facts, previous_inputs=old)
    moved = await client.send(change)
    assert moved.etag != made.etag
    assert moved.content != made.content
    body, query = await sent(sandbox, "update_event")
    assert set(body) == {"start", "end"}
    assert body["start"] == {"dateTime": "2027-06-20T11:30:00", "timeZone": "Europe/Rome"}
    assert query == {"sendUpdates": ["all"]}
    back = await client.send(calendar_call("update_event", old, facts=made.facts, previous_inputs=new))
    assert (back.state, back.external_id) == ("done", REFERENCE)
    body, _ = await sent(sandbox, "update_event")
    assert body["start"]["dateTime"] == "2027-06-19T16:00:00"


async def test_a_change_carries_only_what_differs(
    sandbox: EmbeddedSandbox, client: VendorClient, calendar_call: Make, event_inputs: Inputs
) -> None:
    old = event_inputs(place="Villa Aurora", attendees=[ADA])
    made = await client.send(calendar_call(inputs=old))
    change = calendar_call("update_event", event_inputs(), facts=made.facts, previous_inputs=old)
    await client.send(change)
    body, query = await sent(sandbox, "update_event")
    assert set(body) == {"start", "end", "location", "attendees"}
    assert (body["location"], body["attendees"]) == ("", [])
    assert query == {"sendUpdates": ["all"]}
    await client.send(calendar_call("update_event", facts=made.facts))
    assert set((await sent(sandbox, "update_event"))[0]) > {"start", "end", "summary"}


async def test_a_change_of_a_deleted_event_is_rejected(client: VendorClient, calendar_call: Make) -> None:
    made = await client.send(calendar_call())
    await client.send(calendar_call("delete_event", facts=made.facts))
    with pytest.raises(VendorRejected):
        await client.send(calendar_call("update_event", facts=made.facts))


async def test_look_shows_the_event_and_its_version(client: VendorClient, calendar_call: Make) -> None:
    assert (await client.inspect(calendar_call())).state == "absent"
    made = await client.send(calendar_call())
    seen = await client.inspect(calendar_call(facts=made.facts))
    assert (seen.state, seen.etag, seen.content) == ("done", made.etag, made.content)
    await client.send(calendar_call("delete_event", facts=made.facts))
    assert (await client.inspect(calendar_call(facts=made.facts))).state == "absent"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"minutes": -1}, "inputs.ends"),
        ({"attendees": [{"id": "bo", "name": "Bo"}]}, "inputs.attendees.0.email"),
        ({"starts": {"local": "noon", "zone": "Europe/Rome", "instant": "2027-06-19T10:00:00Z"}}, "inputs.starts"),
        (
            {"starts": {"local": "2027-06-19T12:00", "zone": "Nowhere/X", "instant": "2027-06-19T10:00:00Z"}},
            "inputs.starts",
        ),
        ({"title": None}, "inputs.title"),
    ],
)
async def test_a_faulty_event_is_refused_before_it_is_sent(
    sandbox: EmbeddedSandbox,
    client: VendorClient,
    calendar_call: Make,
    event_inputs: Inputs,
    fields: dict[str, Any],
    field: str,
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.send(calendar_call(inputs=event_inputs(**fields)))
    assert caught.value.field == field
    assert await sandbox.requests("google_calendar") == []


async def test_a_reference_or_operation_google_does_not_take_is_invalid(
    client: VendorClient, calendar_call: Make
) -> None:
    with pytest.raises(InvalidInput):
        await client.send(calendar_call(reference="WXYZ-1"))
    with pytest.raises(InvalidInput):
        await client.send(calendar_call("confirm"))


async def test_without_a_token_nothing_is_sent(sandbox: EmbeddedSandbox, calendar_call: Make) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("google_calendar", api_key="").send(calendar_call())
    assert await sandbox.requests("google_calendar") == []


@pytest.mark.parametrize(
    ("reason", "status", "kind"),
    [
        ("rateLimitExceeded", 403, VendorThrottled),
        ("userRateLimitExceeded", 403, VendorThrottled),
        ("quotaExceeded", 403, VendorThrottled),
        ("insufficientPermissions", 403, NotAuthorized),
        ("forbiddenForNonOrganizer", 403, VendorRejected),
        ("rateLimitExceeded", 400, VendorRejected),
    ],
)
def test_googles_reason_decides_over_the_status(reason: str, status: int, kind: type[VendorError]) -> None:
    reread = mapping.reread(VendorRejected("refused", vendor="google_calendar", reason=reason, status=status), 7.0)
    assert type(reread) is kind
    assert (reread.reason, reread.status) == (reason, status)
    if isinstance(reread, VendorThrottled):
        assert reread.retry_after_seconds == 7.0


def test_errors_are_read_in_both_of_googles_layouts() -> None:
    older = {"error": {"errors": [{"domain": "global", "reason": "notFound"}], "code": 404, "message": "Ada's event"}}
    newer = {"error": {"code": 401, "message": "Ada", "status": "UNAUTHENTICATED"}}
    assert mapping.read_error(404, older) == ("notFound", "refused with notFound")
    assert mapping.read_error(401, newer) == ("UNAUTHENTICATED", "refused with UNAUTHENTICATED")
    assert mapping.read_error(500, "<html>") == ("http_500", "answered 500")
