"""Verify PayPal's RSA signature over id, time, webhook id and the body's CRC-32, by the certificate that is named.

https://developer.paypal.com/api/rest/webhooks/rest/#verify-the-message
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from wedsync.kit.signatures.read import header, text_bytes, unbase64

#: PayPal sends up to 25 times over 3 days, and documents no window: older ones are refused; the inbox rejects
#: other replays, since it records an event's id once.
MAX_AGE = timedelta(days=3, hours=1)
MAX_AHEAD = timedelta(minutes=5)

#: Returns the trusted key of the certificate at an address; None: there is none.
KeyOf = Callable[[str], rsa.RSAPublicKey | None]


def verify(body: bytes, headers: Mapping[str, str], webhook_ids: Sequence[str], now: datetime, key_of: KeyOf) -> bool:
    """Tell whether PayPal signed exactly these bytes for one of our webhook ids, not too long ago. Never raises."""
    stamp = _header(headers, "transmission-time")
    if _header(headers, "auth-algo") != "SHA256withRSA" or not _is_fresh(stamp, now):
        return False
    signature = unbase64(_header(headers, "transmission-sig"))
    key = key_of(certificate_url(headers)) if signature else None
    if key is None:
        return False
    start = f"{_header(headers, 'transmission-id')}|{stamp}"
    for webhook_id in webhook_ids:
        message = text_bytes(f"{start}|{webhook_id}|{zlib.crc32(body)}")
        try:
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            continue
        return bool(webhook_id)
    return False


def certificate_url(headers: Mapping[str, str]) -> str:
    """Return the address of the certificate that the message names."""
    return _header(headers, "cert-url")


def moment(text: Any) -> datetime | None:
    """Read an RFC 3339 instant in UTC; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _header(headers: Mapping[str, str], name: str) -> str:
    return header(headers, f"paypal-{name}")


def _is_fresh(stamp: str, now: datetime) -> bool:
    sent = moment(stamp)
    return sent is not None and -MAX_AHEAD <= now - sent <= MAX_AGE
