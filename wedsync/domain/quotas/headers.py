"""Read what a vendor's answer says of its limits, and correct our quota by it.

It reads `X-RateLimit-Limit`, `-Remaining` and `-Reset` (SendGrid, VSCO and many more), `ratelimit-*` (Resend), and the
IETF's `RateLimit` with `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from wedsync.domain.quotas.quota import (
    ORDER,
    SECONDS,
    Counter,
    Quota,
    QuotaPolicy,
    WindowLimit,
    WindowName,
    limit_of,
    opened,
)
from wedsync.domain.value import Value

#: The vendor may count calls that are not ours: only a difference above this share of the limit matters.
_SLACK = 0.05
#: A limit that an answer named is remembered for at least so long: a window may be no longer than a second.
_REMEMBERED = timedelta(minutes=1)
#: Nobody's window is longer; later moments are not believed.
_FARTHEST_SECONDS = 366 * 86_400
#: A number of seconds since 1970 rather than from now.
_EPOCH_FROM = 1_000_000_000
_ITEM = re.compile(r'"?(?P<name>[\w-]*)"?\s*(?P<rest>(?:;\s*\w+=[^;,]+)*)')


class ParsedLimit(Value):
    """One window as the vendor describes it."""

    limit: int | None = None
    remaining: int | None = None
    resets_at: datetime | None = None
    #: The window's length in seconds, if given.
    seconds: float | None = None


def read(headers: Mapping[str, str], now: datetime) -> ParsedLimit | None:
    """Parse the headers; None when they say nothing. `headers` are looked up in lower case."""
    found = _draft(headers, now)
    if found is not None:
        return found
    for prefix in ("x-ratelimit-", "ratelimit-", "x-rate-limit-"):
        limit, remaining = _number(headers.get(f"{prefix}limit")), _number(headers.get(f"{prefix}remaining"))
        if limit is None and remaining is None:
            continue
        return ParsedLimit(limit=limit, remaining=remaining, resets_at=_moment(headers.get(f"{prefix}reset"), now))
    return None


def _draft(headers: Mapping[str, str], now: datetime) -> ParsedLimit | None:
    """Parse `RateLimit: "default";r=50;t=30` with `RateLimit-Policy: "default";q=100;w=60`."""
    state, policy = _parameters(headers.get("ratelimit", "")), _parameters(headers.get("ratelimit-policy", ""))
    if "r" not in state:
        return None
    resets_at = _ahead(state["t"], now) if "t" in state else None
    limit, seconds = policy.get("q"), policy.get("w")
    return ParsedLimit(
        limit=int(limit) if limit is not None else None,
        remaining=int(state["r"]),
        resets_at=resets_at,
        seconds=seconds,
    )


def _parameters(text: str) -> dict[str, float]:
    """Return the numbers of the first item of a structured field."""
    found = _ITEM.match(text.split(",")[0].strip())
    numbers: dict[str, float] = {}
    for part in (found.group("rest") if found else "").split(";"):
        name, _, value = part.strip().partition("=")
        number = _number(value)
        if name and number is not None:
            numbers[name] = float(number)
    return numbers


def _number(text: str | None) -> int | None:
    """Return the first number of the text: 100 of `100, 100;w=60`."""
    found = re.match(r"\s*(\d{1,12})", text or "")
    return int(found.group(1)) if found else None


def _moment(text: str | None, now: datetime) -> datetime | None:
    number = _number(text)
    if number is None:
        return None
    return _ahead(number - now.timestamp() if number >= _EPOCH_FROM else number, now)


def _ahead(seconds: float, now: datetime) -> datetime | None:
    return now + timedelta(seconds=seconds) if abs(seconds) <= _FARTHEST_SECONDS else None


def window_of(parsed: ParsedLimit, policy: QuotaPolicy, now: datetime) -> WindowName | None:
    """Tell which of our windows is meant: by its length, else by its limit, else the shortest that the reset fits in.

    None when that window has no limit here: what a minute allows says nothing of a day.
    """
    names = {one.window: one for one in policy.windows}
    if parsed.seconds is not None:
        return next((name for name in ORDER if name in names and SECONDS[name] == parsed.seconds), None)
    if parsed.limit is not None:
        by_limit = [name for name in ORDER if name in names and names[name].limit == parsed.limit]
        if len(by_limit) == 1:
            return by_limit[0]
    if parsed.resets_at is None:
        return None
    ahead = (parsed.resets_at - now).total_seconds()
    fits = next((name for name in ORDER if 0 <= ahead <= SECONDS[name] + 1), None)
    return fits if fits in names else None


def corrected(quota: Quota, policy: QuotaPolicy, parsed: ParsedLimit, now: datetime) -> Quota:
    """Correct the quota by the vendor's newest answer: fewer calls left, another limit, a later end.

    Never raises a limit above the configured one: an answer may be about something else. Unchanged without news.
    """
    name = window_of(parsed, policy, now)
    one = next((one for one in policy.windows if one.window == name), None)
    if one is None:
        return quota
    counter = opened(quota, one, now)
    changed = _left(_limited(counter, one, parsed, now), one, parsed, now)
    if changed == counter:
        return quota
    others = tuple(c for c in quota.counters if c.window != one.window)
    return quota.model_copy(update={"counters": (*others, changed)})


def _limited(counter: Counter, one: WindowLimit, parsed: ParsedLimit, now: datetime) -> Counter:
    """Set the limit that the vendor named last, up to the policy's own."""
    if parsed.limit is None:
        return counter
    if parsed.limit >= one.limit:
        return counter.model_copy(update={"limit": None, "limit_until": None})
    until = max(counter.ends_at, now + _REMEMBERED)
    is_known = counter.limit == parsed.limit and counter.limit_until is not None
    if is_known and counter.limit_until is not None and until - counter.limit_until < _REMEMBERED / 2:
        # Not written anew with every answer.
        return counter
    return counter.model_copy(update={"limit": parsed.limit, "limit_until": until})


def _left(counter: Counter, one: WindowLimit, parsed: ParsedLimit, now: datetime) -> Counter:
    """Leave no more calls than the vendor named."""
    limit = limit_of(one, counter)
    slack = max(1, int(limit * _SLACK))
    if parsed.remaining is None or parsed.remaining >= limit - counter.used - slack:
        return counter
    changes: dict[str, object] = {"used": limit - parsed.remaining}
    longest = now + timedelta(seconds=SECONDS[counter.window])
    if parsed.resets_at is not None and counter.ends_at < parsed.resets_at <= longest + timedelta(seconds=1):
        changes["ends_at"] = parsed.resets_at
    return counter.model_copy(update=changes)


def forgotten(quota: Quota) -> Quota:
    """Forget the limits that the vendor's answers named: an operator has set others since."""
    counters = tuple(one.model_copy(update={"limit": None, "limit_until": None}) for one in quota.counters)
    return quota.model_copy(update={"counters": counters})


def blocked(quota: Quota, until: datetime, reported_at: datetime) -> Quota:
    """Block as the vendor says; an earlier end replaces no later one; what was said before a lifting is ignored."""
    is_lifted = quota.lifted_at is not None and reported_at <= quota.lifted_at
    if is_lifted or (quota.blocked_until is not None and quota.blocked_until >= until):
        return quota
    return quota.model_copy(update={"blocked_until": until})


def lifted(quota: Quota, now: datetime) -> Quota:
    """Lift the vendor's block, which an operator knows to be over; what the vendor says from `now` on counts again."""
    return quota.model_copy(update={"blocked_until": None, "lifted_at": now})
