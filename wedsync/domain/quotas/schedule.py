"""Plan when requests to several vendors fit into what their quotas leave. Pure; time is an argument.

A preview: nothing is acquired. The urgent come first; a request that may wait spreads over the windows with room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from wedsync.domain.quotas.capacity_plan import Budget, CapacityPlan, Found, Key, Page
from wedsync.domain.quotas.forecast import Demand
from wedsync.domain.quotas.quota import Quota, QuotaPolicy
from wedsync.domain.value import Value

Urgency = Literal["wedding_day", "high", "normal", "low"]
RANK: dict[Urgency, int] = {"wedding_day": 1, "high": 2, "normal": 3, "low": 4}
_BY_RANK: dict[int, Urgency] = {rank: name for name, rank in RANK.items()}
#: Nothing is planned farther ahead.
HORIZON = timedelta(days=31)
#: One preview inspects so many windows: about a second's work.
MOST_CHECKS = 200_000
#: A wedding so near goes before all others.
NEAR = timedelta(hours=48)


class ScheduleRequest(Value):
    """One request: so many calls to one service."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    service: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    account: Annotated[str, Field(min_length=1, max_length=63)] = "default"
    calls: Annotated[int, Field(ge=1, le=100_000)]
    priority: Urgency = "normal"
    not_before: AwareDatetime | None = None
    #: When its last call must have been made; None: whenever.
    deadline: AwareDatetime | None = None
    #: Whether it may spread over several windows, or waits for one with room for all of it.
    may_be_spread: bool = True
    wedding_id: Annotated[str, Field(max_length=63, pattern=r"^[^\x00]*$")] | None = None


class Placed(Value):
    """Times at which a request would be carried out."""

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
    #: Calls that there is room for before its deadline.
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
    """Result for all requests."""

    immediate: tuple[Placed, ...]
    delayed: tuple[Placed, ...]
    conflicts: tuple[Conflicted, ...]
    priority_adjustments: tuple[Adjusted, ...]
    #: When the last request that can be carried out ends.
    estimated_completion: datetime


Places = dict[str, Found]


@dataclass
class _Scheduler:
    """Data by which requests are placed."""

    capacity: CapacityPlan
    budget: Budget
    now: datetime

    def place_all(self, requests: Sequence[ScheduleRequest]) -> Places:
        """Place all requests, the urgent first."""
        pages: dict[Key, Page] = {}
        latest = self.now + 2 * HORIZON
        order = sorted(requests, key=lambda one: (RANK[one.priority], one.deadline or latest))
        return {one.id: self._place(one, pages) for one in order}

    def is_hopeless(self, one: ScheduleRequest) -> bool:
        """Tell whether it misses its deadline even if it goes before all others."""
        return _is_late(one, self._place(one, {}), self.now)

    def _place(self, one: ScheduleRequest, pages: dict[Key, Page]) -> Found:
        key = (one.service, one.account)
        at = max(self.now, one.not_before or self.now, self.capacity.blocked_until(key) or self.now)
        windows = self.capacity.windows(key)
        if not windows:
            return Found([(at, one.calls)], 0)
        page = pages.setdefault(key, Page(windows, self.capacity.effort(key)))
        return page.place(one.calls, at, self.now + HORIZON, self.budget, may_be_spread=one.may_be_spread)


def schedule(
    requests: Sequence[ScheduleRequest],
    policies: Mapping[Key, QuotaPolicy],
    quotas: Mapping[Key, Quota],
    demand: Sequence[Demand],
    ceremonies: Mapping[str, datetime],
    now: datetime,
    checks: int = MOST_CHECKS,
) -> Schedule:
    """Place every request; `ceremonies`: when the weddings that requests name take place.

    Priorities are raised as far as the inspection budget allows.
    """
    adjusted: dict[str, Adjusted] = {}
    current = {one.id: _near_first(one, ceremonies, adjusted, now) for one in requests}
    scheduler = _Scheduler(CapacityPlan(policies, quotas, demand, now), Budget(checks), now)
    placed = scheduler.place_all(list(current.values()))
    for one in requests:
        late = current[one.id]
        if not _is_late(late, placed[late.id], now) or scheduler.is_hopeless(late):
            continue
        for rank in range(RANK[late.priority] - 1, 1, -1):
            raised = late.model_copy(update={"priority": _BY_RANK[rank]})
            # Nobody at another vendor feels it.
            beside = [each for each in current.values() if (each.service, each.account) == (one.service, one.account)]
            trial = scheduler.place_all([raised if each.id == late.id else each for each in beside])
            if scheduler.budget.left < 0:
                break
            was_late = {each.id for each in beside if _is_late(each, placed[each.id], now)}
            is_late = {each.id for each in beside if _is_late(each, trial[each.id], now)}
            if late.id not in is_late and is_late < was_late:
                why = "so that its deadline is met, and nobody else's is missed"
                adjusted[late.id] = Adjusted(id=late.id, was=one.priority, becomes=_BY_RANK[rank], why=why)
                current[late.id] = raised
                placed |= trial
                break
    return _report(list(current.values()), placed, tuple(adjusted.values()), now)


def _near_first(
    one: ScheduleRequest, ceremonies: Mapping[str, datetime], adjusted: dict[str, Adjusted], now: datetime
) -> ScheduleRequest:
    ceremony = ceremonies.get(one.wedding_id or "")
    if ceremony is None or one.priority == "wedding_day" or not now <= ceremony <= now + NEAR:
        return one
    why = "its wedding is within two days"
    adjusted[one.id] = Adjusted(id=one.id, was=one.priority, becomes="wedding_day", why=why)
    return one.model_copy(update={"priority": "wedding_day"})


def _is_late(one: ScheduleRequest, found: Found, now: datetime) -> bool:
    last = found.moments[-1][0] if found.moments else now
    return found.left > 0 or (one.deadline is not None and last > one.deadline)


def _report(
    requests: Sequence[ScheduleRequest], places: Places, adjusted: tuple[Adjusted, ...], now: datetime
) -> Schedule:
    immediate, delayed, conflicts = list[Placed](), list[Placed](), list[Conflicted]()
    for one in requests:
        moments = places[one.id].moments
        if _is_late(one, places[one.id], now):
            conflicts.append(_conflict(one, places[one.id]))
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


def _conflict(one: ScheduleRequest, found: Found) -> Conflicted:
    in_time = sum(calls for at, calls in found.moments if one.deadline is None or at <= one.deadline)
    possible = found.moments[-1][0] if found.moments and not found.left else None
    when = f"ready by {possible:%Y-%m-%d %H:%M} UTC at the earliest" if possible else "not to be had within a month"
    detail = f"{one.service} has room for {in_time} of {one.calls} calls in time; {when}"
    if found.is_given_up:
        detail = (
            f"too much is asked at once to find room for {one.calls} calls to {one.service}; ask for fewer requests"
        )
    return Conflicted(
        id=one.id,
        service=one.service,
        calls=one.calls,
        available=in_time,
        deadline=one.deadline,
        possible_at=possible,
        detail=detail,
    )
