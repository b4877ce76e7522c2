"""Google's push notifications: a channel's token, no signature, no body.

https://developers.google.com/workspace/calendar/api/guides/push. A notification says only that something in the
calendar changed; we must ask what. Each change that we find in the calendar's list passes here too, as the event
itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.signatures import read, tokens

verify = tokens.google_channel


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one event: `calendar.changed`, or `other` for the `sync` that opens a channel; raises InvalidInput.

    Without a notification's headers the body is a changed event of the calendar's list.
    """
    if body and not headers:
        return [_listed(body)]
    channel = read.header(headers, "x-goog-channel-id")
    number = read.header(headers, "x-goog-message-number")
    state = read.header(headers, "x-goog-resource-state")
    if not channel or not number or not state:
        raise InvalidInput("not a notification of a channel", field="headers")
    resource = read.header(headers, "x-goog-resource-id")
    return [
        VendorEvent(
            source="google_calendar",
            event_id=f"{channel}:{number}",
            type="other" if state == "sync" else "calendar.changed",
            vendor_type=state,
            object_id=resource or None,
            facts={"channel_id": channel, "resource_uri": read.header(headers, "x-goog-resource-uri")},
        )
    ]


def _listed(body: bytes) -> VendorEvent:
    try:
        event = json.loads(body)
        event_id, etag, private = event["id"], str(event["etag"]).strip('"'), event["extendedProperties"]["private"]
        updated = datetime.fromisoformat(event["updated"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput("not an event of a calendar", field="body") from error
    return VendorEvent(
        source="google_calendar",
        event_id=f"{event_id}:{etag}",
        type="calendar.changed",
        vendor_type=str(event.get("status", "confirmed")),
        object_id=str(event_id),
        wedding_id=private.get("wedding_id"),
        step_id=private.get("step_id"),
        occurred_at=updated,
    )
