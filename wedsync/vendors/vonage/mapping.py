"""Translates between our text message and Vonage's form and numeric statuses. Pure.

Sources: https://developer.vonage.com/en/api/sms and https://developer.vonage.com/api-errors/sms
"""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
)
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.http_outcome import DEFAULT_RETRY_AFTER_SECONDS
from wedsync.domain.vendors.read_inputs import sms_of

#: GSM 03.38 with its extension table: other characters need UCS-2 (`type=unicode`).
GSM_CHARACTERS = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà^{}\\[~]|€\f"
)
#: Longest client reference (`client-ref`).
CLIENT_REF_LENGTH = 100
_REASONS = {
    "1": "throttled", "2": "missing_parameters", "3": "invalid_parameters", "4": "invalid_credentials",
    "5": "internal_error", "6": "invalid_message", "7": "number_barred", "8": "account_barred",
    "9": "quota_exceeded", "10": "too_many_binds", "11": "not_http_enabled", "12": "message_too_long",
    "14": "invalid_signature", "15": "invalid_sender", "22": "invalid_network_code", "23": "invalid_callback",
    "29": "not_whitelisted", "32": "signature_and_secret", "33": "number_deactivated",
}  # fmt: skip


def form(call: Call, *, api_key: str, api_secret: str, sender: str, callback: str) -> list[tuple[str, str]]:
    """Build the form of `POST /sms/json`; raises InvalidInput for a recipient without a usable number."""
    sms = sms_of(call)
    digits = (sms.to.phone or "").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and 7 <= len(digits) <= 15):
        raise InvalidInput("the recipient has no phone number in E.164", field="to.phone")
    fields = [
        ("api_key", api_key),
        ("api_secret", api_secret),
        ("from", sender),
        ("to", digits),
        ("text", sms.text),
        ("type", "text" if GSM_CHARACTERS.issuperset(sms.text) else "unicode"),
        ("client-ref", call.reference[:CLIENT_REF_LENGTH]),
    ]
    if callback:
        fields.append(("callback", callback))
    return fields


def effect(body: Any) -> Effect:
    """Return the sent message with all its parts; raises the error that a status means (HTTP always says 200)."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise OutcomeUnknown("vonage answered without messages", vendor="vonage")
    failed = [str(one.get("status")) for one in messages if str(one.get("status")) != "0"]
    if failed and len(failed) < len(messages):
        raise OutcomeUnknown("vonage sent only a part of the message", vendor="vonage", reason="partly_sent")
    if failed:
        raise error_of(failed[0])
    ids: list[JsonValue] = [str(one["message-id"]) for one in messages if one.get("message-id")]
    if not ids:
        raise OutcomeUnknown("vonage answered without a message id", vendor="vonage")
    first = str(ids[0])
    facts: dict[str, JsonValue] = {"message_id": first, "message_ids": ids}
    return Effect(state="done", external_id=first, facts=facts, detail=f"message {first}, {len(messages)} parts")


def error_of(status: str) -> VendorError:
    """Return the error that a message's status means; its text may repeat what was sent and is left out.

    Status 5 (internal error) is as a 500: the message may have been sent.
    """
    reason = _REASONS.get(status, f"status_{status}")
    detail = f"vonage: {reason.replace('_', ' ')}"
    if status in ("1", "10"):
        return VendorThrottled(detail, vendor="vonage", reason=reason, retry_after_seconds=DEFAULT_RETRY_AFTER_SECONDS)
    if status in ("4", "8", "14"):
        return NotAuthorized(detail, vendor="vonage", reason=reason)
    if status == "5":
        return OutcomeUnknown(detail, vendor="vonage", reason=reason)
    return VendorRejected(detail, vendor="vonage", reason=reason)
