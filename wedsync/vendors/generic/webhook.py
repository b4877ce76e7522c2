"""Webhooks of the generic vendor: HMAC-SHA256 over time and exact bytes, as `openapi.json` says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.signatures import read, timestamped_hmac


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether `X-Signature: t=<unix>,v1=<hex>` is in time and the HMAC-SHA256 of `{t}.{body}` by a secret."""
    return timestamped_hmac.verify_list(body, read.header(headers, "x-signature"), secrets, now)


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
    """Read one event: `{id, type, created_at, data: {booking_id, reference, wedding?}}`; raises InvalidInput."""
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
