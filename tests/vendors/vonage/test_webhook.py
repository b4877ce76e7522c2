"""Vonage's webhooks: the published vectors, the stand-in's receipts, and what must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.kit.standin import FakeContext
from wedsync.vendors.vonage import sandbox as standin
from wedsync.vendors.vonage.webhook import parse, verify

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "signature_secret"


def test_the_published_vectors_are_judged_as_published(shared_vectors: Path) -> None:
    vectors = [
        one
        for one in json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
        if one["source"] == "vonage"
    ]
    assert len(vectors) >= 7
    for one in vectors:
        now = datetime.fromtimestamp(one["now"], UTC)
        verdict = verify(base64.b64decode(one["body"]), one["headers"], one["url"], [one["secret_or_key"]], now)
        assert verdict is one["valid"], one["id"]


def _encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def jwt(body: bytes, *, alg: str = "HS256", secret: str = SECRET, **claims: Any) -> dict[str, str]:
    given = {"iat": int(NOW.timestamp()), "payload_hash": hashlib.sha256(body).hexdigest(), **claims}
    signed = f"{_encoded({'alg': alg, 'typ': 'JWT'})}.{_encoded({k: v for k, v in given.items() if v is not None})}"
    mac = b"" if alg == "none" else hmac.digest(secret.encode(), signed.encode(), "sha256")
    return {"authorization": f"Bearer {signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"}


def test_a_token_binds_the_body_and_the_time() -> None:
    body, stamp = b'{"message_uuid":"m1","status":"delivered"}', int(NOW.timestamp())
    assert verify(body, jwt(body), "", ["old", SECRET], NOW)
    assert not verify(body + b" ", jwt(body), "", [SECRET], NOW)
    assert not verify(body, jwt(body, payload_hash=None), "", [SECRET], NOW)
    assert not verify(body, jwt(body), "", [SECRET], NOW + timedelta(seconds=301))
    assert not verify(body, jwt(body, iat=stamp + 301), "", [SECRET], NOW)
    assert not verify(body, jwt(body, exp=stamp), "", [SECRET], NOW)
    assert not verify(body, jwt(body, nbf=stamp + 301), "", [SECRET], NOW)
    assert not verify(body, jwt(body, iat="now"), "", [SECRET], NOW)


@pytest.mark.parametrize("alg", ["none", "HS512", "RS256", "hs256"])
def test_only_hs256_is_accepted(alg: str) -> None:
    assert not verify(b"{}", jwt(b"{}", alg=alg), "", [SECRET], NOW)


def test_an_empty_secret_verifies_nothing() -> None:
    assert not verify(b"{}", jwt(b"{}", secret=""), "", [""], NOW)


@settings(max_examples=60)
@given(body=st.binary(), header=st.text() | st.text().map(lambda text: f"Bearer {text}"))
def test_malformed_input_is_refused_and_never_raises(body: bytes, header: str) -> None:
    assert not verify(body, {"Authorization": header}, "", [SECRET], NOW)
    assert not verify(body, {}, "", [SECRET], NOW)


@pytest.fixture
def context() -> FakeContext:
    context = FakeContext("vonage", lambda: NOW, lambda *_: None, "https://wedsync.example/hook", SECRET)
    context.objects["M1"] = {
        "id": "M1",
        "to": "447700900123",
        "client-ref": "ref-1",
        "api-key": "k",
        "url": "https://u",
    }
    return context


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("delivered", "message.delivered"),
        ("failed", "message.failed"),
        ("expired", "message.failed"),
        ("rejected", "message.failed"),
        ("accepted", "other"),
        ("buffered", "other"),
    ],
)
def test_the_stand_ins_receipt_verifies_and_parses(context: FakeContext, contract: Any, status: str, kind: str) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit(status, "M1", False)
    assert url == "https://u"
    assert verify(body, headers, url, [SECRET], NOW)
    assert not verify(body, headers, url, [SECRET], NOW + timedelta(seconds=301))
    (told,) = parse(body, headers)
    assert (told.type, told.vendor_type, told.object_id) == (kind, status, "M1")
    assert told.facts["client_ref"] == "ref-1"
    assert told.occurred_at == NOW
    receipt = contract("vonage-sms").doc["components"]["schemas"]["DeliveryReceipt"]["properties"]
    assert json.loads(body).keys() <= receipt.keys()


def test_a_bad_signature_and_a_doubled_parameter_are_refused(context: FakeContext) -> None:
    emit = standin.build(context).emit
    assert emit is not None
    url, headers, body = emit("delivered", None, True)
    assert not verify(body, headers, url, [SECRET], NOW)
    _, _, good = emit("delivered", None, False)
    assert not verify(good[:-1] + b', "status": "failed"}', headers, url, [SECRET], NOW)


def test_an_inbound_message_is_other_and_tells_nothing_of_its_text() -> None:
    body = b"msisdn=447700900123&to=447700900000&messageId=M2&text=Hello&type=text&keyword=HELLO"
    (told,) = parse(body, {})
    assert (told.type, told.vendor_type) == ("other", "inbound")
    assert "Hello" not in told.model_dump_json()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"messageId": 3}'])
def test_a_body_that_is_no_receipt_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body, {})
