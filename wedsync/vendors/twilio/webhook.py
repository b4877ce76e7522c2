"""Twilio's status callbacks: HMAC-SHA1 over the address and the parameters.

https://www.twilio.com/docs/usage/webhooks/webhooks-security. The scheme holds no time: a message played back is
told by its event id (message and status), which the signature covers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qs, parse_qsl, urlsplit

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import VendorEvent

_MAX_FIELDS = 1000
_TYPES = {
    "delivered": "message.delivered",
    "read": "message.delivered",
    "failed": "message.failed",
    "undelivered": "message.failed",
    "canceled": "message.failed",
}


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """True when `X-Twilio-Signature` signs the address as it was called and the form (or the JSON body's hash)."""
    signature = _header(headers, "x-twilio-signature").encode("utf-8", "replace")
    try:
        suffix = _signed_suffix(body, _header(headers, "content-type"), url)
        addresses = tuple(_spellings(url))
    except ValueError:
        return False
    if suffix is None or not signature:
        return False
    valid = False
    for secret in filter(None, secrets):
        for address in addresses:
            text = (address + suffix).encode("utf-8", "replace")
            expected = base64.b64encode(hmac.digest(secret.encode("utf-8", "replace"), text, "sha1"))
            valid |= hmac.compare_digest(expected, signature)
    return valid


def _signed_suffix(body: bytes, content_type: str, url: str) -> str | None:
    """What follows the address in the signed text; None when a body is bound by nothing."""
    if not body:
        return ""
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        fields = set(_fields(body))
        return "".join(name + value for name, value in sorted(fields))
    declared = parse_qs(urlsplit(url).query).get("bodySHA256", [""])[0].lower()
    actual = hashlib.sha256(body).hexdigest()
    return "" if hmac.compare_digest(declared.encode("utf-8", "replace"), actual.encode()) else None


def _fields(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)


def _spellings(url: str) -> Iterator[str]:
    """The address as given, without its port, and with the scheme's own port: Twilio's products differ."""
    yield url
    parts = urlsplit(url)
    host = parts.netloc
    if parts.port is not None:
        yield parts._replace(netloc=host.rpartition(":")[0]).geturl()
    else:
        yield parts._replace(netloc=f"{host}:{443 if parts.scheme == 'https' else 80}").geturl()


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def parse(body: bytes, headers: Mapping[str, str]) -> list[VendorEvent]:
    """One status of one message; raises InvalidInput."""
    try:
        fields = dict(_fields(body))
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
        )
    ]
