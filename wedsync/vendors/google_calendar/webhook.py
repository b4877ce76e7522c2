"""Google's push notifications: a channel's token, no signature, no body.

https://developers.google.com/workspace/calendar/api/guides/push. A notification only says that something in the
calendar changed; what, has to be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent
from wedsync.kit.signatures import read, tokens

verify = tokens.google_channel


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """One event: `calendar.changed`, or `other` for the `sync` that opens a channel; raises InvalidInput."""
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
