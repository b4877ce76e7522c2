"""Graph's change notifications: known by the `clientState` that we gave the subscription.

Source: https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent

#: Longer tokens are not Graph's.
MAX_TOKEN_CHARACTERS = 4096


def handshake(
    body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Sequence[str]
) -> tuple[int, str, bytes] | None:
    """The answer to a subscription's validation: its `validationToken` as plain text; None: it is a notification."""
    token = query.get("validationToken")
    if token is None or len(token) > MAX_TOKEN_CHARACTERS or body.strip():
        return None
    return 200, "text/plain", token.encode("utf-8", "replace")


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """True when every notification in the batch carries one of the secrets as `clientState`."""
    items = _items(body)
    return bool(items) and all(_known(item.get("clientState"), secrets) for item in items)


def _known(state: Any, secrets: Sequence[str]) -> bool:
    if not isinstance(state, str):
        return False
    valid = False
    for secret in secrets:
        valid |= hmac.compare_digest(secret.encode(), state.encode("utf-8", "replace")) and bool(secret)
    return valid


def _items(body: bytes) -> list[dict[str, Any]]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    items = document.get("value") if isinstance(document, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return []
    return items


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """One event for each notification; a change of a calendar's event is `calendar.changed`, all else `other`.

    Raises InvalidInput when the body is no batch of notifications.
    """
    items = _items(body)
    if not items:
        raise InvalidInput("not a batch of change notifications", field="body")
    return [_event(item) for item in items]


def _event(item: Mapping[str, Any]) -> VendorEvent:
    data = item.get("resourceData")
    details: Mapping[str, Any] = data if isinstance(data, dict) else {}
    resource = str(item.get("resource", ""))
    change = str(item.get("changeType") or item.get("lifecycleEvent") or "unknown")
    object_id = details.get("id") if isinstance(details.get("id"), str) else resource.rpartition("/")[2]
    etag = str(details.get("@odata.etag", ""))
    about_event = "/events/" in f"/{resource.lower()}" and "changeType" in item
    return VendorEvent(
        source="microsoft_graph",
        event_id=str(item.get("id") or f"{item.get('subscriptionId')}:{change}:{object_id}:{etag}"),
        type="calendar.changed" if about_event else "other",
        vendor_type=change,
        object_id=object_id or None,
        facts={"etag": etag} if etag else {},
    )
