"""Every published signature is decided as it says, and nothing that was changed passes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from wedsync.usecases.inbox.schemes import SCHEMES
from wedsync.vendors.paypal import signature
from wedsync.vendors.paypal.certificates import trusted_key

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "vectors"
_FILE = FOLDER / "signatures.json"
#: The vectors' word for a scheme → ours.
_NAMES = {
    "stripe-v1": "stripe",
    "twilio-hmac-sha1": "twilio",
    "sendgrid-ecdsa-p256-sha256": "sendgrid",
    "slack-v0": "slack",
    "hub-sha256": "github",
    "standard-webhooks-v1": "standard_webhooks",
    "standard-webhooks-v1a": "standard_webhooks",
    "svix-v1": "svix",
    "meta-verify-token": "meta",
    "google-channel-token": "google_calendar",
    "graph-client-state": "microsoft_graph",
    "vonage-sig-md5hmac": "vonage",
    "vonage-sig-sha256hmac": "vonage",
    "vonage-jwt-hs256": "vonage",
}
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8")) if _FILE.is_file() else []
POSTED = [vector for vector in VECTORS if vector["method"] == "POST"]
GENUINE = [vector for vector in POSTED if vector["valid"]]
#: What signs nothing of the body but its sender.
_UNSIGNED = ("google-channel-token", "graph-client-state")


def _id(vector: dict[str, Any]) -> str:
    return str(vector["id"])


def _paypal_key(vector: dict[str, Any], now: datetime) -> Any:
    between = (FOLDER / "paypal" / "DigiCertSHA2ExtendedValidationServerCA.crt.pem").read_bytes()
    root = (FOLDER / "paypal" / "DigiCertHighAssuranceEVRootCA.crt.pem").read_bytes()
    chain = vector["secret_or_key"].encode() + b"\n" + between

    def key_of(url: str) -> rsa.RSAPublicKey | None:
        return trusted_key(chain, [x509.load_pem_x509_certificate(root)], now)

    return key_of


def judge(vector: dict[str, Any], **changed: Any) -> bool:
    """Our verdict on the vector, with `body`, `headers`, `secrets` or `now` changed."""
    body = changed.get("body", base64.b64decode(vector["body"]))
    headers = changed.get("headers", vector["headers"])
    now = changed.get("now", datetime.fromtimestamp(vector["now"], UTC))
    if vector["scheme"] == "paypal-cert-sha256-rsa":
        webhook_ids = changed.get("secrets", [vector["extra"]["webhook_id"]])
        return signature.verify(body, headers, webhook_ids, now, _paypal_key(vector, now))
    secrets = changed.get("secrets", [vector["secret_or_key"]])
    return SCHEMES[_NAMES[vector["scheme"]]].verify(body, headers, vector["url"], secrets, now)


def test_the_published_vectors_are_there() -> None:
    assert len(VECTORS) >= 70, f"{_FILE} is missing beside the project: these tests read the vendors' vectors"


@pytest.mark.parametrize("vector", POSTED, ids=_id)
def test_a_published_signature_is_decided_as_it_says(vector: dict[str, Any]) -> None:
    assert judge(vector) is vector["valid"], vector["description"]


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["method"] == "GET"], ids=_id)
def test_a_published_challenge_is_answered_as_it_says(vector: dict[str, Any]) -> None:
    query = dict(parse_qsl(urlsplit(vector["url"]).query))
    shake = SCHEMES[_NAMES[vector["scheme"]]].handshake
    assert shake is not None
    expected = vector["extra"]["expected_response"]
    assert shake(b"", vector["headers"], query, [vector["secret_or_key"]]) == (
        expected["status"],
        "text/plain",
        expected["text"].encode(),
    )
    refused = shake(b"", vector["headers"], query, ["another"])
    assert refused is not None
    assert refused[0] == 403


@pytest.mark.parametrize("vector", GENUINE, ids=_id)
def test_the_secret_is_found_among_several_and_no_other_will_do(vector: dict[str, Any]) -> None:
    own = vector["extra"]["webhook_id"] if vector["source"] == "paypal" else vector["secret_or_key"]
    assert judge(vector, secrets=["another", own])
    assert not judge(vector, secrets=["another", "whsec_AAAA", "", "ä\udc80"])
    assert not judge(vector, secrets=[])


@pytest.mark.parametrize(
    "vector", [one for one in GENUINE if one["scheme"] not in _UNSIGNED and one["id"] != "vonage-07"], ids=_id
)
def test_one_flipped_bit_of_the_body_is_refused(vector: dict[str, Any]) -> None:
    body = base64.b64decode(vector["body"])
    for place in {0, len(body) // 2, len(body) - 1}:
        flipped = bytearray(body)
        flipped[place] ^= 1
        assert not judge(vector, body=bytes(flipped)), place
    assert not judge(vector, body=body + b"x")
    assert not judge(vector, body=body[:-1])


_PLAIN = ("content-type", "content-length", "x-goog-channel-id", "x-goog-channel-expiration", "x-goog-resource")


#: Their headers hold more than the one signature that counts.
_SEVERAL = ("stripe-01", "stripe-14", "standard-webhooks-04", "svix-04")


@pytest.mark.parametrize("vector", [one for one in GENUINE if one["id"] not in _SEVERAL], ids=_id)
def test_a_changed_or_cut_header_is_refused(vector: dict[str, Any]) -> None:
    for name, value in vector["headers"].items():
        if name.lower().startswith(_PLAIN) or name.lower() in ("x-goog-message-number", "paypal-cert-url"):
            continue
        flipped = value[:-1] + chr(ord(value[-1]) ^ 1)
        for other in (flipped, value[:-1], value[: len(value) // 2], ""):
            assert not judge(vector, headers={**vector["headers"], name: other}), (name, other)
        without = {key: document for key, document in vector["headers"].items() if key != name}
        assert not judge(vector, headers=without), name


_TIMED = ("stripe-v1", "slack-v0", "standard-webhooks-v1", "standard-webhooks-v1a", "svix-v1")


@pytest.mark.parametrize("vector", [one for one in GENUINE if one["scheme"] in _TIMED], ids=_id)
def test_outside_its_window_of_300_seconds_it_is_refused(vector: dict[str, Any]) -> None:
    for shift, expected in ((300, True), (-300, True), (301, False), (-301, False), (10**9, False)):
        assert judge(vector, now=datetime.fromtimestamp(vector["now"] + shift, UTC)) is expected, shift


_NASTY = ["", "=", ",", "t=,v1=", "t=1", "v1", "v1,", "\udc80", "ä" * 300, "a" * 100_000, "\x00", "Bearer a.b.c"]


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_malformed_input_is_refused_and_never_raises(name: str) -> None:
    now = datetime.fromtimestamp(1_700_000_000, UTC)
    headers = {key for vector in POSTED for key in vector["headers"]} | {"X-Signature", "X-Zm-Signature", "X-Api-Key"}
    for document in _NASTY:
        received = dict.fromkeys(headers, document)
        for body in (b"", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"value": [1]}', b"a=1&sig=x&timestamp=1"):
            for url in ("https://x.test/hook", "http://[::1", "https://x.test/?token=%ff&token=b"):
                assert SCHEMES[name].verify(body, received, url, ["secret", "whsec_AAAA"], now) is False
