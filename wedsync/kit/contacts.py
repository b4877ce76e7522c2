"""Digest guests' phones and addresses: enough to find a wedding by them, not to read them."""

from __future__ import annotations

import hashlib
import hmac
import re

import phonenumbers

_DOMAIN = b"wedsync-contact-v1\x00"
_DIGITS = re.compile(r"[0-9]{7,15}")


def contact_digest(text: str, pepper: str) -> bytes | None:
    """Return the HMAC-SHA256 (32 bytes) of a phone in E.164 or of an address in lower case; None: it is neither.

    A phone without its `+` is read as one with its country code, as vendors write it.
    """
    known = _normal(text)
    return None if known is None else hmac.digest(pepper.encode(), _DOMAIN + known.encode(), hashlib.sha256)


def _normal(text: str) -> str | None:
    contact = text.strip()
    if "@" in contact:
        local, _, domain = contact.rpartition("@")
        return f"email:{local.casefold()}@{domain.casefold()}" if local and domain else None
    # WhatsApp's addresses at Twilio: `whatsapp:+390318125551`.
    contact = contact.rpartition(":")[2]
    try:
        number = phonenumbers.parse(f"+{contact}" if _DIGITS.fullmatch(contact) else contact, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return f"phone:{phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)}"
