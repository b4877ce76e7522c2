"""SendGrid's event webhook: batches of events, signed with ECDSA over time and exact bytes.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent

#: SendGrid tries for a day; what is played back within it is told by its event ids.
_MAX_AGE_SECONDS = 24 * 3600
_MAX_AHEAD_SECONDS = 300
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
#: A secret that begins so is no verification key of SendGrid's but the seed of the local stand-in's key pair.
_SEED_PREFIX = "whsec_"
#: `{X-Message-Id}.filter...` or `{X-Message-Id}.recvd-...`
_MESSAGE_ID_TAIL = re.compile(r"\.(?:filter|recvd)")
_TYPES = {
    "delivered": "message.delivered",
    "bounce": "message.failed",
    "dropped": "message.failed",
    "spamreport": "message.failed",
}


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """True when the signature over timestamp and body is right under one of the keys, and no older than a day."""
    lowered = {name.lower(): value for name, value in headers.items()}
    stamp = lowered.get("x-twilio-email-event-webhook-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    if not -_MAX_AHEAD_SECONDS <= now.timestamp() - int(stamp) <= _MAX_AGE_SECONDS:
        return False
    signature = _decoded(lowered.get("x-twilio-email-event-webhook-signature", ""))
    return any(_signed(stamp.encode() + body, signature, key) for key in map(_public_key, secrets) if key is not None)


def _signed(message: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _public_key(secret: str) -> ec.EllipticCurvePublicKey | None:
    if secret.startswith(_SEED_PREFIX):
        digest = hashlib.sha512(b"sendgrid stand-in:" + secret.encode("utf-8", "replace")).digest()
        number = int.from_bytes(digest, "big") % (_CURVE_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1()).public_key()
    try:
        key = load_der_public_key(_decoded(secret))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return b""


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")
    event: str
    sg_event_id: str = ""
    sg_message_id: str = ""
    timestamp: int | None = None
    wedding: str | None = None
    step: str | None = None


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """The events of a batch, in its order; raises InvalidInput."""
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
    )
