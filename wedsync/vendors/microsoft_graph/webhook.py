"""Reads Graph's change notifications: known by the `clientState` that we gave the subscription.

Source: https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.signatures import handshakes, tokens

verify = tokens.graph_client_state
handshake = handshakes.graph


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one event for each notification; a change of a calendar's event is `calendar.changed`, all else `other`.

    Raises InvalidInput when the body is no batch of notifications.
    """
    items = tokens.graph_items(body)
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
    # Without an etag whatever else the notifications say distinguishes two changes of one object.
    version = etag or hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()
    about_event = "/events/" in f"/{resource.lower()}" and "changeType" in item
    return VendorEvent(
        source="microsoft_graph",
        event_id=str(item.get("id") or f"{item.get('subscriptionId')}:{change}:{object_id}:{version}"),
        type="calendar.changed" if about_event else "other",
        vendor_type=change,
        object_id=object_id or None,
        facts={"etag": etag} if etag else {},
    )
