"""Verify Twilio's HMAC-SHA1 over the address and the parameters; the scheme holds no time.

https://www.twilio.com/docs/usage/webhooks/webhooks-security
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qs, parse_qsl, urlsplit

from wedsync.kit.signatures.read import any_equal, header, text_bytes

_MAX_FIELDS = 1000


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether `X-Twilio-Signature` signs the called address and the form (or the JSON body's hash)."""
    signature = text_bytes(header(headers, "x-twilio-signature"))
    try:
        suffix = _signed_suffix(body, header(headers, "content-type"), url)
        addresses = tuple(_spellings(url))
    except ValueError:
        return False
    if suffix is None or not signature:
        return False
    expected = (
        base64.b64encode(hmac.digest(text_bytes(secret), text_bytes(address + suffix), "sha1"))
        for secret in filter(None, secrets)
        for address in addresses
    )
    return any_equal(expected, [signature])


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """Return the parameters of a form; raises ValueError."""
    return parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)


def _signed_suffix(body: bytes, content_type: str, url: str) -> str | None:
    """Return what follows the address in the signed text; None when nothing binds the body."""
    if not body:
        return ""
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        return "".join(name + value for name, value in sorted(set(form_fields(body))))
    declared = parse_qs(urlsplit(url).query).get("bodySHA256", [""])[0].lower()
    actual = hashlib.sha256(body).hexdigest()
    return "" if hmac.compare_digest(text_bytes(declared), actual.encode()) else None


def _spellings(url: str) -> Iterator[str]:
    """Return the address as given, without its port, and with the scheme's port: Twilio's products differ."""
    yield url
    parts = urlsplit(url)
    host = parts.netloc
    if parts.port is not None:
        yield parts._replace(netloc=host.rpartition(":")[0]).geturl()
    else:
        yield parts._replace(netloc=f"{host}:{443 if parts.scheme == 'https' else 80}").geturl()
