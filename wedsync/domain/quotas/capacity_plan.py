"""Keep what is used of each window ahead, and find room for further calls. Pure; time is an argument.

A window only fills up while requests are placed, so a window that was found full is passed over from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from wedsync.domain.quotas.forecast import Demand, span_of
from wedsync.domain.quotas.quota import Quota, QuotaPolicy, WindowLimit, opened, start_of
from wedsync.domain.quotas.reservations import kept_within

Key = tuple[str, str]


class Budget:
    """Number of windows that may be inspected in all, so that a preview answers in about a second."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def spend(self, checks: int = 1) -> bool:
        """Spend so many inspections; False when fewer were left."""
        self.left -= checks
        return self.left >= 0


@dataclass
class Found:
    """Windows that took a request's calls."""

    moments: list[tuple[datetime, int]]
    #: Calls that found no room.
    left: int
    #: Whether there was too much to inspect.
    is_given_up: bool = False


class _Window:
    """One limit's windows, by their number since 1970."""

    def __init__(self, one: WindowLimit, quota: Quota | None, now: datetime) -> None:
        seconds, self.limit = span_of(one)
        self.seconds = int(seconds)
        self._quota = quota
        self._now = self.number(now.timestamp())
        self._open = opened(quota, one, now) if quota is not None and one.seconds == seconds else None
        self._wanted: dict[int, int] = {}
        self._free: dict[int, int] = {}

    def number(self, at: float) -> int:
        """Return the number of the window that a moment lies in."""
        return int(at // self.seconds)

    def want(self, demand: Demand) -> None:
        """Note calls that are already planned."""
        number = self.number(demand.at.timestamp())
        self._wanted[number] = self._wanted.get(number, 0) + demand.calls

    def free(self, number: int) -> int:
        """Return how many calls of a window the planned ones leave."""
        known = self._free.get(number)
        if known is None:
            known = self._free[number] = self.limit - self._wanted.get(number, 0) - self._taken(number)
        return known

    def _taken(self, number: int) -> int:
        if self._quota is None:
            return 0
        counter = self._open if number == self._now else None
        start = datetime.fromtimestamp(number * self.seconds, UTC)
        used = counter.reserved if counter is not None else {}
        kept = kept_within(self._quota, start, start + timedelta(seconds=self.seconds), used)
        return kept + (counter.used if counter is not None else 0)


class CapacityPlan:
    """Planned state: calls made, calls that plans want, reservations."""

    def __init__(
        self,
        policies: Mapping[Key, QuotaPolicy],
        quotas: Mapping[Key, Quota],
        demand: Iterable[Demand],
        now: datetime,
    ) -> None:
        self._quotas = quotas
        self._windows = {
            key: sorted((_Window(one, quotas.get(key), now) for one in policy.windows), key=lambda one: one.seconds)
            for key, policy in policies.items()
        }
        for wanted in demand:
            if wanted.at >= start_of(now, 60):
                for window in self.windows((wanted.service, wanted.account)):
                    window.want(wanted)

    def windows(self, key: Key) -> list[_Window]:
        """Return the limits of an account, the shortest window first."""
        return self._windows.get(key, [])

    def blocked_until(self, key: Key) -> datetime | None:
        """Return until when the vendor itself blocks the account."""
        quota = self._quotas.get(key)
        return quota.blocked_until if quota is not None else None

    def effort(self, key: Key) -> int:
        """Return the cost of inspecting an account's windows."""
        quota = self._quotas.get(key)
        return 1 + (len(quota.reservations) if quota is not None else 0) // 10


@dataclass
class Page:
    """One account's windows while requests are placed in them, one after another."""

    windows: list[_Window]
    effort: int
    _placed: list[dict[int, int]] = field(init=False)
    #: From a window that is full to the next that may not be; by numbers of the shortest.
    _full: dict[int, int] = field(default_factory=dict)
    #: Stretches in which no window has room for so many calls.
    _small: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._placed = [{} for _ in self.windows]

    def place(self, calls: int, at: datetime, until: datetime, budget: Budget, *, may_be_spread: bool) -> Found:
        """Place calls from the earliest moment on: in every window with room, or in one with room for all."""
        found = Found([], calls)
        if not may_be_spread and any(one.limit < calls for one in self.windows):
            return found
        least, shortest, second, end = 1 if may_be_spread else calls, self.windows[0], at.timestamp(), until.timestamp()
        began = shortest.number(second)
        while found.left and second < end:
            number = shortest.number(second)
            if (after := self._passed_over(number, least)) != number:
                second = float(after * shortest.seconds)
                continue
            if not budget.spend(self.effort + (len(self._small) // 10 if least > 1 else 0)):
                found.is_given_up = True
                return found
            part, second_after = self._fill(second, found.left, least)
            if part:
                found.left -= part
                moment = at if number == began else datetime.fromtimestamp(second, UTC)
                found.moments.append((moment, part))
            second = second_after
        if least > 1:
            last = found.moments[-1][0].timestamp() if found.moments else second
            self._remember(least, began, shortest.number(last))
        return found

    def _remember(self, least: int, began: int, stop: int) -> None:
        """Remember that no window of the stretch has room for so many; this replaces notes that say less."""
        self._small = [one for one in self._small if one[0] < least or one[1] < began or one[2] > stop]
        self._small.append((least, began, stop))

    def _fill(self, second: float, wanted: int, least: int) -> tuple[int, float]:
        """Return how many calls the windows at a moment take, and from when on others may take more."""
        numbers = [one.number(second) for one in self.windows]
        rooms = [
            one.free(number) - placed.get(number, 0)
            for one, number, placed in zip(self.windows, numbers, self._placed, strict=True)
        ]
        part = min(min(rooms), wanted)
        part = part if part >= min(least, wanted) else 0
        if part:
            for number, placed in zip(numbers, self._placed, strict=True):
                placed[number] = placed.get(number, 0) + part
        ends = [(number + 1) * one.seconds for one, number in zip(self.windows, numbers, strict=True)]
        full = [end for end, room in zip(ends, rooms, strict=True) if room - part <= 0]
        if full:
            self._full[numbers[0]] = max(full) // self.windows[0].seconds
        small = [end for end, room in zip(ends, rooms, strict=True) if room - part < least]
        return part, float(max(small, default=ends[0]))

    def _passed_over(self, number: int, least: int) -> int:
        """Return the first window from this one on that is not known to have too little room."""
        start = number
        while True:
            seen = []
            while number in self._full:
                seen.append(number)
                number = self._full[number]
            for one in seen:
                self._full[one] = number
            wide = [stop for small, since, stop in self._small if small <= least and since <= number < stop]
            if least == 1 or not wide:
                return number if number > start else start
            number = max(wide)
