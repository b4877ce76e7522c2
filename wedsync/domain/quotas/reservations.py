"""Compute what reservations keep of each window, alike for acquiring, reserving and forecasting. Pure.

A window keeps an even share of a reservation's calls; all of them if the reservation is no longer than the window. Of
hours and days nothing is lent: calls that others used would be missing until the end, perhaps when the wedding begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from wedsync.domain.quotas.quota import SECONDS, SPREAD, Counter, Quota, Reservation, WindowLimit, start_of

#: After this part of a second or a minute its idle share is lent to others.
_LENT_AFTER_PART = 0.5
#: Reservations keep at most so much of any window: other weddings need calls, too.
MOST_KEPT_PART = 0.8
#: Shares are added up as fractions; smaller differences count as equal.
_DIGITS = 6
_NONE: Mapping[str, int] = {}


def reservation_of(quota: Quota, wedding_id: str, now: datetime) -> Reservation | None:
    """Return the wedding's reservation that runs now and has calls left."""
    return next(
        (
            one
            for one in quota.reservations
            if one.wedding_id == wedding_id and one.starts_at <= now < one.ends_at and one.used < one.calls
        ),
        None,
    )


def share(one: Reservation, seconds: float) -> float:
    """Return how many of its calls a window of that length keeps."""
    return one.calls * min(seconds / (one.ends_at - one.starts_at).total_seconds(), 1.0)


def _sum(kept: Iterable[Reservation], seconds: float, used: Mapping[str, int]) -> float:
    parts = (min(one.calls - one.used, share(one, seconds) - used.get(one.id, 0)) for one in kept)
    return round(sum(max(part, 0.0) for part in parts), _DIGITS)


def _meeting(quota: Quota, starts_at: datetime, ends_at: datetime) -> list[Reservation]:
    return [one for one in quota.reservations if one.starts_at < ends_at and starts_at < one.ends_at]


def kept_within(quota: Quota, starts_at: datetime, ends_at: datetime, used: Mapping[str, int] = _NONE) -> int:
    """Return how much a window of that time keeps; `used`: what each reservation has used of it."""
    seconds = (ends_at - starts_at).total_seconds()
    return math.ceil(_sum(_meeting(quota, starts_at, ends_at), seconds, used))


def most_kept(quota: Quota, one: WindowLimit, wanted: Reservation) -> tuple[datetime, float]:
    """Return the window that keeps the most while `wanted` (one of the quota's reservations) lasts, and how much."""
    length = timedelta(seconds=one.seconds)
    # The kept amount rises only where a reservation begins.
    begins = [other.starts_at for other in quota.reservations if wanted.starts_at < other.starts_at < wanted.ends_at]
    starts = [start_of(at, one.seconds) for at in (wanted.starts_at, *begins)]
    found = ((_sum(_meeting(quota, start, start + length), one.seconds, _NONE), start) for start in starts)
    kept, start = max(found, key=lambda each: each[0])
    return start, kept


def withheld(quota: Quota, counter: Counter, now: datetime, *, but: str = "") -> int:
    """Return how much of a window is kept for weddings now, without the reservation `but`.

    Of an hour or a day, the share of each reservation that overlaps it; of seconds and minutes, of each that runs,
    until half of the window has passed.
    """
    return 0 if _is_lent(counter, now) else _kept(quota, counter, now, but)


def lent(quota: Quota, counter: Counter, now: datetime) -> int:
    """Return how much of the kept calls others may have until the window ends."""
    return _kept(quota, counter, now, "") if _is_lent(counter, now) else 0


def lent_from(counter: Counter) -> datetime:
    """Return when the idle share of a second or a minute is lent."""
    return counter.started_at + timedelta(seconds=SECONDS[counter.window]) * _LENT_AFTER_PART


def _is_lent(counter: Counter, now: datetime) -> bool:
    return counter.window in SPREAD and now >= lent_from(counter)


def _kept(quota: Quota, counter: Counter, now: datetime, but: str) -> int:
    ends_at = now + timedelta(microseconds=1) if counter.window in SPREAD else counter.ends_at
    kept = [one for one in _meeting(quota, now, ends_at) if one.id != but]
    return math.ceil(_sum(kept, SECONDS[counter.window], counter.reserved))
