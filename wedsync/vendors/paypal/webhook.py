"""Reads PayPal's webhooks: certificate signatures, and the events as vendor events.

https://developer.paypal.com/api/rest/webhooks/rest/#verify-the-message,
https://developer.paypal.com/api/rest/webhooks/event-names/#payments
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.money import to_minor
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.http import VendorHttp
from wedsync.vendors.paypal import signature
from wedsync.vendors.paypal.certificates import Certificates
from wedsync.vendors.paypal.mapping import read_mark

_TYPES = {
    "PAYMENT.CAPTURE.COMPLETED": "payment.succeeded",
    "PAYMENT.CAPTURE.DENIED": "payment.failed",
    "PAYMENT.CAPTURE.DECLINED": "payment.failed",
}

#: The certificates of this process.
CERTIFICATES = Certificates()


async def prepare(
    headers: Mapping[str, str], http: VendorHttp, certificates: Certificates = CERTIFICATES, *, client: str = ""
) -> None:
    """Fetch the certificate that `headers` name before `verify` is called, which itself waits for nothing.

    `http` is the transport to the PayPal account, `client` the address that the message came from. If a certificate
    cannot be fetched, `verify` returns False.
    """
    await certificates.fetch(signature.certificate_url(headers), http, client=client)


def verify(
    body: bytes,
    headers: Mapping[str, str],
    url: str,
    secrets: Sequence[str],
    now: datetime,
    certificates: Certificates = CERTIFICATES,
) -> bool:
    """Tell whether PayPal signed exactly these bytes for one of our webhook ids (`secrets`), not too long ago.

    Never raises. False as well when the certificate is not at hand: see `prepare`.
    """
    return signature.verify(body, headers, secrets, now, lambda address: certificates.key(address, now))


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read the one event in `body`. Raises InvalidInput when it is not a PayPal event."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON", reason="not_json") from None
    if not isinstance(event, dict):
        raise InvalidInput("the body is not an event", reason="not_an_event")
    event_id, vendor_type, about = event.get("id"), event.get("event_type"), event.get("resource")
    if not (isinstance(event_id, str) and isinstance(vendor_type, str) and isinstance(about, dict)):
        raise InvalidInput("the body is not an event", reason="not_an_event")
    wedding_id, step_id = read_mark(about.get("custom_id"))
    return [
        VendorEvent(
            source="paypal",
            event_id=event_id,
            type=_TYPES.get(vendor_type, "other"),
            vendor_type=vendor_type,
            object_id=_order_id(about) or _text(about.get("id")),
            wedding_id=wedding_id,
            step_id=step_id,
            occurred_at=signature.moment(event.get("create_time")),
            facts=_facts(about) if vendor_type in _TYPES else {},
        )
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _order_id(about: dict[str, Any]) -> str | None:
    """Return the order that a capture belongs to."""
    supplement = about.get("supplementary_data")
    related = supplement.get("related_ids") if isinstance(supplement, dict) else None
    return _text(related.get("order_id")) if isinstance(related, dict) else None


def _facts(about: dict[str, Any]) -> dict[str, JsonValue]:
    facts: dict[str, JsonValue] = {"payment_id": _text(about.get("id"))}
    amount = about.get("amount")
    value, currency = (amount.get("value"), amount.get("currency_code")) if isinstance(amount, dict) else (None, None)
    if isinstance(value, str) and isinstance(currency, str):
        try:
            facts["amount_minor"] = to_minor(value, currency)
            facts["currency"] = currency
        except InvalidInput:
            # An amount that we cannot count is left out; the event stands without it.
            pass
    details = about.get("status_details")
    if isinstance(details, dict) and _text(details.get("reason")):
        facts["reason"] = _text(details.get("reason"))
    return facts
