"""What the vendors' own SDKs sign is taken, and what they refuse is refused."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
import svix
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook
from slack_sdk.signature import Clock, SignatureVerifier
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator

from wedsync.domain.inbox.source import HmacOptions
from wedsync.kit.signatures.handshakes import slack as slack_handshake
from wedsync.kit.signatures.handshakes import zoom as zoom_handshake
from wedsync.kit.signatures.hmac_sha256 import verify
from wedsync.usecases.inbox.schemes import SCHEMES

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
STAMP = str(int(NOW.timestamp()))
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()
URL = "https://studio.test/api/integrations/webhooks/twilio"
_PRIVATE = ec.derive_private_key(7, ec.SECP256R1())
_PUBLIC = base64.b64encode(_PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def _stripe(body: str) -> tuple[dict[str, str], str]:
    mac = stripe.WebhookSignature._compute_signature(f"{STAMP}.{body}", "secret")
    return {"Stripe-Signature": f"t={STAMP},v1={mac}"}, "secret"


def _standard(body: str) -> tuple[dict[str, str], str]:
    mac = Webhook(KEY).sign("msg_1", NOW, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": STAMP, "webhook-signature": mac}, KEY


def _svix(body: str) -> tuple[dict[str, str], str]:
    mac = svix.Webhook(KEY).sign("msg_1", NOW, body)
    return {"svix-id": "msg_1", "svix-timestamp": STAMP, "svix-signature": mac}, KEY


def _slack(body: str) -> tuple[dict[str, str], str]:
    mac = SignatureVerifier("secret").generate_signature(timestamp=STAMP, body=body)
    assert mac is not None
    return {"X-Slack-Signature": mac, "X-Slack-Request-Timestamp": STAMP}, "secret"


def _sendgrid(body: str) -> tuple[dict[str, str], str]:
    mac = base64.b64encode(_PRIVATE.sign(STAMP.encode() + body.encode(), ec.ECDSA(SHA256()))).decode()
    oracle = EventWebhook()
    assert oracle.verify_signature(body, mac, STAMP, oracle.convert_public_key_to_ecdsa(_PUBLIC))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": mac,
        "X-Twilio-Email-Event-Webhook-Timestamp": STAMP,
    }, _PUBLIC


_SIGN: dict[str, Callable[[str], tuple[dict[str, str], str]]] = {
    "stripe": _stripe,
    "standard_webhooks": _standard,
    "resend": _svix,
    "svix": _svix,
    "slack": _slack,
    "sendgrid": _sendgrid,
}


@pytest.mark.parametrize("name", sorted(_SIGN))
@settings(max_examples=20, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50), place=st.integers(0, 10**6))
def test_what_the_sdk_signs_is_taken_and_a_changed_byte_is_not(name: str, text: str, place: int) -> None:
    body = json.dumps({"text": text}, ensure_ascii=False)
    headers, secret = _SIGN[name](body)
    check = SCHEMES[name].verify
    assert check(body.encode(), headers, URL, [secret], NOW)
    flipped = bytearray(body.encode())
    flipped[place % len(flipped)] ^= 1
    assert not check(bytes(flipped), headers, URL, [secret], NOW)
    assert not check(body.encode(), headers, URL, [secret], NOW + timedelta(days=2))


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text("abcdefXYZ", min_size=1, max_size=8), st.text("abc äø&=+%", max_size=20), min_size=1))
def test_twilios_forms_are_judged_as_by_its_sdk(fields: dict[str, str]) -> None:
    from urllib.parse import urlencode

    mac = RequestValidator("token").compute_signature(URL, fields)
    headers = {"X-Twilio-Signature": mac, "Content-Type": "application/x-www-form-urlencoded"}
    check = SCHEMES["twilio"].verify
    assert check(urlencode(fields).encode(), headers, URL, ["token"], NOW)
    assert not check(urlencode({**fields, "More": "1"}).encode(), headers, URL, ["token"], NOW)
    assert not check(urlencode(fields).encode(), headers, URL + "x", ["token"], NOW)


def test_slacks_sdk_and_we_agree_at_the_windows_edges() -> None:
    class Fixed(Clock):
        def __init__(self, at: float) -> None:
            self.at = at

        def now(self) -> float:
            return self.at

    headers, secret = _slack("a=1")
    for shift in (-299, 0, 299, 301, 4000):
        moment = NOW + timedelta(seconds=shift)
        theirs = SignatureVerifier(secret, Fixed(moment.timestamp())).is_valid_request("a=1", headers)
        assert SCHEMES["slack"].verify(b"a=1", headers, URL, [secret], moment) is theirs, shift


def _zoom(body: bytes, key: str = "zoom") -> dict[str, str]:
    mac = hmac.digest(key.encode(), b"v0:" + STAMP.encode() + b":" + body, "sha256").hex()
    return {"x-zm-signature": f"v0={mac}", "x-zm-request-timestamp": STAMP}


def test_zoom_signs_like_slack_under_other_headers() -> None:
    check = SCHEMES["zoom"].verify
    assert check(b"{}", _zoom(b"{}"), URL, ["old", "zoom"], NOW)
    assert not check(b"{ }", _zoom(b"{}"), URL, ["zoom"], NOW)
    assert not check(b"{}", _zoom(b"{}", "other"), URL, ["zoom"], NOW)
    assert not check(b"{}", _zoom(b"{}"), URL, ["zoom"], NOW + timedelta(seconds=301))


def test_zooms_validation_is_answered_with_the_tokens_hmac() -> None:
    # The published example of https://developers.zoom.us/docs/api/webhooks/.
    body = json.dumps({"payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}, "event": "endpoint.url_validation"})
    answer = zoom_handshake(body.encode(), {}, {}, ["secret"])
    assert answer is not None
    expected = hmac.digest(b"secret", b"qgg8vlvZRS6UYooatFL8Aw", "sha256").hex()
    assert (answer[0], answer[1], json.loads(answer[2])) == (
        200,
        "application/json",
        {"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": expected},
    )
    assert zoom_handshake(b'{"event": "meeting.started"}', {}, {}, ["secret"]) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"type": "event_callback", "challenge": "c"}'])
def test_what_is_no_challenge_of_slacks_is_not_answered(body: bytes) -> None:
    assert slack_handshake(body, {}, {}, ["s"]) is None
    assert slack_handshake(b'{"type": "url_verification", "challenge": "c"}', {}, {}, ["s"]) == (
        200,
        "text/plain",
        b"c",
    )


_OPTIONS: list[tuple[dict[str, Any], Callable[[bytes], dict[str, str]]]] = [
    ({}, lambda body: {"X-Signature": hmac.digest(b"s", body, "sha256").hex()}),
    (
        {"header": "X-Weather-Mac", "encoding": "base64"},
        lambda body: {"x-weather-mac": base64.b64encode(hmac.digest(b"s", body, "sha256")).decode()},
    ),
    (
        {"prefix": "sha256=", "timestamp_header": "X-Time", "signed_prefix": "{timestamp}."},
        lambda body: {
            "X-Time": STAMP,
            "X-Signature": "sha256=" + hmac.digest(b"s", STAMP.encode() + b"." + body, "sha256").hex(),
        },
    ),
]


@pytest.mark.parametrize(("options", "sign"), _OPTIONS)
def test_an_hmac_is_read_as_configured(options: dict[str, Any], sign: Callable[[bytes], dict[str, str]]) -> None:
    chosen = HmacOptions.model_validate(options)
    body = '{"rain": "30 mm – Zürich"}'.encode()
    assert verify(body, sign(body), ["old", "s"], NOW, chosen)
    assert not verify(body + b" ", sign(body), ["s"], NOW, chosen)
    assert not verify(body, sign(body), ["other"], NOW, chosen)
    if chosen.timestamp_header:
        assert not verify(body, sign(body), ["s"], NOW + timedelta(seconds=301), chosen)
        assert not verify(body, {**sign(body), "X-Time": "x"}, ["s"], NOW, chosen)


def test_a_zap_may_bring_its_secret_in_a_header_or_in_the_address() -> None:
    check = SCHEMES["zapier"].verify
    assert check(b"", {"X-API-Key": "s"}, URL, ["s"], NOW)
    assert check(b"", {"Authorization": "Bearer s"}, URL, ["s"], NOW)
    assert check(b"", {}, URL + "?token=s", ["s"], NOW)
    bare: dict[str, str] = {}
    for headers, tail in ((bare, ""), ({"Authorization": "s"}, ""), (bare, "?token=s&token=s"), (bare, "?token=")):
        assert not check(b"", headers, URL + tail, ["s", ""], NOW)
