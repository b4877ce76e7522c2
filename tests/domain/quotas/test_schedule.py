from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.quotas import quota as q
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.forecast import Demand, predicted
from wedsync.domain.quotas.headers import blocked
from wedsync.domain.quotas.quota import Quota, QuotaPolicy, Reservation
from wedsync.domain.quotas.schedule import Schedule, ScheduleRequest, schedule

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
STRIPE = ("stripe", "default")


def after(**time: float) -> datetime:
    return NOW + timedelta(**time)


def limits(**windows: int) -> QuotaPolicy:
    return q.policy_of({f"per_{name}": limit for name, limit in windows.items()})


def asked(
    *requests: ScheduleRequest,
    rule: QuotaPolicy | None = None,
    quota: Quota | None = None,
    demand: tuple[Demand, ...] = (),
    ceremonies: dict[str, datetime] | None = None,
) -> Schedule:
    quotas = {STRIPE: quota} if quota else {}
    return schedule(requests, {STRIPE: rule or limits(hour=100)}, quotas, demand, ceremonies or {}, NOW)


def wants(id_: str = "a", calls: int = 10, **more: Any) -> ScheduleRequest:
    return ScheduleRequest(id=id_, service="stripe", calls=calls, **more)


def planned(calls: int, at: datetime) -> Demand:
    return Demand(service="stripe", at=at, calls=calls)


# -- forecast


def test_the_plans_calls_are_held_against_each_window() -> None:
    demand = [planned(40, after(days=14, minutes=m)) for m in range(3)]
    found = predicted(demand, {STRIPE: limits(second=1, hour=100, day=1000)}, {})
    hour = next(one for one in found if one.window == "hour")
    assert (hour.calls, hour.limit, hour.over_by, hour.weddings) == (120, 100, 20, 3)
    assert (hour.starts_at, hour.ends_at) == (after(days=14), after(days=14, hours=1))
    assert [one.over_by for one in found if one.window == "second"] == [0, 0, 0]
    assert [one.over_by for one in found if one.window == "day"] == [0]


def test_what_is_reserved_counts_too() -> None:
    kept = Reservation(id="r", wedding_id="w", calls=80, starts_at=after(hours=1), ends_at=after(hours=3))
    quota = Quota(service="stripe", reservations=(kept,))
    (found,) = predicted([planned(70, after(hours=1, minutes=5))], {STRIPE: limits(hour=100)}, {STRIPE: quota})
    assert (found.reserved, found.over_by) == (40, 10)


def test_a_service_without_limits_predicts_nothing() -> None:
    assert predicted([planned(70, NOW)], {}, {}) == []


# -- schedule


def test_what_there_is_room_for_goes_at_once() -> None:
    found = asked(wants(calls=60), wants("b", calls=40))
    assert [one.id for one in found.immediate] == ["a", "b"]
    assert (found.delayed, found.conflicts, found.estimated_completion) == ((), (), NOW)


def test_what_may_wait_is_spread_over_the_windows_with_room() -> None:
    found = asked(wants(calls=250))
    (late,) = found.delayed
    assert (late.starts_at, late.ends_at) == (NOW, after(hours=2))
    assert found.estimated_completion == after(hours=2)


def test_what_must_not_be_spread_waits_for_a_window_with_room_for_all() -> None:
    found = asked(wants(calls=90, may_be_spread=False), demand=(planned(50, after(minutes=30)),))
    assert [(one.starts_at, one.ends_at) for one in found.delayed] == [(after(hours=1), after(hours=1))]
    never = asked(wants(calls=101, may_be_spread=False))
    assert never.conflicts[0].possible_at is None


def test_running_plans_and_calls_made_and_reservations_take_room() -> None:
    quota, _ = acquire(Quota(service="stripe"), limits(hour=100), 20, NOW)
    kept = Reservation(id="r", wedding_id="w", calls=30, starts_at=NOW, ends_at=after(hours=1))
    quota = quota.model_copy(update={"reservations": (kept,)})
    found = asked(wants(calls=31), quota=quota, demand=(planned(20, after(minutes=10)),))
    assert [one.ends_at for one in found.delayed] == [after(hours=1)]
    assert asked(wants(calls=30), quota=quota, demand=(planned(20, after(minutes=10)),)).delayed == ()


def test_a_deadline_that_can_not_be_met_says_what_there_is_and_when_it_could_be() -> None:
    found = asked(wants(calls=150, deadline=after(minutes=30)))
    (conflict,) = found.conflicts
    assert (conflict.available, conflict.possible_at) == (100, after(hours=1))
    assert "stripe has room for 100 of 150 calls in time" in conflict.detail


def test_the_urgent_come_first() -> None:
    found = asked(wants("low", 80, priority="low"), wants("day", 80, priority="wedding_day"))
    assert [one.id for one in found.immediate] == ["day"]
    assert [one.id for one in found.delayed] == ["low"]


def test_a_wedding_within_two_days_goes_before_all() -> None:
    found = asked(
        wants("other", 80), wants("near", 80, priority="low", wedding_id="w"), ceremonies={"w": after(hours=40)}
    )
    assert [one.id for one in found.immediate] == ["near"]
    (adjusted,) = found.priority_adjustments
    assert (adjusted.id, adjusted.was, adjusted.becomes) == ("near", "low", "wedding_day")


def test_a_deadline_raises_a_priority_where_nobody_else_misses_theirs() -> None:
    patient, pressed = wants("patient", 80), wants("pressed", 80, priority="low", deadline=after(minutes=10))
    found = asked(patient, pressed)
    assert [one.id for one in found.immediate] == ["pressed"]
    assert [(one.id, one.becomes) for one in found.priority_adjustments] == [("pressed", "normal")]
    both = asked(patient.model_copy(update={"deadline": after(minutes=10)}), pressed)
    assert [one.id for one in both.conflicts] == ["pressed"]


def test_nothing_is_planned_while_the_vendor_takes_nothing() -> None:
    found = asked(wants(calls=5), quota=blocked(Quota(service="stripe"), after(minutes=20), NOW))
    assert [one.starts_at for one in found.delayed] == [after(minutes=20)]


def test_a_service_without_limits_takes_all_at_once() -> None:
    found = schedule([wants(calls=50_000)], {}, {}, [], {}, NOW)
    assert [one.ends_at for one in found.immediate] == [NOW]


@pytest.mark.parametrize("priority", ["wedding_day", "high", "normal", "low"])
def test_every_request_is_told_of_once(priority: Any) -> None:
    requests = [wants(str(n), 40, priority=priority, deadline=after(hours=n)) for n in range(12)]
    found = asked(*requests)
    told = [one.id for one in (*found.immediate, *found.delayed, *found.conflicts)]
    assert sorted(told) == sorted(one.id for one in requests)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.sampled_from(["high", "normal", "low"])), min_size=1, max_size=12))
def test_no_window_is_ever_planned_above_its_limit(sizes: list[tuple[int, Any]]) -> None:
    requests = [wants(str(n), calls, priority=priority) for n, (calls, priority) in enumerate(sizes)]
    found = asked(*requests, rule=limits(hour=50))
    placed = sum(one.calls for one in (*found.immediate, *found.delayed))
    assert placed == sum(calls for calls, _ in sizes)
    hours = (found.estimated_completion - NOW) // timedelta(hours=1)
    assert hours * 50 < placed <= (hours + 1) * 50


@pytest.mark.parametrize("deadline", [None, timedelta(minutes=1), timedelta(days=20)])
def test_as_much_as_may_be_asked_is_answered_soon(deadline: timedelta | None) -> None:
    due = NOW + deadline if deadline is not None else None
    requests = [wants(str(n), 100_000, priority="low", deadline=due) for n in range(200)]
    began = time.process_time()
    found = asked(*requests, rule=limits(minute=600))
    assert time.process_time() - began < 10
    assert len(found.delayed) + len(found.conflicts) == 200
    # All of the month's windows are full but for the last few.
    assert sum(one.calls for one in found.delayed) + sum(one.available for one in found.conflicts) <= 44_641 * 600
    assert not any("asked at once" in one.detail for one in found.conflicts)


def test_what_is_too_much_to_look_at_is_a_conflict_that_says_so() -> None:
    requests = [wants("high", 6_000, priority="high"), wants("low", 60_000, priority="low")]
    found = schedule(requests, {STRIPE: limits(minute=600)}, {}, [], {}, NOW, checks=50)
    assert [one.id for one in found.delayed] == ["high"]
    (conflict,) = found.conflicts
    assert "ask for fewer requests" in conflict.detail
    assert conflict.available == 40 * 600


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 130), st.booleans(), st.integers(0, 300), st.sampled_from(["high", "normal", "low"])),
        max_size=12,
    )
)
def test_no_request_waits_for_a_window_while_an_earlier_one_has_room(asks: list[tuple[int, bool, int, Any]]) -> None:
    rule, taken = limits(minute=40, hour=100), dict[tuple[float, datetime], int]()
    requests = [
        wants(
            str(n), min(calls, 130 if spread else 40), may_be_spread=spread, priority=rank, not_before=after(minutes=at)
        )
        for n, (calls, spread, at, rank) in enumerate(asks)
    ]
    found = {one.id: one for one in asked(*requests, rule=rule).delayed + asked(*requests, rule=rule).immediate}
    order = sorted(requests, key=lambda one: ["high", "normal", "low"].index(one.priority))
    for one in order:
        assert one.not_before is not None
        at, left, moments = one.not_before, one.calls, list[datetime]()
        while left:
            starts = [(length, q.start_of(at, length)) for length in (60.0, 3600.0)]
            room = min(limit - taken.get(place, 0) for limit, place in zip((40, 100), starts, strict=True))
            part = min(room, left) if one.may_be_spread else left * (room >= left)
            if part:
                moments.append(at)
                taken.update({place: taken.get(place, 0) + part for place in starts})
                left -= part
            at = q.start_of(at, 60) + timedelta(minutes=1)
        assert (found[one.id].starts_at, found[one.id].ends_at) == (moments[0], moments[-1])
