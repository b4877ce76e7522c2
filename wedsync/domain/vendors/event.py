"""What a vendor tells us by a webhook, in our own words. Values only."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, JsonValue

from wedsync.domain.value import Value


class VendorEvent(Value):
    """A verified webhook, normalized."""

    source: str
    #: The vendor's id of the event: with `source` it makes the event unique.
    event_id: str
    #: Normalized: `payment.succeeded`, `payment.failed`, `booking.confirmed`, `booking.declined`,
    #: `message.delivered`, `message.failed`, `calendar.changed`; or `other`.
    type: str
    #: The vendor's own name of the type.
    vendor_type: str
    object_id: str | None = None
    wedding_id: str | None = None
    step_id: str | None = None
    occurred_at: datetime | None = None
    facts: dict[str, JsonValue] = {}
    #: Phones and addresses that the message names; only their digests are ever kept.
    contacts: tuple[str, ...] = Field(default=(), repr=False, exclude=True)
