"""Resend's signature, against its vectors and its own SDK, and the events it carries."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import resend
from standardwebhooks.webhooks import Webhook

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.resend import sandbox as stand_in
from wedsync.vendors.resend import webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HEADERS = {"svix-id": "msg_1", "svix-timestamp": "1700000000", "svix-signature": "v1,x"}


def test_every_published_vector_gets_its_verdict(shared_vectors: Path) -> None:
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    ours = [vector for vector in vectors if vector["source"] in ("resend", "svix")]
    wrong = [
        vector["id"]
        for vector in ours
        if webhook.verify(
            base64.b64decode(vector["body"]),
            vector["headers"],
            vector["url"],
            [vector["secret_or_key"]],
            datetime.fromtimestamp(vector["now"], UTC),
        )
        is not vector["valid"]
    ]
    assert len(ours) >= 13
    assert wrong == []


def event(kind: str = "email.delivered", **data: Any) -> bytes:
    data = {"email_id": "em_1", "tags": {"wedding": "w1", "step": "s1"}, **data}
    return json.dumps({"type": kind, "created_at": "2026-11-20T12:00:00.000Z", "data": data}).encode()


@pytest.mark.parametrize(
    ("vendor_type", "kind"),
    [
        ("email.delivered", "message.delivered"),
        ("email.bounced", "message.failed"),
        ("email.complained", "message.failed"),
        ("email.failed", "message.failed"),
        ("email.opened", "other"),
    ],
)
def test_an_event_becomes_our_word(vendor_type: str, kind: str) -> None:
    (parsed,) = webhook.parse(event(vendor_type), HEADERS)
    assert (parsed.source, parsed.event_id, parsed.type, parsed.vendor_type) == ("resend", "msg_1", kind, vendor_type)
    assert (parsed.object_id, parsed.wedding_id, parsed.step_id) == ("em_1", "w1", "s1")
    assert parsed.occurred_at == datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_tags_are_read_from_a_list_as_well() -> None:
    tags = [{"name": "wedding", "value": "w1"}, {"name": "step", "value": "s1"}]
    (parsed,) = webhook.parse(event(tags=tags), HEADERS)
    assert (parsed.wedding_id, parsed.step_id) == ("w1", "s1")
    (bare,) = webhook.parse(event(tags=None), HEADERS)
    assert bare.wedding_id is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": 1}', b"\xff", b'{"type":"x","data":{"tags":7}}'])
def test_what_is_not_an_event_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(body, HEADERS)


def test_an_event_without_an_id_is_invalid() -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(event(), {})


@pytest.mark.parametrize("bad", [False, True])
def test_the_stand_ins_event_is_signed_as_resends_sdk_expects(bad: bool) -> None:
    context = FakeContext(
        vendor="resend",
        now=lambda: datetime.now(UTC),
        send=lambda *_: None,
        webhook_url="http://127.0.0.1:9/hooks/resend",
        webhook_secret=SECRET,
    )
    standin = stand_in.build(context)
    assert standin.emit is not None
    with pytest.raises(KeyError):
        standin.emit("email.delivered", None, bad)
    email = {"created_at": "", "from": "a@b.example", "to": ["c@d.example"], "subject": "S", "last_event": ""}
    context.objects["em_1"] = {"email": email, "tags": {"wedding": "w1"}}
    url, headers, body = standin.emit("email.delivered", None, bad)
    assert url == context.webhook_url
    assert webhook.verify(body, headers, url, [SECRET], datetime.now(UTC)) is not bad
    ids = {name: headers[f"svix-{name}"] for name in ("id", "timestamp", "signature")}
    options: Any = {"payload": body.decode(), "headers": ids, "webhook_secret": SECRET}
    if bad:
        with pytest.raises(ValueError, match="signature"):
            resend.Webhooks.verify(options)
    else:
        resend.Webhooks.verify(options)
        Webhook(SECRET).verify(body, {f"webhook-{name}": value for name, value in ids.items()})
