"""Translates between our email and SendGrid's mail/send. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parseaddr
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, NotAuthorized
from wedsync.domain.vendors import read_inputs
from wedsync.domain.vendors.action_inputs import Email
from wedsync.domain.vendors.call import Call, Effect

_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+")
_FIELD = re.compile(r"[A-Za-z0-9_.]{1,64}")
_MAX_WAIT_SECONDS = 24 * 3600.0


def email_of(call: Call) -> Email:
    """Read the email that the call is about; raises InvalidInput, also where SendGrid takes no empty text."""
    email = read_inputs.email_of(call)
    if not email.text:
        raise InvalidInput("the text is empty", field="inputs.text")
    return email


def sender_of(text: str) -> dict[str, JsonValue]:
    """Read `Villa Aurora <weddings@villa.example>` or the bare address; raises NotAuthorized when there is none."""
    name, address = parseaddr(text)
    if not _ADDRESS.fullmatch(address):
        raise NotAuthorized("sendgrid: the account has no sender", vendor="sendgrid", reason="missing_sender")
    return {"email": address, "name": name} if name else {"email": address}


def mail_body(call: Call, sender: str) -> dict[str, JsonValue]:
    """Build the body of POST /v3/mail/send; raises InvalidInput, NotAuthorized."""
    email = email_of(call)
    # Custom arguments come back with every event. They hold ids only: SendGrid keeps them for good.
    arguments: JsonValue = {"wedding": call.wedding_id, "step": call.step_id, "wedsync_reference": call.reference}
    return {
        "personalizations": [{"to": [{"email": read_inputs.address_of(email.to)}], "custom_args": arguments}],
        "from": sender_of(sender),
        "subject": email.subject,
        "content": [{"type": "text/plain", "value": email.text}],
    }


def accepted(message_id: str) -> Effect:
    """Return the effect of an email that SendGrid took."""
    if not message_id:
        return Effect(state="done", detail="email accepted")
    facts: dict[str, JsonValue] = {"message_id": message_id}
    return Effect(state="done", external_id=message_id, facts=facts, detail=f"email {message_id} accepted")


def wait_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return seconds until `X-RateLimit-Reset` (unix time), at most a day; None without it or beside `Retry-After`."""
    lowered = {name.lower(): value for name, value in headers.items()}
    reset = lowered.get("x-ratelimit-reset", "")
    if "retry-after" in lowered or not (reset.isascii() and reset.isdigit()):
        return None
    return min(max(int(reset) - now.timestamp(), 0.0), _MAX_WAIT_SECONDS)


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{errors: [{message, field, help}]}`; it has no codes, the message may name a guest."""
    errors = body.get("errors") if isinstance(body, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    field = first.get("field") if isinstance(first, dict) else None
    if isinstance(field, str) and _FIELD.fullmatch(field):
        return f"invalid:{field}", f"refused {field}"
    return f"http_{status}", f"answered {status}"
