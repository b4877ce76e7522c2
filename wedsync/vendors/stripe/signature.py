"""Verifies Stripe's webhooks. https://docs.stripe.com/webhooks#verify-manually"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from wedsync.kit.signatures.read import header
from wedsync.kit.signatures.timestamped_hmac import verify_list

HEADER = "stripe-signature"


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether one of `secrets` signed exactly these bytes within 300 s of `now`. Never raises."""
    return verify_list(body, header(headers, HEADER), secrets, now)
