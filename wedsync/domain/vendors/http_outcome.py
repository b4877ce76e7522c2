"""Read what an HTTP answer, or its absence, says about the effect of a call. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Verdict = Literal["ok", "rejected", "not_authorized", "throttled", "unavailable", "unknown"]

#: Used when a vendor throttles without saying for how long.
DEFAULT_RETRY_AFTER_SECONDS = 1.0
#: Not modified, and redirects after which the request is to be made anew (RFC 9110 15.4).
_NOT_DONE = (304, 307, 308)
#: A longer Retry-After is not believed.
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0


def verdict(status: int, *, write: bool, unavailable_means_not_processed: bool = True) -> Verdict:
    """Read a status code (RFC 9110, RFC 6585).

    After a write a 5xx other than 503 leaves the effect unknown, and so does a redirect: "see there" is what many
    answer when it is done. Only 304, 307 and 308 say that it was not.
    """
    if 200 <= status < 300:
        return "ok"
    if status == 401:
        return "not_authorized"
    if status == 429:
        return "throttled"
    if status in (408, 425):
        return "unknown" if write else "unavailable"
    if 400 <= status < 500:
        return "rejected"
    if status == 503 and unavailable_means_not_processed:
        return "unavailable"
    if status >= 500:
        return "unknown" if write else "unavailable"
    return "rejected" if status in _NOT_DONE or not write else "unknown"


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float:
    """Return the seconds to wait by `Retry-After` (delta or HTTP date, RFC 9110 10.2.3), within [0, one day]."""
    raw = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if not raw:
        return DEFAULT_RETRY_AFTER_SECONDS
    try:
        seconds = float(raw)
    except ValueError:
        try:
            moment = parsedate_to_datetime(raw)
        except (ValueError, OverflowError, TypeError):
            return DEFAULT_RETRY_AFTER_SECONDS
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    if seconds != seconds:
        return DEFAULT_RETRY_AFTER_SECONDS
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
