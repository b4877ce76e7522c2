"""What was captured and is sent again is known, however it is dressed up; what only looks alike is not lost."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from wedsync.store.tables.webhooks import inbox

POSTS = "/api/integrations/webhooks"
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()


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
