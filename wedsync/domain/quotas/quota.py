"""Limit how many calls an account makes at a vendor: values in, the next quota out. Pure; time is an argument.

Each window but the second has a counter that is never above its limit. Calls within seconds and minutes are spread
(GCRA, as in ITU-T I.371), so that the limit holds however the vendor's own window lies against ours: in any stretch as
long as the window there are at most `limit` calls. Each has its moment, which a process may use a little early. A
vendor's answer may say when its window ends; then ours ends with it. A process acquires blocks; unused calls count as
used after `good_until`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wedsync.domain.value import Value

WindowName = Literal["second", "minute", "hour", "day"]
SECONDS: dict[WindowName, float] = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
ORDER: tuple[WindowName, ...] = ("second", "minute", "hour", "day")
#: Calls within these are spread.
SPREAD: frozenset[WindowName] = frozenset({"second", "minute"})
Priority = Literal[1, 2, 3, 4]
WEDDING_DAY: Priority = 1
ORDINARY: Priority = 3

#: No call begins so shortly before a window ends: it would arrive in the next one.
_MARGIN_PART, _MARGIN_CAP_SECONDS = 0.05, 1.0
#: A moment that is so near is given out already.
HORIZON_SECONDS = 0.5
#: A block is at most so much of what remains, and lasts at most so long.
BLOCK_PART, BLOCK_SECONDS = 0.01, 1.0


class WindowLimit(Value):
    """A vendor's limit within one window."""

    window: WindowName
    limit: Annotated[int, Field(ge=1, le=1_000_000_000)]
    #: Calls that may come at once; None: a hundredth of the limit. The burst reduces the even flow, so it is at most
    #: half of the limit. Hours and days are not spread.
    burst: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None

    @property
    def at_once(self) -> int:
        """Return the burst in effect."""
        if self.burst is not None:
            return min(self.burst, self.most_at_once)
        return max(1, self.limit // 100)

    @property
    def most_at_once(self) -> int:
        """Return the greatest burst: with a greater one hardly a call would be left for the rest of the window."""
        return max(self.limit // 2, 1)

    @property
    def seconds(self) -> float:
        """Return the window's length."""
        return SECONDS[self.window]


class QuotaPolicy(Value):
    """All windows of one account at one vendor."""

    windows: tuple[WindowLimit, ...] = ()
    #: How to get more, for people: text or a URL.
    upgrade: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _each_once(self) -> QuotaPolicy:
        names = [one.window for one in self.windows]
        if len(set(names)) != len(names):
            raise ValueError("a window is limited once")
        return self


class Throttle(Value):
    """An operator's throttle: ordinary calls get this share of each limit, wedding-day and reserved ones all of it."""

    percent: Annotated[int, Field(ge=0, le=99)]
    #: None: until an operator removes it.
    until: datetime | None = None
    reason: Annotated[str, Field(max_length=500)] = ""


class Reservation(Value):
    """Calls kept for one wedding within [starts_at, ends_at)."""

    id: str
    wedding_id: str
    calls: Annotated[int, Field(ge=1, le=1_000_000)]
    starts_at: datetime
    ends_at: datetime
    used: int = 0

    @model_validator(mode="after")
    def _forwards(self) -> Reservation:
        if self.ends_at <= self.starts_at:
            raise ValueError("a reservation ends after it starts")
        return self


class Counter(Value):
    """State of one window."""

    window: WindowName
    started_at: datetime
    ends_at: datetime
    used: int = 0
    #: How much of it each reservation has used, by its id.
    reserved: dict[str, int] = Field(default_factory=dict)
    #: When the calls acquired so far would all have been made at an even pace.
    paced_until: datetime | None = None
    #: The same for only those calls that keep off reservations, and for those that are throttled.
    unreserved_until: datetime | None = None
    throttled_until: datetime | None = None
    #: And for those calls of a wedding's day that go before the others.
    ahead_until: datetime | None = None
    #: When such calls began to come, and the newest.
    favoured_since: datetime | None = None
    favoured_at: datetime | None = None
    #: A limit below the policy's, from the vendor's answers, and how long it is remembered after the window ends.
    limit: int | None = None
    limit_until: datetime | None = None


class Quota(Value):
    """One account's quota: a single row of truth for the whole fleet."""

    service: str
    account: str = "default"
    version: int = 0
    counters: tuple[Counter, ...] = ()
    #: The vendor said so (429 with Retry-After).
    blocked_until: datetime | None = None
    #: When an operator lifted what the vendor had said until then.
    lifted_at: datetime | None = None
    throttle: Throttle | None = None
    reservations: tuple[Reservation, ...] = ()


class Grant(Value):
    """Calls that a process was granted."""

    calls: int
    #: The first call's moment, and the time from it to the next ones and between them.
    not_before: datetime | None = None
    pace_seconds: float = 0.0
    #: Calls that have not begun by then are lost.
    good_until: datetime
    #: When `calls` is 0: the exact moment from which one can be had.
    until: datetime | None = None
    #: Calls left in the tightest window; None: there is no limit.
    left: int | None = None
    #: The window, or else the reason, that refuses: `second` ... `day`, `blocked`, `throttled`.
    why: str = ""


def policy_of(quotas: dict[str, int]) -> QuotaPolicy:
    """Read a manifest's `{"per_second": 10, "burst_per_second": 5}` as a policy; other keys are ignored."""
    found = tuple(
        WindowLimit(window=name, limit=quotas[f"per_{name}"], burst=quotas.get(f"burst_per_{name}"))
        for name in ORDER
        if quotas.get(f"per_{name}")
    )
    return QuotaPolicy(windows=found)


def start_of(at: datetime, seconds: float) -> datetime:
    """Return the clock's own mark before `at`."""
    return datetime.fromtimestamp(math.floor(at.timestamp() / seconds) * seconds, UTC)


def opened(quota: Quota, one: WindowLimit, now: datetime) -> Counter:
    """Return the window that `now` lies in: the one that is open, or a new one on the clock's own marks."""
    known = next((counter for counter in quota.counters if counter.window == one.window), None)
    if known is not None and known.started_at <= now < known.ends_at:
        return known
    if known is not None and now < known.started_at:
        return known
    started_at = start_of(now, one.seconds)
    ends_at = started_at + timedelta(seconds=one.seconds)
    if known is None:
        return Counter(window=one.window, started_at=started_at, ends_at=ends_at)
    changes: dict[str, object] = {
        "started_at": max(started_at, known.ends_at),
        "ends_at": ends_at,
        "used": 0,
        "reserved": {},
    }
    if known.limit_until is None or now >= known.limit_until:
        changes |= {"limit": None, "limit_until": None}
    return known.model_copy(update=changes)


def margin_seconds(window: WindowName) -> float:
    """Return how many seconds before its end a window grants nothing more."""
    return min(SECONDS[window] * _MARGIN_PART, _MARGIN_CAP_SECONDS)


def slack(policy: QuotaPolicy) -> timedelta:
    """Return how late after its moment a call may still begin."""
    shortest = min((one.window for one in policy.windows), key=SECONDS.__getitem__)
    return timedelta(seconds=margin_seconds(shortest) if shortest in SPREAD else BLOCK_SECONDS)


def limit_of(one: WindowLimit, counter: Counter) -> int:
    """Return the limit in effect: the vendor's where it is lower."""
    return one.limit if counter.limit is None else min(one.limit, counter.limit)


def throttled(quota: Quota, now: datetime) -> float:
    """Return the share of each limit that ordinary calls get."""
    throttle = quota.throttle
    if throttle is None or (throttle.until is not None and now >= throttle.until):
        return 1.0
    return throttle.percent / 100
