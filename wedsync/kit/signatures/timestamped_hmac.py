"""Verify Stripe's `v1`: HMAC-SHA256 over time and exact bytes. https://docs.stripe.com/webhooks#verify-manually"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from wedsync.kit.signatures.read import any_equal, is_fresh, text_bytes, unix_seconds


def verify_list(body: bytes, value: str, secrets: Sequence[str], now: datetime) -> bool:
    """Verify the same for a header `t=...,v1=...` of another name."""
    stamp, signatures = _read(value)
    if not signatures or not is_fresh(stamp, now):
        return False
    signed = f"{stamp}.".encode() + body
    expected = (hmac.digest(text_bytes(secret), signed, "sha256").hex().encode() for secret in secrets if secret)
    return any_equal(expected, signatures)


def _read(value: str) -> tuple[int | None, list[bytes]]:
    """Return the time and the `v1` signatures; the time is None when there is no good one."""
    stamp: int | None = None
    signatures: list[bytes] = []
    for item in value.split(","):
        name, _, text = item.strip().partition("=")
        if name == "t":
            # A second time would leave open which was signed.
            stamp = unix_seconds(text) if stamp is None else None
            if stamp is None:
                return None, []
        elif name == "v1":
            signatures.append(text_bytes(text))
    return stamp, signatures
