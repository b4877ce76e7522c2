"""Twilio's signature, against its published vectors and its own SDK, and the events it carries."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from wedsync.domain.errors import InvalidInput
from wedsync.vendors.twilio import webhook

NOW = datetime(2026, 11, 20, tzinfo=UTC)
URL = "https://studio.example/api/integrations/webhooks/twilio?wedding=w&step=s"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_every_published_vector_gets_its_verdict(shared_vectors: Path) -> None:
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    ours = [vector for vector in vectors if vector["source"] == "twilio"]
    wrong = [
        vector["id"]
        for vector in ours
        if webhook.verify(
            base64.b64decode(vector["body"]), vector["headers"], vector["url"], [vector["secret_or_key"]], NOW
        )
        is not vector["valid"]
    ]
    assert len(ours) >= 8
    assert wrong == []


@settings(max_examples=50, deadline=None)
@given(
    params=st.dictionaries(st.text("abcXYZ123", min_size=1), st.text(st.characters(exclude_categories=["Cs"]))),
    token=st.text("0123456789abcdef", min_size=1),
    url=st.sampled_from([URL, "http://127.0.0.1:8080/hook", "https://studio.example:8443/hook?a=b"]),
)
def test_what_twilios_sdk_signs_is_taken_and_a_change_is_not(params: dict[str, str], token: str, url: str) -> None:
    signature = RequestValidator(token).compute_signature(url, params)
    headers = {**FORM, "x-twilio-signature": signature}
    body = urlencode(params).encode()
    assert webhook.verify(body, headers, url, ["another", token], NOW)
    assert not webhook.verify(body + b"&z=1", headers, url, [token], NOW)
    assert not webhook.verify(body, headers, url + "1", [token], NOW)
    assert not webhook.verify(body, headers, url, ["another"], NOW)


@settings(max_examples=50, deadline=None)
@given(
    body=st.binary(), signature=st.text(), url=st.text(), kind=st.sampled_from([*FORM.values(), "application/json", ""])
)
def test_malformed_input_is_refused_without_raising(body: bytes, signature: str, url: str, kind: str) -> None:
    headers = {"Content-Type": kind, "X-Twilio-Signature": signature}
    assert webhook.verify(body, headers, url, ["token"], NOW) is False


@pytest.mark.parametrize("secrets", [[], [""]])
def test_without_a_secret_nothing_is_taken(secrets: list[str]) -> None:
    signature = RequestValidator("").compute_signature(URL, {"a": "b"})
    assert not webhook.verify(b"a=b", {**FORM, "X-Twilio-Signature": signature}, URL, secrets, NOW)


def test_a_json_body_that_its_address_does_not_bind_is_refused() -> None:
    signature = RequestValidator("token").compute_signature(URL, {})
    headers = {"Content-Type": "application/json", "X-Twilio-Signature": signature}
    assert not webhook.verify(b'{"a":1}', headers, URL, ["token"], NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("delivered", "message.delivered"),
        ("read", "message.delivered"),
        ("undelivered", "message.failed"),
        ("failed", "message.failed"),
        ("queued", "other"),
    ],
)
def test_a_status_becomes_our_word_and_one_event_per_message_and_status(status: str, kind: str) -> None:
    body = urlencode({"MessageSid": "SM1", "MessageStatus": status, "ErrorCode": "30003"}).encode()
    (event,) = webhook.parse(body, FORM)
    assert (event.source, event.type, event.vendor_type, event.object_id) == ("twilio", kind, status, "SM1")
    assert event.event_id == f"SM1:{status}"
    assert event.facts["error_code"] == "30003"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"MessageSid=SM1", b"MessageStatus=sent", b"{}"])
def test_what_is_not_a_status_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(body, FORM)
