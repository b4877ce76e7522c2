"""SendGrid's event webhook: batches of events, signed with ECDSA over time and exact bytes.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.vendors.sendgrid import signature

#: `{X-Message-Id}.filter...` or `{X-Message-Id}.recvd-...`
_MESSAGE_ID_TAIL = re.compile(r"\.(?:filter|recvd)")
_TYPES = {
    "delivered": "message.delivered",
    "bounce": "message.failed",
    "dropped": "message.failed",
    "spamreport": "message.failed",
}


verify = signature.verify


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")
    event: str
    sg_event_id: str = ""
    sg_message_id: str = ""
    timestamp: int | None = None
    wedding: str | None = None
    step: str | None = None
    email: str = ""


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read the events of a batch, in its order; raises InvalidInput."""
    try:
        batch = json.loads(body)
        if not isinstance(batch, list):
            raise InvalidInput("not a batch of email events", field="body")
        return [_event(_Event.model_validate(one), one) for one in batch]
    except (ValueError, RecursionError, OverflowError, OSError, ValidationError) as error:
        raise InvalidInput("not a batch of email events", field="body") from error


def _event(event: _Event, raw: Any) -> VendorEvent:
    message_id = _MESSAGE_ID_TAIL.split(event.sg_message_id, maxsplit=1)[0] or None
    # Events about the account carry no id of their own: their content names them.
    content = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
    facts: dict[str, JsonValue] = {"message_id": message_id} if message_id else {}
    return VendorEvent(
        source="sendgrid",
        event_id=event.sg_event_id or content,
        type=_TYPES.get(event.event, "other"),
        vendor_type=event.event,
        object_id=message_id,
        wedding_id=event.wedding,
        step_id=event.step,
        occurred_at=None if event.timestamp is None else datetime.fromtimestamp(event.timestamp, UTC),
        facts=facts,
        contacts=(event.email,) if event.email else (),
    )
