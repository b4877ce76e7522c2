"""What was captured and is sent again is known, however it is dressed up; what only looks alike is not lost."""

from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from wedsync.store.inbox.tables import inbox

POSTS = "/api/integrations/webhooks"
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()
SECRET = "a-secret-of-ours"


class Sender:
    """Posts to an application, and looks what stands in its inbox."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def register(self, name: str, config: dict[str, Any], secret: str = KEY) -> str:
        """A source of its own; its address."""
        said = {"name": name, "config": config, "secret": secret}
        response = await self.api.post("/webhook-sources", said)
        assert response.status_code == 201, response.text
        return f"{POSTS}/{name}"

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[str, bool]:
        """The event's id, and whether it was a duplicate."""
        response: httpx.Response = await self.api.http.post(path, content=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()["event_id"], response.json()["duplicate"]

    async def event_ids(self) -> list[str]:
        """Of all that was recorded."""
        async with self.api.db.system() as connection:
            return list(await connection.scalars(select(inbox.c.event_id).order_by(inbox.c.id)))


@pytest.fixture
async def sender(new_api: Any, fresh_database_urls: Any) -> Sender:
    return Sender(await new_api(fresh_database_urls))


def enveloped(body: bytes, spelling: str, message_id: str = "msg_1") -> dict[str, str]:
    now = datetime.now(UTC)
    mac = Webhook(KEY).sign(message_id, now, body.decode())
    values = {"id": message_id, "timestamp": str(int(now.timestamp())), "signature": mac}
    return {f"{spelling}-{name}": value for name, value in values.items()}


@pytest.mark.parametrize("config", [{}, {"paths": {"id": "header:webhook-id|header:svix-id"}}])
@pytest.mark.parametrize("scheme", ["standard_webhooks", "svix", "resend"])
@pytest.mark.parametrize(("spelling", "other"), [("webhook", "svix"), ("svix", "webhook")])
async def test_an_id_that_is_not_signed_makes_no_new_event_of_a_captured_message(
    sender: Sender, scheme: str, config: dict[str, Any], spelling: str, other: str
) -> None:
    path = await sender.register("mail", {"scheme": scheme, **config})
    body = b'{"type": "email.delivered", "data": {"email_id": "e"}}'
    headers = enveloped(body, spelling)
    assert await sender.post(path, body, headers) == ("msg_1", False)
    assert await sender.post(path, body, {**headers, f"{other}-id": "forged"}) == ("msg_1", True)
    assert await sender.event_ids() == ["msg_1"]
    again = enveloped(body, spelling, "msg_2")
    assert await sender.post(path, body, {**again, f"{other}-id": "msg_1"}) == ("msg_2", False)


def keyed(body: bytes, secret: str, **headers: str) -> dict[str, str]:
    mac = hmac.digest(secret.encode(), body, "sha256").hex()
    return {"X-Hub-Signature-256": f"sha256={mac}", "X-Signature": mac, **headers}


async def test_a_captured_github_message_is_known_under_any_delivery_id(sender: Sender) -> None:
    secret, path = sender.api.settings.vendor_webhook_secrets("github")[0], f"{POSTS}/github"

    async def post(body: bytes, delivery: str, kind: str = "push") -> tuple[str, bool]:
        headers = keyed(body, secret, **{"X-GitHub-Delivery": delivery, "X-GitHub-Event": kind})
        return await sender.post(path, body, headers)

    assert await post(b'{"after": "c1"}', "d-1") == ("d-1", False)
    assert await post(b'{"after": "c1"}', "d-1") == ("d-1", True)
    assert await post(b'{"after": "c1"}', "forged", "release") == ("forged", True)
    assert await post(b'{"after": "c2"}', "d-2") == ("d-2", False)
    assert await sender.event_ids() == ["d-1", "d-2"]


async def test_a_captured_hmac_message_is_known_under_any_delivery_id(sender: Sender) -> None:
    config = {"scheme": "hmac_sha256", "paths": {"id": "header:X-Delivery"}}
    path = await sender.register("weather", config, SECRET)
    body = b'{"storm": true}'
    assert await sender.post(path, body, keyed(body, SECRET, **{"X-Delivery": "d-1"})) == ("d-1", False)
    assert await sender.post(path, body, keyed(body, SECRET, **{"X-Delivery": "forged"})) == ("forged", True)
    assert await sender.event_ids() == ["d-1"]


async def test_a_time_that_is_signed_tells_equal_messages_apart(sender: Sender) -> None:
    config = {"scheme": "hmac_sha256", "hmac": {"timestamp_header": "X-Time"}, "paths": {"id": "header:X-Delivery"}}
    path = await sender.register("weather", config, SECRET)
    body, now = b'{"storm": true}', int(time.time())

    async def post(stamp: int, delivery: str) -> tuple[str, bool]:
        mac = hmac.digest(SECRET.encode(), f"{stamp}.".encode() + body, "sha256").hex()
        headers = {"X-Signature": mac, "X-Time": str(stamp), "X-Delivery": delivery}
        return await sender.post(path, body, headers)

    assert await post(now, "d-1") == ("d-1", False)
    assert await post(now, "forged") == ("forged", True)
    assert await post(now - 1, "d-2") == ("d-2", False)
    # Sent again by its source, signed anew.
    assert await post(now - 2, "d-2") == ("d-2", True)


@pytest.mark.parametrize("scheme", ["hmac_sha256", "zapier"])
async def test_later_events_of_one_object_are_no_duplicates(sender: Sender, scheme: str) -> None:
    path = await sender.register("crm", {"scheme": scheme}, SECRET)

    async def is_known(**contact: str) -> bool:
        body = json.dumps({"id": "contact-7", **contact}).encode()
        return (await sender.post(path, body, keyed(body, SECRET, **{"X-API-Key": SECRET})))[1]

    assert [await is_known(stage=stage) for stage in ("lead", "booked", "booked", "lost")] == [
        False, False, True, False,
    ]  # fmt: skip


async def test_all_of_metas_batch_is_recorded_and_known_when_it_comes_in_another(sender: Sender) -> None:
    path = await sender.register("chat", {"scheme": "meta"}, SECRET)

    async def post(*words: str) -> tuple[str, bool]:
        entries = [{"changes": [{"value": {"statuses": [{"id": "m1", "status": word}]}}]} for word in words]
        body = json.dumps({"entry": entries}).encode()
        return await sender.post(path, body, keyed(body, SECRET))

    assert await post("sent", "delivered") == ("m1:sent", False)
    assert await post("delivered") == ("m1:delivered", True)
    assert await post("delivered", "read") == ("m1:delivered", False)
    assert set(await sender.event_ids()) == {"m1:sent", "m1:delivered", "m1:read"}
