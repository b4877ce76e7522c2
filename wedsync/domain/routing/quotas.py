"""How many calls a vendor lets an account make: values in, the next quota out. Pure; time is an argument.

Each window but the second has a counter that is never above its limit. Calls within seconds and minutes are spread
(GCRA, as in ITU-T I.371), so that the limit holds however the vendor's own window lies against ours: in any stretch as
long as the window there are at most `limit` calls. Each has its moment, which a process may take a little ahead. A
vendor's answer may say when its window ends; then ours ends with it. A process takes blocks; what it does not use by
`good_until` counts as used.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wedsync.domain.routing.vendor import Value

WindowName = Literal["second", "minute", "hour", "day"]
SECONDS: dict[WindowName, float] = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
ORDER: tuple[WindowName, ...] = ("second", "minute", "hour", "day")
#: Calls within these are spread.
SPREAD: frozenset[WindowName] = frozenset({"second", "minute"})
Priority = Literal[1, 2, 3, 4]
WEDDING_DAY: Priority = 1
ORDINARY: Priority = 3

#: No call is begun so shortly before a window ends: it would arrive in the next one.
_GUARD_PART, _GUARD_CAP_SECONDS = 0.05, 1.0
#: The share of each window that a priority leaves to those before it, until this part of the window has passed.
_LEFT_TO_OTHERS: dict[int, float] = {1: 0.0, 2: 0.03, 3: 0.08, 4: 0.25}
_LEFT_UNTIL_PART = 0.8
#: So much of a second's limit is for calls of a wedding's day that don't stand in line: little until such calls come,
#: then more, once the moments that were given out before have passed.
_IDLE_AHEAD_PART, _AHEAD_PART = 0.02, 0.2
_REMEMBERED, _ROOM_AFTER = timedelta(minutes=1), timedelta(seconds=2)
_LONG_AFTER = datetime.max.replace(tzinfo=UTC)
#: A moment that is so near is given out already.
HORIZON_SECONDS = 0.5
#: A block is at most so much of what remains, and lasts at most so long.
BLOCK_PART, BLOCK_SECONDS = 0.01, 1.0
#: After what part of its window a short reservation's idle share is lent to others.
_LENT_AFTER_PART = 0.5


class WindowLimit(Value):
    """What a vendor allows within one window."""

    window: WindowName
    limit: Annotated[int, Field(ge=1, le=1_000_000_000)]
    #: Calls that may come at once; None: a hundredth of the limit. Hours and days are not spread.
    burst: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None

    @property
    def at_once(self) -> int:
        """The burst that holds."""
        if self.burst is not None:
            return min(self.burst, self.limit)
        return max(1, self.limit // 100)

    @property
    def seconds(self) -> float:
        """The window's length."""
        return SECONDS[self.window]


class QuotaPolicy(Value):
    """All windows of one account at one vendor."""

    windows: tuple[WindowLimit, ...] = ()
    #: How more can be had, for people: words or a URL.
    upgrade: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _each_once(self) -> QuotaPolicy:
        names = [one.window for one in self.windows]
        if len(set(names)) != len(names):
            raise ValueError("a window is limited once")
        return self


class Throttle(Value):
    """A hand on the tap: ordinary calls get this share of each limit, wedding-day and reserved ones all of it."""

    percent: Annotated[int, Field(ge=0, le=99)]
    #: None: until it is taken away.
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
    """Where one window stands."""

    window: WindowName
    started_at: datetime
    ends_at: datetime
    used: int = 0
    #: When the calls taken so far would all have been made at an even pace.
    paced_until: datetime | None = None
    #: The same for those calls of a wedding's day that go before the others.
    ahead_until: datetime | None = None
    #: When such calls began to come, and the newest.
    favoured_since: datetime | None = None
    favoured_at: datetime | None = None
    #: Lower than the policy's, as the vendor's answers said, and how long that is remembered beyond the window's end.
    limit: int | None = None
    limit_until: datetime | None = None


class Quota(Value):
    """One row of truth for the whole fleet."""

    service: str
    account: str = "default"
    version: int = 0
    counters: tuple[Counter, ...] = ()
    #: The vendor said so (429 with Retry-After).
    blocked_until: datetime | None = None
    #: When an operator set aside what the vendor had said until then.
    lifted_at: datetime | None = None
    throttle: Throttle | None = None
    reservations: tuple[Reservation, ...] = ()


class Grant(Value):
    """What a process was given."""

    calls: int
    #: The first call's moment, and how far the next ones are from it and one another.
    not_before: datetime | None = None
    pace_seconds: float = 0.0
    #: Calls not begun by then are lost.
    good_until: datetime
    #: When `calls` is 0: the exact moment from which one can be had.
    until: datetime | None = None
    #: What is left of the tightest window; None: there is no limit.
    left: int | None = None
    #: Which window, or what else, says no: `second` ... `day`, `blocked`.
    why: str = ""


def policy_of(quotas: dict[str, int]) -> QuotaPolicy:
    """A manifest's `{"per_second": 10, "burst_per_second": 20}` as a policy; other keys say nothing here."""
    found = tuple(
        WindowLimit(window=name, limit=quotas[f"per_{name}"], burst=quotas.get(f"burst_per_{name}"))
        for name in ORDER
        if quotas.get(f"per_{name}")
    )
    return QuotaPolicy(windows=found)


def opened(quota: Quota, one: WindowLimit, now: datetime) -> Counter:
    """The window that `now` lies in: the one that is open, or a new one on the clock's own marks."""
    known = next((counter for counter in quota.counters if counter.window == one.window), None)
    if known is not None and known.started_at <= now < known.ends_at:
        return known
    start = math.floor(now.timestamp() / one.seconds) * one.seconds
    if known is not None and now < known.started_at:
        return known
    started_at = datetime.fromtimestamp(start, UTC)
    ends_at = started_at + timedelta(seconds=one.seconds)
    if known is None:
        return Counter(window=one.window, started_at=started_at, ends_at=ends_at)
    changes: dict[str, object] = {"started_at": max(started_at, known.ends_at), "ends_at": ends_at, "used": 0}
    if known.limit_until is None or now >= known.limit_until:
        changes |= {"limit": None, "limit_until": None}
    return known.model_copy(update=changes)


def guard_seconds(window: WindowName) -> float:
    """How long before its end a window gives out nothing more."""
    return min(SECONDS[window] * _GUARD_PART, _GUARD_CAP_SECONDS)


def slack(policy: QuotaPolicy) -> timedelta:
    """How late after its moment a call may still be begun."""
    shortest = min((one.window for one in policy.windows), key=SECONDS.__getitem__)
    return timedelta(seconds=guard_seconds(shortest) if shortest in SPREAD else BLOCK_SECONDS)


def limit_of(one: WindowLimit, counter: Counter) -> int:
    """The limit that holds: the vendor's word where it is lower."""
    return one.limit if counter.limit is None else min(one.limit, counter.limit)


def _is_wedding_day(counter: Counter, now: datetime) -> bool:
    return counter.favoured_at is not None and now - counter.favoured_at < _REMEMBERED


def _kept_ahead(one: WindowLimit, counter: Counter, now: datetime) -> int:
    """How many calls of a second the others leave to wedding days: a few, and many once such calls come."""
    part = _AHEAD_PART if _is_wedding_day(counter, now) else _IDLE_AHEAD_PART
    return math.floor(one.limit * part) if one.window == "second" else 0


def _ahead(one: WindowLimit, counter: Counter, now: datetime) -> int:
    """How many calls of a second wedding days may make beside the line: many only when the line has made room."""
    since = counter.favoured_since
    has_room = since is not None and _is_wedding_day(counter, now) and now - since >= _ROOM_AFTER
    part = _AHEAD_PART if has_room else _IDLE_AHEAD_PART
    return math.floor(one.limit * part) if one.window == "second" else 0


def _pace(one: WindowLimit, limit: int, kept_ahead: int = 0) -> timedelta:
    """The time between two calls at an even pace that leaves room for the burst and for calls that come late."""
    even = max(limit - one.at_once - kept_ahead, 1)
    guard = guard_seconds(one.window)
    # A second's calls are only paced, so any stretch is a little longer than it; a minute's end before it does.
    return timedelta(seconds=(one.seconds + guard if one.window == "second" else one.seconds - guard) / even)


def _first_moment(one: WindowLimit, counter: Counter, pace: timedelta, now: datetime) -> datetime:
    """When the next call is due: long past after a pause, as far as the burst goes."""
    return max(counter.paced_until or now, now) - pace * (one.at_once - 1)


def _goes_ahead(one: WindowLimit, counter: Counter, now: datetime) -> bool:
    """Whether a wedding day's call need not stand in line: of each second's limit a few."""
    few = _ahead(one, counter, now)
    each = timedelta(seconds=one.seconds / max(few, 1))
    return few > 0 and max(counter.ahead_until or now, now) - now <= each * (few - 1)


def _throttled(quota: Quota, now: datetime) -> float:
    throttle = quota.throttle
    if throttle is None or (throttle.until is not None and now >= throttle.until):
        return 1.0
    return throttle.percent / 100


def reservation_of(quota: Quota, wedding_id: str, now: datetime) -> Reservation | None:
    """The wedding's reservation that runs now and has calls left."""
    return next(
        (
            one
            for one in quota.reservations
            if one.wedding_id == wedding_id and one.starts_at <= now < one.ends_at and one.used < one.calls
        ),
        None,
    )


def withheld(quota: Quota, counter: Counter, now: datetime) -> int:
    """How much of a window is kept for weddings.

    Of an hour or a day: what a reservation that meets it has left. Of seconds and minutes: its even share while it
    runs, lent to others once half of the window has passed.
    """
    length = SECONDS[counter.window]
    kept = 0
    for one in quota.reservations:
        left = max(one.calls - one.used, 0)
        if counter.window in SPREAD:
            is_lent = now >= counter.started_at + timedelta(seconds=length * _LENT_AFTER_PART)
            if one.starts_at <= now < one.ends_at and not is_lent:
                span = max((one.ends_at - one.starts_at).total_seconds(), length)
                kept += min(left, math.ceil(one.calls * length / span))
        elif one.starts_at < counter.ends_at and now < one.ends_at:
            kept += left
    return kept


class _Room(Value):
    """What one window has for a taker."""

    calls: int
    until: datetime
    left: int
    pace_seconds: float = 0.0


def _room(quota: Quota, one: WindowLimit, now: datetime, priority: int, is_reserved: bool) -> _Room:
    """How many calls a window gives now, and when it gives the next otherwise."""
    counter = opened(quota, one, now)
    limit = limit_of(one, counter)
    favoured = is_reserved or priority == WEDDING_DAY
    share = limit if favoured else math.floor(limit * _throttled(quota, now))
    passed = (now - counter.started_at).total_seconds() / max(
        (counter.ends_at - counter.started_at).total_seconds(), 1e-6
    )
    kept = 0 if is_reserved else withheld(quota, counter, now)
    left_to_others = 0 if favoured or passed >= _LEFT_UNTIL_PART else math.floor(limit * _LEFT_TO_OTHERS[priority])
    free = min(share, limit - left_to_others) - kept - counter.used
    guard = timedelta(seconds=guard_seconds(one.window))
    if one.window == "second":
        # Paced only: the line never ends with a second.
        free = share - kept
    elif now >= counter.ends_at - guard:
        return _Room(calls=0, until=counter.ends_at, left=max(limit - counter.used, 0))
    if free <= 0:
        until = counter.ends_at
        opens_up = left_to_others > 0 and one.window != "second" and min(share, limit) - kept - counter.used > 0
        if opens_up:
            until = counter.started_at + (counter.ends_at - counter.started_at) * _LEFT_UNTIL_PART
        return _Room(calls=0, until=max(until, now + timedelta(milliseconds=1)), left=max(limit - counter.used, 0))
    if one.window in SPREAD:
        return _paced_room(one, counter, limit, share - kept, free, now, is_favoured=favoured)
    return _Room(calls=free, until=now, left=limit - counter.used)


def _paced_room(
    one: WindowLimit, counter: Counter, limit: int, share: int, free: int, now: datetime, *, is_favoured: bool
) -> _Room:
    """Moments ahead of which nobody else's lie."""
    left = max(limit - counter.used, 0)
    if is_favoured and _goes_ahead(one, counter, now):
        return _Room(calls=min(free, 1), until=now, left=left)
    pace = _pace(one, max(share, 1), _kept_ahead(one, counter, now))
    first = _first_moment(one, counter, pace, now)
    if is_favoured and one.window != "second":
        # The counter holds the limit: a wedding day's call takes no moment.
        first = min(first, now)
    end = _LONG_AFTER if one.window == "second" else counter.ends_at - timedelta(seconds=guard_seconds(one.window))
    last = min(now + timedelta(seconds=HORIZON_SECONDS), end)
    seconds = pace.total_seconds()
    if first > last:
        soon = max(first - timedelta(seconds=HORIZON_SECONDS), now + timedelta(milliseconds=1))
        return _Room(calls=0, until=soon if first <= end else counter.ends_at, left=left, pace_seconds=seconds)
    calls = min(free, math.floor((last - first) / pace) + 1)
    return _Room(calls=calls, until=max(first, now), left=left, pace_seconds=seconds)


def take(
    quota: Quota, policy: QuotaPolicy, wanted: int, now: datetime, *, priority: int = ORDINARY, wedding_id: str = ""
) -> tuple[Quota, Grant]:
    """Take up to `wanted` calls of every window at once, or learn when the next can be had."""
    good_until = now + timedelta(seconds=BLOCK_SECONDS)
    if not policy.windows:
        return quota, Grant(calls=wanted, good_until=good_until)
    if quota.blocked_until is not None and now < quota.blocked_until:
        return quota, Grant(calls=0, good_until=now, until=quota.blocked_until, left=0, why="blocked")
    held = reservation_of(quota, wedding_id, now) if wedding_id else None
    rooms = {one.window: _room(quota, one, now, priority, held is not None) for one in policy.windows}
    left = min(room.left for room in rooms.values())
    given = min(wanted, *(room.calls for room in rooms.values()))
    if held is not None:
        given = min(given, held.calls - held.used)
    if given <= 0:
        tightest = max((name for name in rooms if rooms[name].calls <= 0), key=lambda name: rooms[name].until)
        pace_seconds = max(room.pace_seconds for room in rooms.values())
        until = rooms[tightest].until
        return quota, Grant(calls=0, pace_seconds=pace_seconds, good_until=now, until=until, left=left, why=tightest)
    is_favoured = held is not None or priority == WEDDING_DAY
    counters = tuple(_counted(quota, one, given, now, is_favoured=is_favoured) for one in policy.windows)
    not_before = max(now, *(room.until for room in rooms.values()))
    pace_seconds = max(room.pace_seconds for room in rooms.values())
    last = not_before + timedelta(seconds=pace_seconds * given)
    ends = (counter.ends_at for counter in counters if counter.window != "second")
    reservations = tuple(
        one.model_copy(update={"used": one.used + given}) if held is not None and one.id == held.id else one
        for one in quota.reservations
        if now < one.ends_at
    )
    changed = quota.model_copy(update={"counters": counters, "reservations": reservations})
    return changed, Grant(
        calls=given,
        not_before=not_before,
        pace_seconds=pace_seconds,
        good_until=min([last if pace_seconds else last + timedelta(seconds=BLOCK_SECONDS), *ends]),
        left=left - given,
    )


def _counted(quota: Quota, one: WindowLimit, calls: int, now: datetime, *, is_favoured: bool) -> Counter:
    counter = opened(quota, one, now)
    changes: dict[str, object] = {"used": counter.used + calls}
    if is_favoured and one.window in SPREAD and _goes_ahead(one, counter, now):
        each = timedelta(seconds=one.seconds / _ahead(one, counter, now))
        changes["ahead_until"] = max(counter.ahead_until or now, now) + each * calls
    elif one.window in SPREAD:
        share = math.floor(limit_of(one, counter) * _throttled(quota, now)) - withheld(quota, counter, now)
        pace = _pace(one, max(share, 1), _kept_ahead(one, counter, now))
        changes["paced_until"] = max(counter.paced_until or now, now) + pace * calls
    if is_favoured:
        begins = not _is_wedding_day(counter, now)
        changes |= {"favoured_at": now} | ({"favoured_since": now} if begins else {})
    return counter.model_copy(update=changes)
