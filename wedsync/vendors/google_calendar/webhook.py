"""Google's push notifications: a channel's token, no signature, no body.

https://developers.google.com/workspace/calendar/api/guides/push. A notification only says that something in the
calendar changed; what, has to be asked for.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """True when `X-Goog-Channel-Token` is one of the secrets; a replay is told by channel and message number."""
    token = _header(headers, "x-goog-channel-token").encode("utf-8", "replace")
    valid = False
    for secret in filter(None, secrets):
        valid |= hmac.compare_digest(secret.encode("utf-8", "replace"), token)
    return valid


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """One event: `calendar.changed`, or `other` for the `sync` that opens a channel; raises InvalidInput."""
    channel = _header(headers, "x-goog-channel-id")
    number = _header(headers, "x-goog-message-number")
    state = _header(headers, "x-goog-resource-state")
    if not channel or not number or not state:
        raise InvalidInput("not a notification of a channel", field="headers")
    resource = _header(headers, "x-goog-resource-id")
    return [
        VendorEvent(
            source="google_calendar",
            event_id=f"{channel}:{number}",
            type="other" if state == "sync" else "calendar.changed",
            vendor_type=state,
            object_id=resource or None,
            facts={"channel_id": channel, "resource_uri": _header(headers, "x-goog-resource-uri")},
        )
    ]
