from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from wedsync.kit.settings import Settings

PATH = "/notification-channels"
LOG = {"name": "on call", "kind": "log"}


@pytest.fixture(autouse=True)
async def none_left(api: Any) -> AsyncIterator[None]:
    yield
    async with api.db.system() as conn:
        await conn.execute(text("DELETE FROM notification_channels"))


async def made(api: Any, **said: Any) -> dict[str, Any]:
    response = await api.post(PATH, {**LOG, **said})
    assert response.status_code == 201, response.text
    return dict(response.json())


async def audited(api: Any) -> list[str]:
    async with api.db.tenant(api.access.organization_id) as conn:
        statement = "SELECT action FROM audit_log WHERE action LIKE 'notification_channel.%' ORDER BY id"
        return list(await conn.scalars(text(statement)))


async def test_a_channel_is_made_listed_tried_and_deleted_and_each_is_audited(api: Any) -> None:
    before = len(await audited(api))
    channel = await made(api, events=["health.changed"], least_severity="warning", dedup_seconds=60)
    assert channel["secret"] is None
    (listed,) = [one for one in (await api.get(PATH)).json()["data"] if one["id"] == channel["id"]]
    assert listed == {name: value for name, value in channel.items() if name != "secret"}
    assert (listed["waiting"], listed["told_at"], listed["error"]) == (0, None, None)
    tried = await api.post(f"{PATH}/{channel['id']}/test")
    assert (tried.status_code, tried.json()["waiting"]) == (202, 1)
    gone = await api.http.delete(f"/api/v1{PATH}/{channel['id']}")
    assert gone.status_code == 204
    assert (await api.get(f"{PATH}/{channel['id']}")).status_code == 404
    async with api.db.system() as conn:
        waiting = text("SELECT count(*) FROM notifications WHERE channel_id = :id")
        assert (await conn.execute(waiting, {"id": channel["id"]})).scalar_one() == 0
    actions = [f"notification_channel.{action}" for action in ("created", "tested", "deleted")]
    assert (await audited(api))[before:] == actions


async def test_a_webhooks_secret_is_shown_once(api: Any) -> None:
    key, body = api.key(), {"name": "pager", "kind": "webhook", "target": "http://127.0.0.1:9/hook"}
    first = await api.http.post(f"/api/v1{PATH}", json=body, headers=key)
    assert first.json()["secret"].startswith("whsec_")
    again = await api.http.post(f"/api/v1{PATH}", json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert again.json()["secret"] is None
    assert "secret" not in (await api.get(f"{PATH}/{first.json()['id']}")).json()


@pytest.mark.parametrize(
    "body",
    [
        {"name": "on\ncall"},
        {"name": "\x00"},
        {"kind": "email"},
        {"kind": "email", "target": "a@b.example\nBcc: c@d.example"},
        {"kind": "sms", "target": "12"},
        {"kind": "webhook", "target": "http://169.254.169.254/latest"},
        {"kind": "webhook", "target": "https://user:pw@example.com/"},
        {"events": ["wedding.began"]},
        {"least_severity": "grave"},
        {"dedup_seconds": -1},
        {"mood": "good"},
    ],
)
async def test_a_channel_that_can_not_be_is_refused(api: Any, body: Any) -> None:
    assert (await api.post(PATH, {**LOG, **body})).status_code == 422


async def test_what_is_not_there_is_not_found(api: Any) -> None:
    for response in (
        await api.get(f"{PATH}/nobody"),
        await api.post(f"{PATH}/nobody/test"),
        await api.http.delete(f"/api/v1{PATH}/nobody"),
    ):
        assert response.status_code == 404


async def test_there_are_fifty_at_most(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wedsync.usecases.incidents.channels.MOST_CHANNELS", 1)
    await made(api)
    refused = await api.post(PATH, LOG)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_channels")


async def test_only_operators_see_and_change_channels(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = await made(api)
    monkeypatch.setattr(Settings, "is_operator", lambda *_: False)
    for response in (
        await api.get(PATH),
        await api.post(PATH, LOG),
        await api.get(f"{PATH}/{channel['id']}"),
        await api.post(f"{PATH}/{channel['id']}/test"),
        await api.http.delete(f"/api/v1{PATH}/{channel['id']}"),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "not_operator")
