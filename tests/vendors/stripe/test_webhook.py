"""Stripe's signatures by the published vectors and by the official SDK, and its events in our words."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.vendors.stripe import webhook
from wedsync.vendors.stripe.sandbox_state import sign

URL = "https://studio.example/webhooks"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
STAMP = int(NOW.timestamp())
BODY = b'{"id": "evt_1", "object": "event", "type": "x", "data": {"object": {"id": "pi_1", "name": "\xc3\x89lodie"}}}'


def _judge(body: bytes, header: str, now: datetime = NOW, secrets: tuple[str, ...] = ("whsec_a",)) -> bool:
    return webhook.verify(body, {"Stripe-Signature": header}, URL, secrets, now)


def test_every_published_vector_is_decided_as_it_says(shared_vectors: Path) -> None:
    vectors = json.loads((shared_vectors / "signatures.json").read_text(encoding="utf-8"))
    mine = [one for one in vectors if one["source"] == "stripe"]
    assert len(mine) >= 6
    for one in mine:
        now = datetime.fromtimestamp(one["now"], UTC)
        body = base64.b64decode(one["body"])
        verdict = webhook.verify(body, one["headers"], one["url"], [one["secret_or_key"]], now)
        assert verdict is one["valid"], one["id"]


def test_what_the_official_sdk_signs_is_accepted() -> None:
    signature = stripe.WebhookSignature._compute_signature(f"{STAMP}.{BODY.decode()}", "whsec_a")
    assert _judge(BODY, f"t={STAMP},v1={signature}")


def test_what_the_stand_in_signs_the_official_sdk_accepts() -> None:
    stamp = int(datetime.now(UTC).timestamp())
    header = sign(BODY, "whsec_a", stamp)
    assert stripe.WebhookSignature.verify_header(BODY.decode(), header, "whsec_a", tolerance=300)
    assert _judge(BODY, header, now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("offset_seconds", "verdict"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)]
)
def test_the_window_is_300_seconds_to_both_sides_inclusive(offset_seconds: int, verdict: bool) -> None:
    header = sign(BODY, "whsec_a", STAMP)
    assert _judge(BODY, header, NOW + timedelta(seconds=offset_seconds)) is verdict


def test_any_active_secret_is_accepted_and_no_other() -> None:
    header = sign(BODY, "whsec_new", STAMP)
    assert _judge(BODY, header, secrets=("whsec_old", "whsec_new"))
    assert not _judge(BODY, header, secrets=("whsec_old",))
    assert not _judge(BODY, header, secrets=())
    assert not _judge(BODY, sign(BODY, "", STAMP), secrets=("",))


def test_one_changed_byte_is_refused() -> None:
    header = sign(BODY, "whsec_a", STAMP)
    assert not _judge(BODY + b" ", header)
    assert not _judge(BODY.replace(b": ", b":"), header)


def test_an_unsigned_scheme_is_not_accepted_in_place_of_v1() -> None:
    digest = sign(BODY, "whsec_a", STAMP).partition("v1=")[2]
    assert not _judge(BODY, f"t={STAMP},v0={digest}")
    assert not webhook.verify(BODY, {}, URL, ["whsec_a"], NOW)


@settings(max_examples=60, deadline=None)
@given(header=st.text(max_size=80), body=st.binary(max_size=80))
def test_malformed_input_never_raises(header: str, body: bytes) -> None:
    assert _judge(body, header) is False
    assert _judge(body, f"t={STAMP},v1={header}") is False
    assert _judge(body, f"t={header},v1=00") is False


def _event(kind: str, about: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": "evt_1", "type": kind, "data": {"object": about}, **more}).encode()


def test_a_succeeded_intent_is_a_payment_in_our_words() -> None:
    marks = {"wedding_id": "w-1", "step_id": "deposit"}
    about = {"id": "pi_1", "object": "payment_intent", "amount": 150000, "currency": "eur", "metadata": marks}
    (event,) = webhook.parse(_event("payment_intent.succeeded", about, created=1_700_000_000), {})
    assert (event.source, event.event_id, event.type) == ("stripe", "evt_1", "payment.succeeded")
    assert (event.object_id, event.wedding_id, event.step_id) == ("pi_1", "w-1", "deposit")
    assert event.occurred_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert event.facts == {"payment_id": "pi_1", "amount_minor": 150000, "currency": "EUR"}


def test_a_failed_payment_carries_the_reason() -> None:
    failure = {"code": "card_declined", "decline_code": "insufficient_funds"}
    about = {"id": "pi_1", "object": "payment_intent", "amount": 500, "currency": "ugx", "last_payment_error": failure}
    (event,) = webhook.parse(_event("payment_intent.payment_failed", about), {})
    assert event.type == "payment.failed"
    assert event.facts["reason"] == "insufficient_funds"
    assert event.facts["amount_minor"] == 5
    assert event.occurred_at is None


def test_a_refunded_charge_names_its_payment() -> None:
    about = {"id": "ch_1", "object": "charge", "payment_intent": "pi_1"}
    (event,) = webhook.parse(_event("charge.refunded", about), {})
    assert (event.type, event.vendor_type, event.object_id) == ("other", "charge.refunded", "pi_1")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"{}", b'{"id": 1, "type": "x"}', b'{"id": "e", "type": "x", "data": 1}', b"\xff"],
)
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(body, {})


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(InvalidInput):
        webhook.parse(b"[" * 200_000, {})
