"""Verify SendGrid's ECDSA (P-256, SHA-256) over time and exact bytes, by a public key.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from wedsync.kit.signatures.read import header, unbase64, unix_seconds

#: SendGrid tries for a day; event ids reveal what is replayed within it.
_MAX_AGE_SECONDS = 24 * 3600
_MAX_AHEAD_SECONDS = 300
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
#: A secret with this prefix is not SendGrid's verification key but the seed of the local stand-in's key pair.
_SEED_PREFIX = "whsec_"


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether one of the keys signed timestamp and body, no longer than a day ago."""
    stamp = header(headers, "x-twilio-email-event-webhook-timestamp")
    sent_at = unix_seconds(stamp)
    if sent_at is None or not -_MAX_AHEAD_SECONDS <= now.timestamp() - sent_at <= _MAX_AGE_SECONDS:
        return False
    signature = unbase64(header(headers, "x-twilio-email-event-webhook-signature"))
    return any(_signed(stamp.encode() + body, signature, key) for key in map(_public_key, secrets) if key is not None)


def _signed(message: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _public_key(secret: str) -> ec.EllipticCurvePublicKey | None:
    if secret.startswith(_SEED_PREFIX):
        digest = hashlib.sha512(b"sendgrid stand-in:" + secret.encode("utf-8", "replace")).digest()
        number = int.from_bytes(digest, "big") % (_CURVE_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1()).public_key()
    try:
        key = load_der_public_key(unbase64(secret))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None
