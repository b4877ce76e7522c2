"""Read hostile headers without raising, and compare in constant time: what the schemes share."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime

#: Older or newer than this (seconds, inclusive) is a replay or a wrong clock, unless a scheme says otherwise.
TOLERANCE_SECONDS = 300


def header(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header by its name in any case; empty when it is not there."""
    wanted = name.lower()
    return next((value for key, value in headers.items() if key.lower() == wanted), "")


def unix_seconds(text: str) -> int | None:
    """Read a unix time in plain digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def is_fresh(stamp: int | None, now: datetime, tolerance_seconds: float = TOLERANCE_SECONDS) -> bool:
    """Tell whether `stamp` is within the tolerance of `now`, on either side."""
    return stamp is not None and abs(now.timestamp() - stamp) <= tolerance_seconds


def text_bytes(text: str) -> bytes:
    """Return `text` in UTF-8, lone surrogates replaced."""
    return text.encode("utf-8", "replace")


def unbase64(text: str, altchars: bytes | None = None) -> bytes:
    """Return the bytes of base64 in its one canonical spelling; empty for anything else."""
    try:
        received = text.encode("ascii")
        raw = base64.b64decode(received, altchars=altchars, validate=True)
    except ValueError:
        return b""
    # The last character may hold unused bits: only zeros are accepted, so that a changed one is refused.
    return raw if hmac.compare_digest(base64.b64encode(raw, altchars), received) else b""


def any_equal(expected: Iterable[bytes], received: Iterable[bytes]) -> bool:
    """Tell whether any pair is equal; every pair is compared, so that the time reveals nothing of which."""
    offered = list(received)
    valid = False
    for one in expected:
        for other in offered:
            valid |= hmac.compare_digest(one, other)
    return valid
