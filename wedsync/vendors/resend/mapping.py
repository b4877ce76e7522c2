"""Translates between our email and Resend's JSON. Pure."""

from __future__ import annotations

import re
from typing import Any

from pydantic import JsonValue, ValidationError

from wedsync.domain.errors import InvalidInput, NotAuthorized, OutcomeUnknown, VendorError, VendorRejected
from wedsync.domain.vendors.action_inputs import Email, Person
from wedsync.domain.vendors.call import Call, Effect

#: Resend's own test sender (https://resend.com/docs/dashboard/emails/send-test-emails).
TEST_SENDER = "Wedsync <onboarding@resend.dev>"
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Tags take no other characters.
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_WORD = re.compile(r"[a-z0-9_]{1,64}")
_LOST = frozenset(("bounced", "canceled", "complained", "failed", "suppressed"))
_QUOTAS = frozenset(("daily_quota_exceeded", "monthly_quota_exceeded"))


def email_of(call: Call) -> Email:
    """Read the email that the call is about; raises InvalidInput."""
    try:
        return Email.model_validate(call.inputs)
    except ValidationError as error:
        raise InvalidInput("the inputs are not those of an email", field="inputs") from error


def address_of(person: Person) -> str:
    """Return the person's address; raises InvalidInput when there is none or it can't be one."""
    address = person.email or ""
    if not _ADDRESS.fullmatch(address) or len(address) > 320:
        raise InvalidInput("the contact has no email address", field="inputs.to.email")
    return address


def email_body(call: Call, sender: str) -> dict[str, JsonValue]:
    """Build the body of POST /emails; raises InvalidInput."""
    email = email_of(call)
    if not email.subject.strip() or _CONTROL.search(email.subject):
        raise InvalidInput("the subject is empty or has control characters", field="inputs.subject")
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


def email_id_in(body: Any) -> str:
    """Return the new email's id; raises OutcomeUnknown when there is none (Resend did act)."""
    email_id = body.get("id") if isinstance(body, dict) else None
    if not isinstance(email_id, str) or not email_id:
        raise OutcomeUnknown("resend answered without the email's id", vendor="resend")
    return email_id


def known_email_id(call: Call) -> str:
    """Return the email's id from the call's facts; raises InvalidInput."""
    email_id = call.facts.get("message_id")
    if not isinstance(email_id, str) or not email_id:
        raise InvalidInput("the email's id is not known", field="facts.message_id")
    return email_id


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
