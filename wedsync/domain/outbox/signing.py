"""Make the bytes of a delivery and its signatures. Pure.

Standard Webhooks 1.0.0 (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md):
`webhook-signature` holds one `v1,{base64}` per active secret, HMAC-SHA256 over `{id}.{timestamp}.{body}` with the
secret's decoded bytes. `X-WedSync-Signature: t={timestamp},v1={hex},...` is HMAC-SHA256 over `{timestamp}.{body}` with
the secret's text.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from wedsync.domain.value import Value

USER_AGENT = "WedSync-Webhooks/1.0"
SECRET_PREFIX = "whsec_"  # noqa: S105
Payload = Literal["thin", "full"]


class Event(Value):
    """An event as it was recorded."""

    id: str
    type: str
    data: dict[str, Any]
    occurred_at: datetime
    organization_id: str
    wedding_id: str | None
    sequence: int | None


def body_of(event: Event, payload: Payload, api_version: str) -> bytes:
    """Return the JSON to send, the same bytes each time; `thin` leaves only `id` of `data`."""
    content = {
        "id": event.id,
        "type": event.type,
        "data": event.data if payload == "full" else {"id": event.data["id"]},
        "timestamp": event.occurred_at.isoformat().replace("+00:00", "Z"),
        "organization_id": event.organization_id,
        "wedding_id": event.wedding_id,
        "sequence": event.sequence,
        "api_version": api_version,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=False).encode()


def headers_of(event_id: str, delivery_id: str, body: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """Return a delivery's headers; each of `secrets` (`whsec_` and base64) signs, so that a rotation overlaps."""
    seconds = str(int(now.timestamp()))
    standard = " ".join(f"v1,{_standard(secret, event_id, seconds, body)}" for secret in secrets)
    ours = ",".join([f"t={seconds}", *(f"v1={_ours(secret, seconds, body)}" for secret in secrets)])
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": seconds,
        "webhook-signature": standard,
        "X-WedSync-Signature": ours,
        "X-WedSync-Delivery": delivery_id,
    }


def _standard(secret: str, event_id: str, seconds: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.digest(key, f"{event_id}.{seconds}.".encode() + body, "sha256")).decode()


def _ours(secret: str, seconds: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), f"{seconds}.".encode() + body, "sha256").hex()
