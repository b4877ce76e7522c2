"""The stand-in refuses as Google does."""

from __future__ import annotations

from typing import Any

import pytest

from wedsync.domain.errors import NotAuthorized, VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox

PATH = "/calendars/primary/events"
AUTH = {"Authorization": "Bearer ya29.token"}
GOOD: dict[str, Any] = {
    "id": "event00001",
    "start": {"dateTime": "2027-06-19T16:00:00", "timeZone": "Europe/Rome"},
    "end": {"dateTime": "2027-06-19T17:00:00+02:00"},
}


def reason_of(status: int, body: Any) -> tuple[str, str]:
    assert body["error"]["code"] == status
    return body["error"]["errors"][0]["reason"], body["error"]["message"]


@pytest.fixture
def http(sandbox: EmbeddedSandbox) -> VendorHttp:
    http = sandbox.http("google_calendar")
    http.read_error = reason_of
    return http


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "WEDDING"}, "invalid"),
        ({"id": "abcd"}, "invalid"),
        ({"start": None}, "invalid"),
        ({"end": {"dateTime": "2027-06-19T15:00:00+02:00"}}, "timeRangeEmpty"),
        ({"start": {"dateTime": "2027-06-19T16:00:00"}}, "invalid"),
        ({"start": {"dateTime": "2027-06-19T16:00:00", "timeZone": "Nowhere/X"}}, "invalid"),
        ({"attendees": [{"email": "ada"}]}, "invalid"),
    ],
)
async def test_a_faulty_event_is_refused(
    http: VendorHttp, sandbox: EmbeddedSandbox, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", PATH, json_body={**GOOD, **changes}, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == (reason, 400)
    assert await sandbox.ledger("google_calendar") == []


async def test_a_missing_end_or_a_broken_body_is_refused(http: VendorHttp) -> None:
    for content, reason in ((b'{"start":{}}', "required"), (b"{", "parseError"), (b"[]", "parseError")):
        with pytest.raises(VendorRejected) as caught:
            await http.request("POST", PATH, content=content, headers=AUTH)
        assert caught.value.reason == reason


async def test_an_id_is_taken_once_for_each_calendar(http: VendorHttp) -> None:
    await http.request("POST", PATH, json_body=GOOD, headers=AUTH)
    with pytest.raises(VendorRejected) as caught:
        await http.request("POST", PATH, json_body=GOOD, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == ("duplicate", 409)
    other = await http.request("POST", "/calendars/other@example.com/events", json_body=GOOD, headers=AUTH)
    assert other.json()["id"] == GOOD["id"]


async def test_without_an_id_google_chooses_one(http: VendorHttp) -> None:
    event = (await http.request("POST", PATH, json_body={**GOOD, "id": ""}, headers=AUTH)).json()
    assert len(event["id"]) >= 5
    assert event["status"] == "confirmed"


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_event_is_a_404(http: VendorHttp, method: Any) -> None:
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    with pytest.raises(VendorRejected) as caught:
        await http.request(method, f"{PATH}/unknown1", json_body=body, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == ("notFound", 404)


async def test_a_second_delete_is_a_410(http: VendorHttp) -> None:
    await http.request("POST", PATH, json_body=GOOD, headers=AUTH)
    path = f"{PATH}/{GOOD['id']}"
    assert (await http.request("DELETE", path, headers=AUTH)).status == 204
    with pytest.raises(VendorRejected) as caught:
        await http.request("DELETE", path, headers=AUTH)
    assert (caught.value.reason, caught.value.status) == ("deleted", 410)
    assert (await http.request("GET", path, headers=AUTH)).json()["status"] == "cancelled"


async def test_a_patch_against_an_old_version_is_refused(http: VendorHttp) -> None:
    event = (await http.request("POST", PATH, json_body=GOOD, headers=AUTH)).json()
    path = f"{PATH}/{GOOD['id']}"
    headers = {**AUTH, "If-Match": event["etag"]}
    changed = (await http.request("PATCH", path, json_body={"summary": "New"}, headers=headers)).json()
    assert (changed["summary"], changed["sequence"]) == ("New", 0)
    with pytest.raises(VendorRejected) as caught:
        await http.request("PATCH", path, json_body={"summary": "Newer"}, headers=headers)
    assert caught.value.status == 412
    with pytest.raises(VendorRejected):
        await http.request("PATCH", path, json_body={"start": {}}, headers=AUTH)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
async def test_without_a_token_nothing_is_told(http: VendorHttp, method: Any) -> None:
    with pytest.raises(NotAuthorized) as caught:
        await http.request(method, PATH if method == "POST" else f"{PATH}/x")
    assert caught.value.reason == "authError"


async def test_a_delete_is_never_refused_by_the_fault(http: VendorHttp, sandbox: EmbeddedSandbox) -> None:
    await http.request("POST", PATH, json_body=GOOD, headers=AUTH)
    await sandbox.faults("google_calendar", mode="refuse")
    assert (await http.request("DELETE", f"{PATH}/{GOOD['id']}", headers=AUTH)).status == 204
    assert (await http.request("GET", "/colors", headers=AUTH)).status == 200
