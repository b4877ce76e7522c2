"""The generic vendor's webhooks: HMAC-SHA256 over time and exact bytes, as `openapi.json` says."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent

#: Older or newer than this (seconds, inclusive) is a replay or a wrong clock.
TOLERANCE_SECONDS = 300


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """True when `X-Signature: t=<unix>,v1=<hex>` is the HMAC-SHA256 of `{t}.{body}` by one of the secrets, in time."""
    header = next((value for name, value in headers.items() if name.lower() == "x-signature"), "")
    times: list[str] = []
    signatures: list[str] = []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            times.append(value)
        elif name == "v1":
            signatures.append(value)
    if len(times) != 1 or not signatures:
        return False
    (stamp,) = times
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    if abs(now.timestamp() - int(stamp)) > TOLERANCE_SECONDS:
        return False
    signed = stamp.encode() + b"." + body
    valid = False
    for secret in secrets:
        expected = hmac.digest(secret.encode(), signed, "sha256").hex().encode()
        for signature in signatures:
            valid |= hmac.compare_digest(expected, signature.encode("utf-8", "replace")) and bool(secret)
    return valid


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")
    booking_id: str
    reference: str | None = None
    wedding: str | None = None


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str
    type: str
    created_at: datetime | None = None
    data: _Data


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """One event: `{id, type, created_at, data: {booking_id, reference, wedding?}}`; raises InvalidInput."""
    try:
        event = _Event.model_validate(json.loads(body))
    except (ValueError, RecursionError, ValidationError) as error:
        raise InvalidInput("not a booking event", field="body") from error
    known = event.type in ("booking.confirmed", "booking.declined")
    return [
        VendorEvent(
            source="generic",
            event_id=event.id,
            type=event.type if known else "other",
            vendor_type=event.type,
            object_id=event.data.booking_id,
            wedding_id=event.data.wedding,
            occurred_at=event.created_at,
            facts={"booking_id": event.data.booking_id, "reference": event.data.reference},
        )
    ]
