"""Acquire calls of a quota: of every window at once, each call at its own moment. Pure; time is an argument."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from wedsync.domain.quotas.quota import (
    BLOCK_SECONDS,
    HORIZON_SECONDS,
    ORDINARY,
    SPREAD,
    WEDDING_DAY,
    Counter,
    Grant,
    Quota,
    QuotaPolicy,
    Reservation,
    WindowLimit,
    limit_of,
    margin_seconds,
    opened,
    throttled,
)
from wedsync.domain.quotas.reservations import lent, lent_from, reservation_of, withheld
from wedsync.domain.value import Value

#: The share of each window that a priority leaves to higher ones, until this part of the window has passed.
_LEFT_TO_OTHERS: dict[int, float] = {1: 0.0, 2: 0.03, 3: 0.08, 4: 0.25}
_LEFT_UNTIL_PART = 0.8
#: So much of a second's limit is for a wedding day's calls, which don't wait in line: little until such calls come,
#: then more, once the moments that were given out before have passed.
_IDLE_AHEAD_PART, _AHEAD_PART = 0.02, 0.2
_REMEMBERED, _ROOM_AFTER = timedelta(minutes=1), timedelta(seconds=2)
#: How soon to recheck a throttle without an end: each recheck of a step makes its history longer.
_RECHECK_AFTER = timedelta(minutes=5)
#: An operator's throttle refuses.
THROTTLED = "throttled"
_LONG_AFTER = datetime.max.replace(tzinfo=UTC)


class _Waiter(Value):
    """A caller that acquires: its priority and its reservation."""

    priority: int
    held: Reservation | None = None

    @property
    def is_favoured(self) -> bool:
        """Tell whether no throttle applies to it, and it leaves nothing to others."""
        return self.held is not None or self.priority == WEDDING_DAY


def acquire(
    quota: Quota, policy: QuotaPolicy, wanted: int, now: datetime, *, priority: int = ORDINARY, wedding_id: str = ""
) -> tuple[Quota, Grant]:
    """Acquire up to `wanted` calls of every window at once, or learn when the next can be had."""
    good_until = now + timedelta(seconds=BLOCK_SECONDS)
    if not policy.windows:
        return quota, Grant(calls=wanted, good_until=good_until)
    if quota.blocked_until is not None and now < quota.blocked_until:
        return quota, Grant(calls=0, good_until=now, until=quota.blocked_until, left=0, why="blocked")
    who = _Waiter(priority=priority, held=reservation_of(quota, wedding_id, now) if wedding_id else None)
    rooms = {one.window: _room(quota, one, now, who) for one in policy.windows}
    left = min(room.left for room in rooms.values())
    if wanted <= 0:
        return quota, Grant(calls=0, good_until=now, until=now, left=left)
    granted = min(wanted, *(room.calls for room in rooms.values()))
    if who.held is not None:
        granted = min(granted, who.held.calls - who.held.used)
    pace_seconds = max(room.pace_seconds for room in rooms.values())
    if granted <= 0:
        tightest = max((name for name in rooms if rooms[name].calls <= 0), key=lambda name: rooms[name].until)
        until, why = rooms[tightest].until, rooms[tightest].why or tightest
        return quota, Grant(calls=0, pace_seconds=pace_seconds, good_until=now, until=until, left=left, why=why)
    not_before = max(now, *(room.until for room in rooms.values()))
    last = not_before + timedelta(seconds=pace_seconds * (granted - 1))
    counters = tuple(_counted(quota, one, granted, last, now, who) for one in policy.windows)
    after = last + timedelta(seconds=pace_seconds or BLOCK_SECONDS)
    grant = Grant(
        calls=granted,
        not_before=not_before,
        pace_seconds=pace_seconds,
        good_until=min([after, *(counter.ends_at for counter in counters if counter.window != "second")]),
        left=left - granted,
    )
    reservations = _used(quota, who, granted, now)
    return quota.model_copy(update={"counters": counters, "reservations": reservations}), grant


def _used(quota: Quota, who: _Waiter, calls: int, now: datetime) -> tuple[Reservation, ...]:
    return tuple(
        one.model_copy(update={"used": one.used + calls}) if who.held is not None and one.id == who.held.id else one
        for one in quota.reservations
        if now < one.ends_at
    )


class _Room(Value):
    """Calls that one window has for a caller."""

    calls: int
    until: datetime
    left: int
    pace_seconds: float = 0.0
    #: What refuses, other than the window.
    why: str = ""


def _room(quota: Quota, one: WindowLimit, now: datetime, who: _Waiter) -> _Room:
    """Return how many calls a window gives now, and when it gives the next otherwise."""
    counter = opened(quota, one, now)
    limit = limit_of(one, counter)
    share = limit if who.is_favoured else math.floor(limit * throttled(quota, now))
    passed = (now - counter.started_at).total_seconds() / max(
        (counter.ends_at - counter.started_at).total_seconds(), 1e-6
    )
    kept = _kept(quota, counter, now, who)
    is_all_granted = who.is_favoured or passed >= _LEFT_UNTIL_PART
    left_to_others = 0 if is_all_granted else math.floor(limit * _LEFT_TO_OTHERS[who.priority])
    free = min(share, limit - left_to_others) - kept - counter.used
    margin = timedelta(seconds=margin_seconds(one.window))
    if one.window == "second":
        # Paced only: the line never ends with a second.
        free = share - kept
    elif now >= counter.ends_at - margin:
        return _Room(calls=0, until=counter.ends_at, left=max(limit - counter.used, 0))
    if free <= 0:
        used = 0 if one.window == "second" else counter.used
        free_without = {
            "left": share - kept - used,
            "kept": min(share, limit - left_to_others) - used,
            "throttle": limit - left_to_others - kept - used,
        }
        until, why = _free_again(
            quota, counter, now, {what for what, calls in free_without.items() if calls > 0}, share
        )
        left = max(limit - counter.used, 0)
        return _Room(calls=0, until=max(until, now + timedelta(milliseconds=1)), left=left, why=why)
    if one.window in SPREAD:
        return _paced_room(quota, one, counter, free, now, who)
    return _Room(calls=free, until=now, left=limit - counter.used)


def _free_again(quota: Quota, counter: Counter, now: datetime, obstacles: set[str], share: int) -> tuple[datetime, str]:
    """Return when an exhausted window gives the next call, and why not before; `obstacles`: each reason alone."""
    until, length = counter.ends_at, counter.ends_at - counter.started_at
    if "left" in obstacles:
        until = counter.started_at + length * _LEFT_UNTIL_PART
    if "kept" in obstacles and counter.window in SPREAD:
        until = min(until, lent_from(counter))
    if quota.throttle is None or "throttle" not in obstacles:
        return until, ""
    # Nobody knows when a throttle without an end is removed.
    ends_at = quota.throttle.until or now + _RECHECK_AFTER
    return ends_at if share <= 0 else min(until, ends_at), THROTTLED


def _paced_room(quota: Quota, one: WindowLimit, counter: Counter, free: int, now: datetime, who: _Waiter) -> _Room:
    """Return the free moments that lie before everybody else's."""
    left = max(limit_of(one, counter) - counter.used, 0)
    if who.is_favoured and _goes_ahead(one, counter, now):
        return _Room(calls=min(free, 1), until=now, left=left)
    lines = _lines(quota, one, counter, now, who)
    firsts = [_first_moment(line, one, counter, now, who) for line in lines]
    first = max(firsts)
    pace = max(line.pace for line in lines)
    end = _LONG_AFTER if one.window == "second" else counter.ends_at - timedelta(seconds=margin_seconds(one.window))
    if who.held is None and lent(quota, counter, now):
        # Lent calls lie within the window: in the next one the share is its wedding's again.
        end = min(end, counter.ends_at)
    last = min(now + timedelta(seconds=HORIZON_SECONDS), end)
    seconds = pace.total_seconds()
    if first > last:
        soon = max(first - timedelta(seconds=HORIZON_SECONDS), now + timedelta(milliseconds=1))
        return _Room(calls=0, until=soon if first <= end else counter.ends_at, left=left, pace_seconds=seconds)
    calls = min(free, *(math.floor((last - at) / line.pace) + 1 for line, at in zip(lines, firsts, strict=True)))
    return _Room(calls=calls, until=max(first, now), left=left, pace_seconds=seconds)


def _counted(quota: Quota, one: WindowLimit, calls: int, last: datetime, now: datetime, who: _Waiter) -> Counter:
    """Count so many calls in the window, the last of them at `last`."""
    counter = opened(quota, one, now)
    changes: dict[str, object] = {"used": counter.used + calls}
    if who.is_favoured and one.window in SPREAD and _goes_ahead(one, counter, now):
        each, _ = _ahead_pace(_ahead(one, counter, now))
        changes["ahead_until"] = max(counter.ahead_until or now, now) + each * calls
    elif one.window in SPREAD:
        for line in _lines(quota, one, counter, now, who):
            # No call's place is before its moment: those after it would come too close.
            changes[line.name] = max(line.reaches(counter, now) + line.pace * calls, last + line.pace)
    if who.held is not None:
        changes["reserved"] = {**counter.reserved, who.held.id: counter.reserved.get(who.held.id, 0) + calls}
    if who.is_favoured:
        begins = not _is_wedding_day(counter, now)
        changes |= {"favoured_at": now} | ({"favoured_since": now} if begins else {})
    return counter.model_copy(update=changes)


# ---- how calls are spread


class _Line(NamedTuple):
    """A line that calls wait in."""

    #: The counter's field that keeps how far it reaches.
    name: Literal["paced_until", "unreserved_until", "throttled_until"]
    #: The time between two calls.
    pace: timedelta
    #: How many may come at once after a pause.
    at_once: int

    def reaches(self, counter: Counter, now: datetime) -> datetime:
        """Return when the calls that wait in it would all have been made."""
        return max(getattr(counter, self.name) or now, now)


def _lines(quota: Quota, one: WindowLimit, counter: Counter, now: datetime, who: _Waiter) -> list[_Line]:
    """Return the lines that a call waits in.

    All wait in one line at the limit's own pace. Whoever gets only a share waits in a slower one besides: were the
    common line as slow, callers that no throttle and no reservation holds back would wait behind them.
    """
    limit, kept, part = limit_of(one, counter), _kept(quota, counter, now, who), throttled(quota, now)
    even = limit - one.at_once - _kept_ahead(one, counter, now)
    lines = [_Line("paced_until", _pace(one, even), one.at_once)]
    if kept:
        lines.append(_Line("unreserved_until", _pace(one, limit - kept), max(one.at_once * (limit - kept) // limit, 1)))
    if part < 1 and not who.is_favoured:
        share = math.floor(limit * part) - kept
        lines.append(_Line("throttled_until", _pace(one, share), max(one.at_once * share // limit, 1)))
    return lines


def _pace(one: WindowLimit, calls: int) -> timedelta:
    """Return the time between two of so many calls, evenly spread, with room for those that come late."""
    margin = margin_seconds(one.window)
    # A second's calls are only paced, so any stretch is a little longer than it; a minute's end before it does.
    seconds = one.seconds + margin if one.window == "second" else one.seconds - margin
    # Rounded up, and never zero: moments less than a microsecond apart could not be told apart.
    return timedelta(microseconds=max(math.ceil(seconds / max(calls, 1) * 1_000_000), 1))


def _first_moment(line: _Line, one: WindowLimit, counter: Counter, now: datetime, who: _Waiter) -> datetime:
    """Return when the line's next call is due: long past after a pause, as far as the burst goes."""
    first = line.reaches(counter, now) - line.pace * (line.at_once - 1)
    # A longer window's counter holds the limit: a wedding day's call takes no moment.
    is_free = who.is_favoured and one.window != "second" and line.name == "paced_until"
    return min(first, now) if is_free else first


def _kept(quota: Quota, counter: Counter, now: datetime, who: _Waiter) -> int:
    if who.held is None:
        return withheld(quota, counter, now)
    # Within seconds and minutes they share one line; what others keep of longer windows is not theirs to acquire.
    return 0 if counter.window in SPREAD else withheld(quota, counter, now, but=who.held.id)


def _is_wedding_day(counter: Counter, now: datetime) -> bool:
    return counter.favoured_at is not None and now - counter.favoured_at < _REMEMBERED


def _kept_ahead(one: WindowLimit, counter: Counter, now: datetime) -> int:
    """Return how many calls of a second the others leave to wedding days: a few, and many once such calls come."""
    part = _AHEAD_PART if _is_wedding_day(counter, now) else _IDLE_AHEAD_PART
    return math.floor(one.limit * part) if one.window == "second" else 0


def _ahead(one: WindowLimit, counter: Counter, now: datetime) -> int:
    """Return how many calls of a second wedding days may make beside the line: many only once it has room."""
    since = counter.favoured_since
    has_room = since is not None and _is_wedding_day(counter, now) and now - since >= _ROOM_AFTER
    part = _AHEAD_PART if has_room else _IDLE_AHEAD_PART
    return math.floor(one.limit * part) if one.window == "second" else 0


def _ahead_pace(few: int) -> tuple[timedelta, int]:
    """Return the time between two calls beside the line, and the burst: no second holds more than `few`."""
    at_once = max(few // 2, 1)
    return timedelta(seconds=1 / max(few - at_once + 1, 1)), at_once


def _goes_ahead(one: WindowLimit, counter: Counter, now: datetime) -> bool:
    """Tell whether a wedding day's call need not wait in line: a few of each second's limit."""
    few = _ahead(one, counter, now)
    each, at_once = _ahead_pace(few)
    return few > 0 and max(counter.ahead_until or now, now) - now <= each * (at_once - 1)
