"""Twilio's status callbacks: HMAC-SHA1 over the address and the parameters.

https://www.twilio.com/docs/usage/webhooks/webhooks-security. The scheme holds no time: a replayed message is recognized
by its event id (message and status), which the signature covers.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.vendors.twilio import signature

_TYPES = {
    "delivered": "message.delivered",
    "read": "message.delivered",
    "failed": "message.failed",
    "undelivered": "message.failed",
    "canceled": "message.failed",
}


verify = signature.verify


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one status of one message; raises InvalidInput."""
    try:
        fields = dict(signature.form_fields(body))
    except ValueError as error:
        raise InvalidInput("not a form", field="body") from error
    sid = fields.get("MessageSid") or fields.get("SmsSid") or ""
    status = fields.get("MessageStatus") or fields.get("SmsStatus") or ""
    if not sid or not status:
        raise InvalidInput("not a message's status", field="body")
    facts: dict[str, JsonValue] = {"message_id": sid, "status": status}
    if fields.get("ErrorCode"):
        facts["error_code"] = fields["ErrorCode"]
    return [
        VendorEvent(
            source="twilio",
            event_id=f"{sid}:{status}",
            type=_TYPES.get(status, "other"),
            vendor_type=status,
            object_id=sid,
            facts=facts,
            contacts=tuple(filter(None, (fields.get("From" if status == "received" else "To"),))),
        )
    ]
