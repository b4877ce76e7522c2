"""Resend's webhooks, sent through Svix. https://resend.com/docs/dashboard/webhooks/event-types"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError, field_validator

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit import standard_webhooks

_TYPES = {
    "email.delivered": "message.delivered",
    "email.bounced": "message.failed",
    "email.complained": "message.failed",
    "email.failed": "message.failed",
    "email.suppressed": "message.failed",
}


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")
    email_id: str | None = None
    tags: dict[str, str] = {}
    to: list[str] = []

    @field_validator("tags", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Accept tags as an object or, from older endpoints, as a list of name and value."""
        if isinstance(value, list):
            return {tag.get("name"): tag.get("value") for tag in value if isinstance(tag, dict)}
        return value or {}


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str
    created_at: AwareDatetime | None = None
    data: _Data = _Data()


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether a `svix-signature` is right under one of the secrets and no older than five minutes."""
    return standard_webhooks.verify(body, headers, secrets, now)


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one event about one email; raises InvalidInput."""
    envelope = standard_webhooks.read_envelope(headers)
    if envelope is None:
        raise InvalidInput("the message has no id", field="headers")
    try:
        event = _Event.model_validate(json.loads(body))
    except (ValueError, RecursionError, ValidationError) as error:
        raise InvalidInput("not an email event", field="body") from error
    facts: dict[str, JsonValue] = {"message_id": event.data.email_id} if event.data.email_id else {}
    return [
        VendorEvent(
            source="resend",
            event_id=envelope.message_id,
            type=_TYPES.get(event.type, "other"),
            vendor_type=event.type,
            object_id=event.data.email_id,
            wedding_id=event.data.tags.get("wedding"),
            step_id=event.data.tags.get("step"),
            occurred_at=event.created_at,
            facts=facts,
            contacts=tuple(event.data.to),
        )
    ]
