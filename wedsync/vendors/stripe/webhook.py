"""Reads Stripe's webhooks as vendor events. https://docs.stripe.com/api/events/object"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.vendors.stripe import signature
from wedsync.vendors.stripe.mapping import from_stripe_amount

_TYPES = {
    "payment_intent.succeeded": "payment.succeeded",
    "payment_intent.payment_failed": "payment.failed",
}


verify = signature.verify


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read the one event in `body`. Raises InvalidInput when it is not a Stripe event."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON", reason="not_json") from None
    if not isinstance(event, dict):
        raise InvalidInput("the body is not an event", reason="not_an_event")
    event_id, vendor_type = event.get("id"), event.get("type")
    data = event.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    if not (isinstance(event_id, str) and isinstance(vendor_type, str) and isinstance(about, dict)):
        raise InvalidInput("the body is not an event", reason="not_an_event")
    marks = about.get("metadata") if isinstance(about.get("metadata"), dict) else {}
    return [
        VendorEvent(
            source="stripe",
            event_id=event_id,
            type=_TYPES.get(vendor_type, "other"),
            vendor_type=vendor_type,
            object_id=_intent_id(about),
            wedding_id=_text(marks, "wedding_id"),
            step_id=_text(marks, "step_id"),
            occurred_at=_moment(event.get("created")),
            facts=_facts(about),
        )
    ]


def _text(values: Any, name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def _intent_id(about: dict[str, Any]) -> str | None:
    """Return the payment intent that the event's object is or belongs to; else the object itself."""
    if about.get("object") in ("charge", "refund"):
        return _text(about, "payment_intent") or _text(about, "id")
    return _text(about, "id")


def _moment(created: Any) -> datetime | None:
    if not isinstance(created, int) or isinstance(created, bool):
        return None
    try:
        return datetime.fromtimestamp(created, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _facts(about: dict[str, Any]) -> dict[str, JsonValue]:
    if about.get("object") != "payment_intent":
        return {}
    facts: dict[str, JsonValue] = {"payment_id": _text(about, "id")}
    amount, currency = about.get("amount_received") or about.get("amount"), _text(about, "currency")
    if isinstance(amount, int) and currency:
        facts["amount_minor"] = from_stripe_amount(amount, currency)
        facts["currency"] = currency.upper()
    error = about.get("last_payment_error")
    if isinstance(error, dict):
        facts["reason"] = _text(error, "decline_code") or _text(error, "code")
    return facts
