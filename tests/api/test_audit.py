"""Who did what, and when: for operators all of it, for an organization its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from wedsync.kit.settings import Settings
from wedsync.store.access import queries as access

BEGIN = datetime(2027, 6, 1, tzinfo=UTC)


@pytest.fixture
async def api(new_api: Any, fresh_database_urls: Any) -> Any:
    """With an organization beside the caller's, and deeds of both."""
    made = await new_api(fresh_database_urls)
    own = made.access.organization_id
    async with made.db.system() as conn:
        await conn.execute(text("INSERT INTO organizations (id, name, created_at) VALUES ('other', 'Other', now())"))
        for number in range(6):
            organization, subject = ("other", "wedding/w_1") if number % 2 else (own, "service/stripe")
            at = BEGIN + timedelta(hours=number)
            await access.audit_as(conn, organization, f"key:{number}", "thing.done", subject, {"number": number}, at)
        await access.audit_as(conn, own, "key:9", "version.put", "service/stripe/version/2", {}, BEGIN)
        await access.audit_as(conn, own, "key:9", "service.configured", "service/stripes", {}, BEGIN)
        await access.audit_as(conn, "other", "key:9", "wedding.created", "wedding/wx1", {}, BEGIN)
    return made


async def numbers(api: Any, **asked: Any) -> list[int]:
    response = await api.get("/audit", action="thing.done", **asked)
    assert response.status_code == 200, response.text
    return [entry["detail"]["number"] for entry in response.json()["data"]]


def no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "is_operator", lambda *_: False)


async def test_an_operator_reads_everybodys_deeds_newest_first(api: Any) -> None:
    assert await numbers(api) == [5, 4, 3, 2, 1, 0]
    assert await numbers(api, organization="other") == [5, 3, 1]
    assert await numbers(api, actor="key:4") == [4]
    newest = (await api.get("/audit", action="thing.done")).json()["data"][0]
    assert newest | {"id": 0} == {
        "id": 0,
        "organization_id": "other",
        "at": "2027-06-01T05:00:00Z",
        "actor": "key:5",
        "action": "thing.done",
        "subject": "wedding/w_1",
        "detail": {"number": 5},
    }


async def test_an_organization_reads_its_own_only_whatever_it_asks_for(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_operator(monkeypatch)
    assert await numbers(api) == [4, 2, 0]
    assert await numbers(api, organization="other") == []
    assert await numbers(api, subject="wedding/w_1") == []


async def test_nobody_reads_it_without_a_key(api: Any) -> None:
    assert (await api.http.get("/api/v1/audit", headers={"Authorization": ""})).status_code == 401


async def test_it_is_asked_by_time(api: Any) -> None:
    since, until = (BEGIN + timedelta(hours=hour) for hour in (1, 4))
    assert await numbers(api, since=since.isoformat(), until=until.isoformat()) == [3, 2, 1]
    assert await numbers(api, since=until.isoformat()) == [5, 4]
    refused = await api.get("/audit", since=until.isoformat(), until=since.isoformat())
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


async def test_a_subject_has_with_it_what_stands_beneath_it_and_nothing_else(api: Any) -> None:
    found = (await api.get("/audit", subject="service/stripe")).json()["data"]
    assert {entry["subject"] for entry in found} == {"service/stripe", "service/stripe/version/2"}
    # An underscore is no wildcard.
    beneath = (await api.get("/audit", subject="wedding/w_1")).json()["data"]
    assert {entry["subject"] for entry in beneath} == {"wedding/w_1"}


async def test_its_pages_leave_nothing_out_and_tell_nothing_twice(api: Any) -> None:
    async with api.db.system() as conn:
        # Of one moment, as a transaction's are.
        for number in range(6, 10):
            await access.audit_as(conn, "other", "key:1", "thing.done", "s", {"number": number}, BEGIN)
    seen: list[int] = []
    cursor: dict[str, str] = {}
    for _ in range(20):
        page = (await api.get("/audit", action="thing.done", limit=3, **cursor)).json()
        seen += [entry["detail"]["number"] for entry in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [5, 4, 3, 2, 1, 9, 8, 7, 6, 0]


@pytest.mark.parametrize("cursor", ["nonsense", "djE6MTc", "djE6OTk5OTk5OTk5OTk5OTk5OTk5LTE"])
async def test_a_cursor_of_ones_own_making_is_refused(api: Any, cursor: str) -> None:
    refused = await api.get("/audit", cursor=cursor)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")


async def test_what_an_operator_does_can_be_read_afterwards(api: Any) -> None:
    body = {"windows": [{"window": "minute", "limit": 600}]}
    assert (await api.http.put("/api/v1/quotas/stripe", json=body)).status_code == 200
    (entry,) = (await api.get("/audit", subject="quota/stripe")).json()["data"]
    assert (entry["action"], entry["detail"]["windows"][0]["limit"]) == ("quota.limited", 600)
    assert entry["actor"].startswith("key:")
