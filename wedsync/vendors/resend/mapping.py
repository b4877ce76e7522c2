"""Translates between our email and Resend's JSON. Pure."""

from __future__ import annotations

import re
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import NotAuthorized, OutcomeUnknown, VendorError, VendorRejected
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import address_of, email_of

#: Resend's own test sender (https://resend.com/docs/dashboard/emails/send-test-emails).
TEST_SENDER = "Wedsync <onboarding@resend.dev>"
#: Tags take no other characters.
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_WORD = re.compile(r"[a-z0-9_]{1,64}")
_LOST = frozenset(("bounced", "canceled", "complained", "failed", "suppressed"))
_QUOTAS = frozenset(("daily_quota_exceeded", "monthly_quota_exceeded"))


def email_body(call: Call, sender: str) -> dict[str, JsonValue]:
    """Build the body of POST /emails; raises InvalidInput."""
    email = email_of(call)
    tags: list[JsonValue] = [
        {"name": name, "value": value}
        for name, value in (("wedding", call.wedding_id), ("step", call.step_id))
        if _TAG.fullmatch(value)
    ]
    return {
        "from": sender if "@" in sender else TEST_SENDER,
        "to": [address_of(email.to)],
        "subject": email.subject,
        "text": email.text,
        "tags": tags,
    }


def inspected(body: Any, email_id: str) -> Effect:
    """Turn an email's last event into an effect; raises VendorRejected when the email is lost."""
    last = body.get("last_event") if isinstance(body, dict) else None
    word = last if isinstance(last, str) and _WORD.fullmatch(last) else "of an unknown state"
    if word in _LOST:
        raise VendorRejected(f"resend: email {email_id} {word}", vendor="resend", reason=word)
    return Effect(state="done", external_id=email_id, facts={"message_id": email_id}, detail=f"email {email_id} {word}")


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{statusCode, name, message}`; the message may name a guest and is left out."""
    name = body.get("name") if isinstance(body, dict) else None
    if isinstance(name, str) and _WORD.fullmatch(name):
        return name, f"refused with {name}"
    return f"http_{status}", f"answered {status}"


def reread(error: VendorError) -> VendorError:
    """Return the error that `error` really is: Resend gives some statuses a meaning of its own.

    https://resend.com/docs/api-reference/errors
    """
    kind: type[VendorError] | None = None
    if error.reason == "invalid_api_key":
        kind = NotAuthorized
    elif error.reason == "concurrent_idempotent_requests":
        # An earlier attempt under this key is still at work: what comes of it is not known yet.
        kind = OutcomeUnknown
    elif error.reason in _QUOTAS:
        # A wait of a day or a month is no throttling; another vendor can send today. The email itself stays unknown:
        # an earlier attempt without an answer may have been within the quota.
        kind = NotAuthorized
    if kind is None:
        return error
    return kind(error.detail, vendor=error.vendor, reason=error.reason, status=error.status)
