from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.quotas import quota as q
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.quota import Quota, QuotaPolicy, Reservation, Throttle, WindowLimit

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
EMPTY = Quota(service="stripe")


def policy(**limits: int) -> QuotaPolicy:
    return q.policy_of({f"per_{name}": limit for name, limit in limits.items()})


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def drain(
    quota: Quota, rule: QuotaPolicy, seconds: float, *, every: float = 0.005, start: float = 0.0, **who: Any
) -> tuple[Quota, list[float]]:
    """Somebody who wants more all the time; when each call was given, in seconds."""
    given_at: list[float] = []
    for tick in range(round(seconds / every)):
        at = round(start + tick * every, 6)
        quota, grant = acquire(quota, rule, 5, after(at), **who)
        if grant.not_before is not None:
            first = (grant.not_before - NOW).total_seconds()
            given_at += [round(first + place * grant.pace_seconds, 6) for place in range(grant.calls)]
    return quota, sorted(given_at)


def most_within(moments: list[float], length: float) -> int:
    return max((bisect_left(moments, one + length - 1e-9) - i for i, one in enumerate(moments)), default=0)


def test_what_has_no_limit_is_given() -> None:
    _, grant = acquire(EMPTY, QuotaPolicy(), 7, NOW)
    assert (grant.calls, grant.left, grant.until) == (7, None, None)


def test_a_manifest_s_quotas_are_read() -> None:
    rule = q.policy_of({"per_second": 25, "burst_per_second": 5, "per_day": 1000, "concurrent": 3})
    assert rule.windows == (WindowLimit(window="second", limit=25, burst=5), WindowLimit(window="day", limit=1000))


@pytest.mark.parametrize(
    ("limits", "seconds", "least"), [({"second": 20}, 5, 0.87), ({"second": 200}, 3, 0.9), ({"minute": 60}, 180, 0.96)]
)
def test_the_limit_is_never_passed_in_any_stretch_and_nearly_all_of_it_is_used(
    limits: dict[str, int], seconds: float, least: float
) -> None:
    ((name, limit),) = limits.items()
    length = q.SECONDS[name]  # type: ignore[index]
    _, moments = drain(EMPTY, policy(**limits), seconds, every=length / 1000)
    assert most_within(moments, length) <= limit
    by_window = [sum(1 for one in moments if int(one / length + 1e-9) == k) for k in range(int(seconds / length))]
    assert max(by_window) <= limit
    assert sum(by_window) >= least * limit * len(by_window)


@settings(max_examples=30, deadline=None)
@given(
    limit=st.integers(1, 300),
    asks=st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 40), st.sampled_from([1, 2, 3, 4])), max_size=60),
)
def test_whoever_asks_for_what_no_stretch_of_a_second_holds_more_than_its_limit(
    limit: int, asks: list[tuple[float, int, int]]
) -> None:
    quota, at, moments = EMPTY, 0.0, list[float]()
    for pause, wanted, priority in asks:
        at += pause
        quota, grant = acquire(quota, policy(second=limit), wanted, after(at), priority=priority)
        assert 0 <= grant.calls <= wanted
        assert (grant.until is None) == (grant.calls > 0)
        if grant.not_before is not None:
            assert grant.not_before - after(at) <= timedelta(seconds=q.HORIZON_SECONDS)
            first = (grant.not_before - NOW).total_seconds()
            moments += [first + place * grant.pace_seconds for place in range(grant.calls)]
    assert most_within(sorted(moments), 0.999) <= limit


@settings(max_examples=30, deadline=None)
@given(
    limit=st.integers(1, 200), start=st.floats(0, 5), taken=st.integers(0, 60), priority=st.sampled_from([1, 2, 3, 4])
)
def test_the_moment_named_is_when_a_call_can_be_had(limit: int, start: float, taken: int, priority: int) -> None:
    rule = policy(second=limit, minute=limit * 20)
    quota, _ = drain(EMPTY, rule, taken / 100, start=start, every=0.003)
    at = after(start + taken / 100)
    for _ in range(5):
        quota, grant = acquire(quota, rule, 1, at, priority=priority)
        if grant.calls:
            return
        assert grant.until is not None
        assert grant.until > at
        at = grant.until
    raise AssertionError("five moments were named, and none was one")


def test_every_window_counts() -> None:
    rule = policy(second=50, day=60)
    quota, moments = drain(EMPTY, rule, 10)
    assert len(moments) <= 60
    _, grant = acquire(quota, rule, 1, after(10))
    assert (grant.why, grant.until) == ("day", datetime(2027, 6, 1, 19, 12, tzinfo=UTC))
    _, grant = acquire(quota, rule, 1, datetime(2027, 6, 2, tzinfo=UTC))
    assert grant.calls == 1


def test_wedding_day_calls_find_room_where_others_wait() -> None:
    rule = policy(second=100)
    quota, _ = drain(EMPTY, rule, 0.4, every=0.001)
    quota, _ = acquire(quota, rule, 100, after(0.4))
    _, ordinary = acquire(quota, rule, 1, after(0.4))
    _, urgent = acquire(quota, rule, 1, after(0.4), priority=q.WEDDING_DAY)
    assert (ordinary.calls, urgent.calls) == (0, 1)


def test_once_wedding_day_calls_come_the_line_makes_room_for_more_of_them() -> None:
    rule = policy(second=50)
    quota, moments, waits = EMPTY, list[float](), list[float]()
    for tick in range(2000):
        at = round(tick * 0.01, 6)
        quota, grant = acquire(quota, rule, 20, after(at))
        if grant.not_before is not None:
            first = (grant.not_before - NOW).total_seconds()
            moments += [first + place * grant.pace_seconds for place in range(grant.calls)]
        if tick % 20 == 0:
            quota, urgent = acquire(quota, rule, 1, after(at), priority=q.WEDDING_DAY)
            moment = urgent.not_before or urgent.until
            assert moment is not None
            waits.append((moment - after(at)).total_seconds())
            if urgent.calls:
                moments.append(at + waits[-1])
    assert most_within(sorted(moments), 0.999) <= 50
    assert max(waits[20:]) == 0


def test_what_is_left_to_others_is_given_out_at_the_end() -> None:
    rule = policy(hour=100)
    quota, grant = acquire(EMPTY, rule, 100, NOW, priority=4)
    assert grant.calls == 75
    _, refused = acquire(quota, rule, 1, after(60), priority=4)
    assert refused.until == after(3600 * 0.8)
    _, grant = acquire(quota, rule, 100, after(3600 * 0.8), priority=4)
    assert grant.calls == 25


def test_a_hand_on_the_tap_touches_no_wedding_day() -> None:
    rule = policy(hour=100)
    quota = EMPTY.model_copy(update={"throttle": Throttle(percent=10, until=after(600))})
    quota, grant = acquire(quota, rule, 50, NOW)
    assert grant.calls == 10
    assert acquire(quota, rule, 1, NOW)[1].calls == 0
    assert acquire(quota, rule, 50, NOW, priority=q.WEDDING_DAY)[1].calls == 50
    assert acquire(quota, rule, 20, after(601))[1].calls == 20


def crowded(quota: Quota, rule: QuotaPolicy, seconds: float, **who: Any) -> tuple[Quota, list[float], list[float]]:
    """Ordinary callers and others, all of whom want more all the time: the moments of either."""
    ordinary, others = list[float](), list[float]()
    for tick in range(round(seconds / 0.01)):
        for moments, asks in ((ordinary, {}), (others, who)):
            quota, grant = acquire(quota, rule, 2, after(tick * 0.01), **asks)
            if grant.not_before is not None:
                first = (grant.not_before - NOW).total_seconds()
                moments += [first + place * grant.pace_seconds for place in range(grant.calls)]
    return quota, sorted(ordinary), sorted(others)


@pytest.mark.parametrize("percent", [10, 50])
def test_wedding_days_have_what_a_throttle_takes_from_others(percent: int) -> None:
    quota = EMPTY.model_copy(update={"throttle": Throttle(percent=percent)})
    _, ordinary, urgent = crowded(quota, policy(second=20), 20, priority=q.WEDDING_DAY)
    assert most_within(sorted(ordinary + urgent), 0.999) <= 20
    assert 0.7 * percent / 100 * 400 <= len(ordinary) <= percent / 100 * 400 + 1
    assert len(ordinary) + len(urgent) >= 0.8 * 400


def test_whose_calls_are_reserved_waits_for_nobody_whom_that_holds_back() -> None:
    kept = Reservation(id="r1", wedding_id="w1", calls=28_800, starts_at=NOW, ends_at=after(3600))
    quota = EMPTY.model_copy(update={"reservations": (kept,)})
    _, ordinary, reserved = crowded(quota, policy(second=10), 60, wedding_id="w1")
    assert most_within(sorted(ordinary + reserved), 0.999) <= 10
    assert len(reserved) >= 0.6 * 600
    assert len(drain(quota, policy(second=10), 60, every=0.01, wedding_id="w1")[1]) >= 0.85 * 600


def test_a_throttle_that_is_taken_away_leaves_nothing_behind() -> None:
    quota, rule = EMPTY.model_copy(update={"throttle": Throttle(percent=0)}), policy(minute=600)
    for call in range(20):
        quota, grant = acquire(quota, rule, 1, after(call / 10), priority=q.WEDDING_DAY)
        assert grant.calls == 1
    assert acquire(quota.model_copy(update={"throttle": None}), rule, 1, after(3))[1].calls == 1


def kept(calls: int = 30, starts: float = 1800, ends: float = 5400, **changes: Any) -> Quota:
    one = Reservation(id="r1", wedding_id="w1", calls=calls, starts_at=after(starts), ends_at=after(ends), **changes)
    return EMPTY.model_copy(update={"reservations": (one,)})


def test_what_is_reserved_is_there_for_its_wedding_however_much_others_want() -> None:
    rule = policy(hour=100)
    quota, grant = acquire(kept(), rule, 100, NOW, priority=q.WEDDING_DAY)
    assert grant.calls == 70
    quota, grant = acquire(quota, rule, 40, after(1800), wedding_id="w1")
    assert grant.calls == 30
    assert quota.reservations[0].used == 30


def test_a_reservation_of_another_hour_holds_nothing_back_and_one_that_is_over_is_given_back() -> None:
    rule = policy(hour=100)
    assert acquire(kept(starts=7200, ends=9000), rule, 92, NOW)[1].calls == 92
    assert acquire(kept(starts=-3600, ends=-60), rule, 92, NOW)[1].calls == 92


def test_the_idle_share_of_a_minute_is_lent() -> None:
    quota = kept(calls=120, starts=0, ends=120)
    rule = QuotaPolicy(windows=(WindowLimit(window="minute", limit=100, burst=50),))
    assert acquire(quota, rule, 100, after(0.1))[1].calls == 20
    assert acquire(quota, rule, 100, after(31))[1].calls == 50


@pytest.mark.parametrize("window", ["second", "minute", "hour", "day"])
def test_a_throttle_says_when_it_ends(window: str) -> None:
    rule, until = policy(**{window: 100}), after(1200)
    shut = EMPTY.model_copy(update={"throttle": Throttle(percent=0, until=until)})
    _, refused = acquire(shut, rule, 1, NOW)
    assert (refused.until, refused.why) == (until, "throttled")
    assert acquire(shut, rule, 1, until)[1].calls == 1
    endless = EMPTY.model_copy(update={"throttle": Throttle(percent=0)})
    _, refused = acquire(endless, rule, 1, NOW)
    assert refused.until == after(300)


def test_a_share_that_is_used_comes_again_with_the_throttle_s_end_or_the_next_window() -> None:
    for ends, comes in ((600, 600), (7200, 3600)):
        quota = EMPTY.model_copy(update={"throttle": Throttle(percent=10, until=after(ends))})
        quota, _ = acquire(quota, policy(hour=100), 10, NOW)
        _, refused = acquire(quota, policy(hour=100), 1, NOW)
        assert (refused.until, refused.why) == (after(comes), "throttled")
    full, _ = acquire(EMPTY, policy(hour=100), 100, NOW, priority=q.WEDDING_DAY)
    quota = full.model_copy(update={"throttle": Throttle(percent=10, until=after(600))})
    _, refused = acquire(quota, policy(hour=100), 1, NOW)
    assert (refused.until, refused.why) == (after(3600), "hour")


def test_what_is_kept_of_a_second_is_free_from_its_second_half() -> None:
    quota = kept(calls=3600, starts=0, ends=3600)
    _, refused = acquire(quota, policy(second=1), 1, NOW)
    assert refused.until == after(0.5)
    assert acquire(quota, policy(second=1), 1, after(0.5))[1].calls == 1


@pytest.mark.parametrize("window", ["second", "minute", "hour", "day"])
def test_the_greatest_limit_is_one(window: str) -> None:
    assert acquire(EMPTY, policy(**{window: 1_000_000_000}), 5, NOW)[1].calls == 5


@pytest.mark.parametrize(("limit", "burst"), [(60, 60), (60, 30), (1, 1), (10, 1_000_000)])
def test_whatever_may_come_at_once_half_of_a_limit_can_be_used_and_none_is_passed(limit: int, burst: int) -> None:
    rule = QuotaPolicy(windows=(WindowLimit(window="minute", limit=limit, burst=burst),))
    _, moments = drain(EMPTY, rule, 600, every=0.05)
    assert most_within(moments, 59.999) <= limit
    assert len(moments) >= 0.5 * limit * 10


def test_who_asks_for_none_is_given_none_and_told_what_is_left() -> None:
    quota, grant = acquire(EMPTY, policy(day=100), 0, NOW)
    assert (quota, grant.calls, grant.left) == (EMPTY, 0, 100)


@settings(max_examples=50, deadline=None)
@given(
    limit=st.integers(2, 60),
    percent=st.sampled_from([None, 0, 10, 50, 99]),
    reserved=st.integers(0, 40),
    asks=st.lists(
        st.tuples(st.floats(0, 0.3), st.integers(1, 10), st.sampled_from([1, 3, 4]), st.sampled_from(["", "w1"])),
        max_size=80,
    ),
)
def test_whoever_is_held_back_or_goes_ahead_no_second_holds_more_than_its_limit(
    limit: int, percent: int | None, reserved: int, asks: list[tuple[float, int, int, str]]
) -> None:
    quota = kept(calls=limit * reserved * 36 + 1, starts=0, ends=3600)
    if percent is not None:
        quota = quota.model_copy(update={"throttle": Throttle(percent=percent)})
    at, moments = 0.0, list[float]()
    for pause, wanted, priority, wedding_id in asks:
        at += pause
        quota, grant = acquire(quota, policy(second=limit), wanted, after(at), priority=priority, wedding_id=wedding_id)
        if grant.not_before is not None:
            first = (grant.not_before - NOW).total_seconds()
            moments += [first + place * grant.pace_seconds for place in range(grant.calls)]
    assert most_within(sorted(moments), 0.999) <= limit
