"""When requests to several vendors could be carried out, within what their quotas leave. Pure; time is an argument.

A preview: nothing is taken. The urgent come first; one that may wait is spread over the windows that have room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from wedsync.domain.routing.forecast import Demand, span_of
from wedsync.domain.routing.quota_reservations import kept_within
from wedsync.domain.routing.quotas import Quota, QuotaPolicy, WindowLimit, opened, start_of
from wedsync.domain.routing.vendor import Value

Key = tuple[str, str]
Urgency = Literal["wedding_day", "high", "normal", "low"]
RANK: dict[Urgency, int] = {"wedding_day": 1, "high": 2, "normal": 3, "low": 4}
_BY_RANK: dict[int, Urgency] = {rank: name for name, rank in RANK.items()}
#: Nothing is planned farther ahead.
HORIZON = timedelta(days=31)
#: A wedding so near goes before all others.
NEAR = timedelta(hours=48)


class Wanted(Value):
    """One request: so many calls to one service."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    service: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    account: Annotated[str, Field(min_length=1, max_length=63)] = "default"
    calls: Annotated[int, Field(ge=1, le=100_000)]
    priority: Urgency = "normal"
    not_before: AwareDatetime | None = None
    #: By when its last call must have been made; None: whenever.
    deadline: AwareDatetime | None = None
    #: Whether it may be spread over several windows, or waits for one that has room for all of it.
    may_be_spread: bool = True
    wedding_id: Annotated[str, Field(max_length=63, pattern=r"^[^\x00]*$")] | None = None


class Placed(Value):
    """When a request would be carried out."""

    id: str
    service: str
    calls: int
    priority: Urgency
    starts_at: datetime
    ends_at: datetime


class Conflicted(Value):
    """A request that can't be carried out in time, and why."""

    id: str
    service: str
    calls: int
    #: What there is room for before its deadline.
    available: int
    deadline: datetime | None
    #: When it could be ready; None: not within a month.
    possible_at: datetime | None
    detail: str


class Adjusted(Value):
    """A request that goes before others."""

    id: str
    was: Urgency
    becomes: Urgency
    why: str


class Schedule(Value):
    """What becomes of all of them."""

    immediate: tuple[Placed, ...]
    delayed: tuple[Placed, ...]
    conflicts: tuple[Conflicted, ...]
    priority_adjustments: tuple[Adjusted, ...]
    #: When the last of those that can be carried out is.
    estimated_completion: datetime


class Books:
    """What is taken of each window so far, by what stands and by what was placed."""

    def __init__(
        self,
        policies: Mapping[Key, QuotaPolicy],
        quotas: Mapping[Key, Quota],
        demand: Iterable[Demand],
        now: datetime,
    ) -> None:
        self._policies = policies
        self._quotas = quotas
        self._now = now
        self._taken: dict[tuple[Key, str, datetime], int] = {}
        for wanted in demand:
            key = (wanted.service, wanted.account)
            for one in self.windows(key):
                self._add(key, one, wanted.at, wanted.calls)

    def windows(self, key: Key) -> tuple[WindowLimit, ...]:
        """The limits of an account."""
        policy = self._policies.get(key)
        return policy.windows if policy is not None else ()

    def _add(self, key: Key, one: WindowLimit, at: datetime, calls: int) -> None:
        place = (key, one.window, start_of(at, span_of(one)[0]))
        self._taken[place] = self._taken.get(place, 0) + calls

    def room(self, key: Key, one: WindowLimit, at: datetime) -> int:
        """How many more calls the window that `at` lies in has room for."""
        seconds, limit = span_of(one)
        start = start_of(at, seconds)
        taken = self._taken.get((key, one.window, start), 0)
        quota = self._quotas.get(key)
        if quota is not None:
            used: Mapping[str, int] = {}
            if start == start_of(self._now, seconds) and one.seconds == seconds:
                counter = opened(quota, one, self._now)
                used, taken = counter.reserved, taken + counter.used
            taken += kept_within(quota, start, start + timedelta(seconds=seconds), used)
        return max(limit - taken, 0)

    def take(self, key: Key, at: datetime, calls: int) -> None:
        """Note calls that were placed."""
        for one in self.windows(key):
            self._add(key, one, at, calls)

    def after(self, key: Key, at: datetime, least: int) -> datetime:
        """The end of the longest window that has no room for `least` calls; of the shortest when all have."""
        ends = [
            (self.room(key, one, at) < least, start_of(at, span_of(one)[0]) + timedelta(seconds=span_of(one)[0]))
            for one in self.windows(key)
        ]
        return max((end for is_full, end in ends if is_full), default=min(end for _, end in ends))

    def blocked_until(self, key: Key) -> datetime | None:
        """The vendor's own word."""
        quota = self._quotas.get(key)
        return quota.blocked_until if quota is not None else None


def place(books: Books, wanted: Wanted, now: datetime) -> tuple[list[tuple[datetime, int]], int]:
    """(moment, calls) pairs from the earliest moment on, and how many found no room within the horizon."""
    key = (wanted.service, wanted.account)
    at = max(now, wanted.not_before or now, books.blocked_until(key) or now)
    left, found = wanted.calls, list[tuple[datetime, int]]()
    limits = books.windows(key)
    if not limits:
        return [(at, left)], 0
    if not wanted.may_be_spread and any(span_of(one)[1] < left for one in limits):
        return [], left
    while left and at < now + HORIZON:
        least = 1 if wanted.may_be_spread else left
        room = min(books.room(key, one, at) for one in limits)
        if room >= least:
            part = min(room, left)
            found.append((at, part))
            books.take(key, at, part)
            left -= part
        if left:
            at = books.after(key, at, least)
    return found, left


def schedule(
    requests: Sequence[Wanted],
    policies: Mapping[Key, QuotaPolicy],
    quotas: Mapping[Key, Quota],
    demand: Sequence[Demand],
    ceremonies: Mapping[str, datetime],
    now: datetime,
) -> Schedule:
    """Place every request; `ceremonies`: when the weddings are that requests name."""
    adjusted: dict[str, Adjusted] = {}
    current = [_near_first(one, ceremonies, adjusted, now) for one in requests]
    placed = _place_all(current, policies, quotas, demand, now)
    for late in [one for one in current if _is_late(one, placed[one.id], now)]:
        for rank in range(RANK[late.priority] - 1, 1, -1):
            raised = [
                one.model_copy(update={"priority": _BY_RANK[rank]}) if one.id == late.id else one for one in current
            ]
            trial = _place_all(raised, policies, quotas, demand, now)
            now_late = {one.id for one in raised if _is_late(one, trial[one.id], now)}
            was_late = {one.id for one in current if _is_late(one, placed[one.id], now)}
            if late.id not in now_late and now_late < was_late:
                was = next(one.priority for one in requests if one.id == late.id)
                why = "so that its deadline is met, and nobody else's is missed"
                adjusted[late.id] = Adjusted(id=late.id, was=was, becomes=_BY_RANK[rank], why=why)
                current, placed = raised, trial
                break
    return _told(current, placed, tuple(adjusted.values()), now)


def _near_first(
    one: Wanted, ceremonies: Mapping[str, datetime], adjusted: dict[str, Adjusted], now: datetime
) -> Wanted:
    ceremony = ceremonies.get(one.wedding_id or "")
    if ceremony is None or one.priority == "wedding_day" or not now <= ceremony <= now + NEAR:
        return one
    why = "its wedding is within two days"
    adjusted[one.id] = Adjusted(id=one.id, was=one.priority, becomes="wedding_day", why=why)
    return one.model_copy(update={"priority": "wedding_day"})


Places = dict[str, tuple[list[tuple[datetime, int]], int]]


def _place_all(
    requests: Sequence[Wanted],
    policies: Mapping[Key, QuotaPolicy],
    quotas: Mapping[Key, Quota],
    demand: Sequence[Demand],
    now: datetime,
) -> Places:
    books = Books(policies, quotas, demand, now)
    latest = now + 2 * HORIZON
    order = sorted(requests, key=lambda one: (RANK[one.priority], one.deadline or latest))
    return {one.id: place(books, one, now) for one in order}


def _is_late(one: Wanted, found: tuple[list[tuple[datetime, int]], int], now: datetime) -> bool:
    moments, left = found
    return left > 0 or (one.deadline is not None and (moments[-1][0] if moments else now) > one.deadline)


def _told(requests: Sequence[Wanted], places: Places, adjusted: tuple[Adjusted, ...], now: datetime) -> Schedule:
    immediate, delayed, conflicts = list[Placed](), list[Placed](), list[Conflicted]()
    for one in requests:
        moments, left = places[one.id]
        if _is_late(one, (moments, left), now):
            conflicts.append(_conflict(one, moments, left))
            continue
        done = Placed(
            id=one.id,
            service=one.service,
            calls=one.calls,
            priority=one.priority,
            starts_at=moments[0][0],
            ends_at=moments[-1][0],
        )
        (immediate if done.ends_at <= now else delayed).append(done)
    ends = [one.ends_at for one in (*immediate, *delayed)]
    return Schedule(
        immediate=tuple(immediate),
        delayed=tuple(delayed),
        conflicts=tuple(conflicts),
        priority_adjustments=adjusted,
        estimated_completion=max(ends, default=now),
    )


def _conflict(one: Wanted, moments: list[tuple[datetime, int]], left: int) -> Conflicted:
    in_time = sum(calls for at, calls in moments if one.deadline is None or at <= one.deadline)
    possible = moments[-1][0] if moments and not left else None
    when = f"ready by {possible:%Y-%m-%d %H:%M} UTC at the earliest" if possible else "not to be had within a month"
    return Conflicted(
        id=one.id,
        service=one.service,
        calls=one.calls,
        available=in_time,
        deadline=one.deadline,
        possible_at=possible,
        detail=f"{one.service} has room for {in_time} of {one.calls} calls in time; {when}",
    )
