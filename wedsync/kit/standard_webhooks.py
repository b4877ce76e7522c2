"""Verify webhooks by the Standard Webhooks scheme, as Svix and those who send through it do.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: `v1` is HMAC-SHA256,
`v1a` is Ed25519, each over `{id}.{timestamp}.{body}`. Headers are `webhook-*`, at Svix `svix-*`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wedsync.kit.signatures.read import unbase64

#: Older or newer than this (seconds, inclusive) is a replay or a wrong clock.
TOLERANCE_SECONDS = 300
SECRET_PREFIX = "whsec_"  # noqa: S105
PUBLIC_KEY_PREFIX = "whpk_"
_PREFIXES = ("webhook-", "svix-")
#: The most signatures of one message that are tried, as keys are rotated.
_MAX_SIGNATURES = 16


@dataclass(frozen=True)
class Envelope:
    """One message's three headers."""

    message_id: str
    timestamp: str
    signatures: str


def read_envelope(headers: Mapping[str, str]) -> Envelope | None:
    """Return the scheme's headers, of whichever spelling is complete; None when none is."""
    lowered = {name.lower(): value for name, value in headers.items()}
    for prefix in _PREFIXES:
        found = [lowered.get(prefix + name, "") for name in ("id", "timestamp", "signature")]
        if all(found):
            return Envelope(*found)
    return None


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether one of the secrets made a signature and the message is fresh. Never raises.

    A secret is `whsec_` and base64 (or the base64 alone) for `v1`; `whpk_` and base64 of the public key for `v1a`.
    """
    envelope = read_envelope(headers)
    if envelope is None or not _fresh(envelope.timestamp, now):
        return False
    signed = f"{envelope.message_id}.{envelope.timestamp}.".encode("utf-8", "replace") + body
    received = [part.partition(",") for part in envelope.signatures.split(" ")[:_MAX_SIGNATURES]]
    valid = False
    for secret in secrets:
        if secret.startswith(PUBLIC_KEY_PREFIX):
            signatures = [value for version, _, value in received if version == "v1a"]
            valid |= _asymmetric(signed, signatures, secret.removeprefix(PUBLIC_KEY_PREFIX))
        else:
            signatures = [value for version, _, value in received if version == "v1"]
            valid |= _symmetric(signed, signatures, secret.removeprefix(SECRET_PREFIX))
    return valid


def _fresh(timestamp: str, now: datetime) -> bool:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(now.timestamp() - int(timestamp)) <= TOLERANCE_SECONDS


def _symmetric(signed: bytes, signatures: Sequence[str], secret: str) -> bool:
    key = _decoded(secret)
    if not key:
        return False
    expected = base64.b64encode(hmac.digest(key, signed, "sha256"))
    valid = False
    for signature in signatures:
        valid |= hmac.compare_digest(expected, signature.encode("utf-8", "replace"))
    return valid


def _asymmetric(signed: bytes, signatures: Sequence[str], public_key: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(_decoded(public_key))
    except ValueError:
        return False
    for signature in signatures:
        try:
            key.verify(unbase64(signature), signed)
        except InvalidSignature:
            continue
        return True
    return False


def _decoded(text: str) -> bytes:
    """Return the bytes of base64 `text`; none when it is not base64."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return b""
