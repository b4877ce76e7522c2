"""Reads Vonage's delivery receipts. https://developer.vonage.com/en/getting-started/concepts/webhooks"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.vendors.vonage import signature

_DELIVERED = frozenset(("delivered", "read"))
_FAILED = frozenset(("failed", "rejected", "expired", "undeliverable", "undelivered", "deleted"))


verify = signature.verify


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one delivery receipt (SMS API, or the Messages API's status); an inbound message is `other`.

    Raises InvalidInput when the body is neither.
    """
    params = signature.read_params(body)
    message_id = (params or {}).get("messageId") or (params or {}).get("message_uuid")
    if params is None or not isinstance(message_id, str):
        raise InvalidInput("not a delivery receipt", field="body")
    status = str(params.get("status", "inbound")).lower()
    kind = "message.delivered" if status in _DELIVERED else "message.failed" if status in _FAILED else "other"
    facts = {"client_ref": params.get("client-ref") or params.get("client_ref"), "error": params.get("err-code")}
    return [
        VendorEvent(
            source="vonage",
            event_id=f"{message_id}:{status}",
            type=kind,
            vendor_type=status,
            object_id=message_id,
            occurred_at=_moment(params.get("message-timestamp") or params.get("timestamp")),
            contacts=tuple(value for value in (params.get("msisdn"), params.get("to")) if isinstance(value, str)),
            facts={name: value for name, value in facts.items() if isinstance(value, str)},
        )
    ]


def _moment(text: Any) -> datetime | None:
    """Read `2026-11-20 12:00:00` and ISO 8601, in UTC where no offset is given."""
    try:
        moment = datetime.fromisoformat(str(text).replace(" +0000", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
