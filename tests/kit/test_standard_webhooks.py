"""The Standard Webhooks scheme against the published vectors and the official library."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from wedsync.kit import standard_webhooks

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def vectors(*sources: str) -> list[dict[str, Any]]:
    file = FOLDER / "signatures.json"
    if not file.exists():
        pytest.fail(f"{file} is missing: the tests need ../shared/vectors beside the project")
    every = json.loads(file.read_text(encoding="utf-8"))
    return [vector for vector in every if vector["source"] in sources]


@pytest.mark.parametrize(("source", "count"), [("standard-webhooks", 15), ("svix", 11), ("resend", 2)])
def test_every_published_vector_gets_its_verdict(source: str, count: int) -> None:
    ours = vectors(source)
    wrong = [
        vector["id"]
        for vector in ours
        if standard_webhooks.verify(
            base64.b64decode(vector["body"]),
            vector["headers"],
            [vector["secret_or_key"]],
            datetime.fromtimestamp(vector["now"], UTC),
        )
        is not vector["valid"]
    ]
    assert len(ours) >= count
    assert wrong == []


@settings(max_examples=50, deadline=None)
@given(body=st.text(st.characters(exclude_categories=["Cs"])), key=st.binary(min_size=24, max_size=64))
def test_what_the_official_library_signs_is_taken_and_a_change_is_not(body: str, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(NOW.timestamp())),
        "Webhook-Signature": Webhook(secret).sign("msg_1", NOW, body),
    }
    raw = body.encode()
    assert standard_webhooks.verify(raw, headers, [SECRET, secret], NOW)
    assert not standard_webhooks.verify(raw + b" ", headers, [secret], NOW)
    assert not standard_webhooks.verify(raw, {**headers, "Webhook-Id": "msg_2"}, [secret], NOW)
    assert not standard_webhooks.verify(raw, headers, [SECRET], NOW)


@pytest.mark.parametrize(("seconds", "fresh"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_message_counts_for_five_minutes_either_way(seconds: int, fresh: bool) -> None:
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(int(NOW.timestamp())),
        "svix-signature": Webhook(SECRET).sign("msg_1", NOW, "{}"),
    }
    assert standard_webhooks.verify(b"{}", headers, [SECRET], NOW + timedelta(seconds=seconds)) is fresh


def test_an_ed25519_signature_is_taken_by_its_public_key_only() -> None:
    pair, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    stamp = str(int(NOW.timestamp()))
    signature = base64.b64encode(pair.sign(f"msg_1.{stamp}.{{}}".encode())).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": f"v1a,AAAA v1a,{signature}"}

    def key(of: Ed25519PrivateKey) -> str:
        raw = of.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return "whpk_" + base64.b64encode(raw).decode()

    assert standard_webhooks.verify(b"{}", headers, [key(pair)], NOW)
    assert not standard_webhooks.verify(b"{}", headers, [key(other), "whpk_AAAA", "whpk_?"], NOW)


@settings(max_examples=50, deadline=None)
@given(
    body=st.binary(),
    message_id=st.text(),
    stamp=st.one_of(st.text(), st.just(str(int(NOW.timestamp())))),
    signature=st.one_of(st.text(), st.text().map(lambda text: f"v1,{text}"), st.text().map(lambda text: f"v1a,{text}")),
    secret=st.one_of(st.text(), st.just(SECRET), st.just("whpk_" + "A" * 43 + "=")),
)
def test_malformed_input_is_refused_without_raising(
    body: bytes, message_id: str, stamp: str, signature: str, secret: str
) -> None:
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": signature}
    assert standard_webhooks.verify(body, headers, [secret], NOW) is False


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_"], ["whsec_not base64"]])
def test_without_a_usable_secret_nothing_is_taken(secrets: list[str]) -> None:
    headers = {"svix-id": "m", "svix-timestamp": str(int(NOW.timestamp())), "svix-signature": "v1,"}
    assert not standard_webhooks.verify(b"{}", headers, secrets, NOW)
