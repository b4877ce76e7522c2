"""Reads VSCO Workspace's REST hooks: unsigned, so the secret is a token in the URL that we registered.

We subscribe by `POST /rest-hook {event, url}` with `url` = our webhook address plus `?token=SECRET`. VSCO documents the
four events, not the body. Like other REST hooks it is the resource itself, so the resource's own fields show which
event it is. An order that was booked confirms its job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.event import VendorEvent
from wedsync.kit.signatures import tokens

verify = tokens.in_url


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """Read one event from the resource in the body; raises InvalidInput when it is none of the four."""
    try:
        resource = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("not JSON", field="body") from error
    kind = _kind(resource)
    resource_id = resource.get("id") if isinstance(resource, dict) else None
    if kind is None or not isinstance(resource_id, str):
        raise InvalidInput("not a job, order, payment or contact", field="body")
    booked = kind == "order.booked"
    job_id = resource_id if kind == "job.created" else resource.get("jobId")
    modified = resource.get("modified")
    # What was booked, taken back and booked again is another booking. `modified` changes with every other edit, too.
    version = f":{resource['bookedOn']}" if booked else ""
    return [
        VendorEvent(
            source="vsco",
            event_id=f"{kind}:{resource_id}{version}",
            type="booking.confirmed" if booked else "other",
            vendor_type=kind,
            object_id=job_id if isinstance(job_id, str) else resource_id,
            occurred_at=_moment(modified),
            facts={"job_id": job_id, "order_id": resource_id} if booked else {},
        )
    ]


def _kind(resource: Any) -> str | None:
    if not isinstance(resource, dict):
        return None
    if "bookedOn" in resource and "jobId" in resource:
        return "order.booked" if resource["bookedOn"] else None
    if "stage" in resource:
        return "job.created"
    if "kind" in resource:
        return "contact.created"
    return "payment.created" if "amount" in resource else None


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None
