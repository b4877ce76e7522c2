"""Verify Vonage's two schemes: `sig` among the parameters (HMAC), or a JWT in the Authorization header.

https://developer.vonage.com/en/getting-started/concepts/signing-messages (HMAC over `&key=value` in order of the
keys) and https://developer.vonage.com/en/getting-started/concepts/webhooks (HS256 JWT with `payload_hash`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from wedsync.kit.signatures.read import TOLERANCE_SECONDS, header, text_bytes, unbase64

#: Length of the hexadecimal `sig` → method. The default "MD5 hash", which is no HMAC, is not accepted.
_METHODS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def verify(body: bytes, headers: Mapping[str, str], url: str, secrets: Sequence[str], now: datetime) -> bool:
    """Tell whether the message is authentic and fresh by one of the signature secrets.

    A JWT must be HS256, in time, and bind the body by `payload_hash` unless the body is empty.
    """
    scheme, _, token = header(headers, "authorization").partition(" ")
    if scheme.lower() == "bearer":
        return any(_jwt_holds(token.strip(), body, secret, now) for secret in secrets if secret)
    params = read_params(body)
    if params is None:
        return False
    return any(_sig_holds(params, secret, now) for secret in secrets if secret)


def read_params(body: bytes) -> dict[str, Any] | None:
    """Return the parameters of a form or of a flat JSON object; None when they are ambiguous or neither."""
    try:
        text = body.decode()
        if text.lstrip().startswith("{"):
            pairs = json.loads(text, object_pairs_hook=list)
        else:
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except (ValueError, RecursionError):
        return None
    params = dict(pairs)
    return params if len(params) == len(pairs) else None


def _sig_holds(params: Mapping[str, Any], secret: str, now: datetime) -> bool:
    signature, stamp = str(params.get("sig", "")).lower(), str(params.get("timestamp", ""))
    method = _METHODS.get(len(signature))
    if method is None or not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    if abs(now.timestamp() - int(stamp)) > TOLERANCE_SECONDS:
        return False
    signed = "".join(
        f"&{key}={str(value).replace('&', '_').replace('=', '_')}"
        for key, value in sorted(params.items())
        if key != "sig"
    )
    expected = hmac.new(text_bytes(secret), signed.encode("utf-8", "replace"), method).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def _jwt_holds(token: str, body: bytes, secret: str, now: datetime) -> bool:
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        return False
    try:
        header, claims = json.loads(_base64url(parts[0])), json.loads(_base64url(parts[1]))
        received = _base64url(parts[2])
    except (ValueError, RecursionError):
        return False
    if not isinstance(header, dict) or not isinstance(claims, dict) or header.get("alg") != "HS256" or "crit" in header:
        return False
    expected = hmac.digest(text_bytes(secret), f"{parts[0]}.{parts[1]}".encode(), "sha256")
    return hmac.compare_digest(expected, received) and _claims_hold(claims, body, now.timestamp())


def _claims_hold(claims: Mapping[str, Any], body: bytes, now: float) -> bool:
    issued, expires, not_before = (claims.get(name) for name in ("iat", "exp", "nbf"))
    if not isinstance(issued, int | float) or issued > now + TOLERANCE_SECONDS:
        return False
    if expires is None:
        if now - issued > TOLERANCE_SECONDS:
            return False
    elif not isinstance(expires, int | float) or now >= expires:
        return False
    if not_before is not None and (not isinstance(not_before, int | float) or not_before > now + TOLERANCE_SECONDS):
        return False
    bound = claims.get("payload_hash")
    if bound is None:
        return body.strip() in (b"", b"{}")
    return hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), str(bound).lower().encode("utf-8", "replace"))


def _base64url(text: str) -> bytes:
    return unbase64(text + "=" * (-len(text) % 4), b"-_")
