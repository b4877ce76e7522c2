"""Google's notifications: the channel's token, and what they carry."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.google_calendar import sandbox as stand_in
from wedsync.vendors.google_calendar import webhook

NOW = datetime(2026, 11, 20, tzinfo=UTC)
URL = "https://studio.example/hooks"
HEADERS = {
    "X-Goog-Channel-ID": "channel-1",
    "X-Goog-Channel-Token": "the-token",
    "X-Goog-Resource-ID": "resource-1",
    "X-Goog-Resource-State": "exists",
    "X-Goog-Message-Number": "10",
}


def test_every_published_vector_gets_its_verdict(shared_vectors: Path) -> None:
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    ours = [vector for vector in vectors if vector["source"] == "google-calendar"]
    assert len(ours) >= 2
    for vector in ours:
        body, secret = base64.b64decode(vector["body"]), vector["secret_or_key"]
        assert webhook.verify(body, vector["headers"], vector["url"], [secret], NOW) is vector["valid"], vector["id"]
        assert not webhook.verify(body, vector["headers"], vector["url"], [secret + "x"], NOW)


@pytest.mark.parametrize(
    ("token", "secrets", "valid"),
    [
        ("the-token", ["old", "the-token"], True),
        ("the-token", [], False),
        ("", [""], False),
        ("", ["the-token"], False),
        ("thé-tøken \udcff", ["the-token"], False),
    ],
)
def test_only_a_known_token_is_taken(token: str, secrets: list[str], valid: bool) -> None:
    assert webhook.verify(b"", {**HEADERS, "X-Goog-Channel-Token": token}, URL, secrets, NOW) is valid


def test_a_request_without_a_token_is_refused() -> None:
    assert not webhook.verify(b"", {}, URL, ["the-token"], NOW)


@pytest.mark.parametrize(
    ("state", "kind"), [("exists", "calendar.changed"), ("not_exists", "calendar.changed"), ("sync", "other")]
)
def test_a_notification_becomes_one_event_per_message(state: str, kind: str) -> None:
    lowered = {name.lower(): value for name, value in HEADERS.items()}
    (event,) = webhook.parse(b"", {**lowered, "x-goog-resource-state": state})
    assert (event.source, event.event_id, event.type) == ("google_calendar", "channel-1:10", kind)
    assert (event.vendor_type, event.object_id) == (state, "resource-1")


@pytest.mark.parametrize("missing", ["X-Goog-Channel-ID", "X-Goog-Message-Number", "X-Goog-Resource-State"])
def test_an_incomplete_notification_is_invalid(missing: str) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(b"", {name: value for name, value in HEADERS.items() if name != missing})


def test_the_stand_ins_notifications_are_taken_and_distinct() -> None:
    context = FakeContext(
        vendor="google_calendar", now=lambda: NOW, send=lambda *_: None, webhook_url=URL, webhook_secret="the-token"
    )
    emit = stand_in.build(context).emit
    assert emit is not None
    ids = []
    for event in ("sync", "exists", "exists"):
        url, headers, body = emit(event, None, False)
        assert webhook.verify(body, headers, url, ["the-token"], NOW)
        ids += [parsed.event_id for parsed in webhook.parse(body, headers)]
    assert len(set(ids)) == 3
    _, headers, body = emit("exists", None, True)
    assert not webhook.verify(body, headers, URL, ["the-token"], NOW)
    with pytest.raises(KeyError):
        emit("exists", "unknown", False)
