from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.health.trend import (
    Concern,
    Sample,
    TrendPolicy,
    crossing,
    line_of,
    new_warnings,
    next_concern,
    next_concerns,
)

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WEDDING = NOW + timedelta(hours=10)
POLICY = TrendPolicy()
FRESH = Concern(metric="response_time")
LEVELS = st.floats(0, 1e5, allow_nan=False)


def points(values: list[float]) -> list[tuple[datetime, float]]:
    return [(NOW + (index - len(values) + 1) * MINUTE, value) for index, value in enumerate(values)]


def samples(values: list[float], error_rate: float = 0.0) -> list[Sample]:
    return [Sample(at=at, response_ms=value, error_rate=error_rate) for at, value in points(values)]


def follow(
    values: list[float], threshold: float = 1000, wedding: datetime | None = WEDDING, was: Concern = FRESH
) -> list[Concern]:
    """The concern after each of these looks, a minute apart."""
    found, seen = [], samples(values)
    for count in range(1, len(seen) + 1):
        now = seen[count - 1].at
        was = next_concern(was, seen[:count][-POLICY.keep :], threshold, wedding, now, POLICY)
        found.append(was)
    return found


@given(LEVELS, st.floats(-100, 100, allow_nan=False), st.integers(2, 40))
def test_a_straight_line_is_found_exactly(level: float, slope: float, count: int) -> None:
    line = line_of(points([level + slope * (index - count + 1) for index in range(count)]))
    assert line is not None
    assert line.slope_per_hour == pytest.approx(slope * 60, abs=1e-4)
    assert line.level == pytest.approx(level, abs=1e-4)


@given(LEVELS, st.floats(0.5, 100), st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=4, max_size=4), st.data())
def test_a_fifth_of_wild_looks_does_not_turn_the_line(
    level: float, slope: float, wild: list[float], data: st.DataObject
) -> None:
    values = [level + slope * index for index in range(24)]
    for value in wild:
        values[data.draw(st.integers(0, 23))] = value
    line = line_of(points(values))
    assert line is not None
    assert line.slope_per_hour == pytest.approx(slope * 60, rel=0.6)


@given(st.lists(LEVELS, min_size=2, max_size=48))
def test_a_line_never_crosses_before_now_and_tau_is_a_share(values: list[float]) -> None:
    line = line_of(points(values))
    assert line is not None
    assert -1 <= line.tau <= 1
    at = crossing(line, 500, NOW, POLICY.reach)
    assert at is None or NOW <= at <= NOW + line.span * POLICY.reach


@given(st.lists(LEVELS, min_size=1, max_size=48), st.floats(1, 1e4))
def test_the_line_moves_with_its_unit(values: list[float], factor: float) -> None:
    one, other = line_of(points(values)), line_of(points([value * factor for value in values]))
    if one is None or other is None:
        assert one is other is None
    else:
        assert other.level == pytest.approx(one.level * factor, rel=1e-6, abs=1e-3)


def test_looks_of_one_moment_have_no_line() -> None:
    assert line_of([(NOW, 1.0), (NOW, 2.0)]) is None
    assert line_of([]) is None


def test_a_rise_that_crosses_before_the_wedding_is_warned_of() -> None:
    (*_, last) = follow([100 + 10 * index for index in range(20)])
    assert last.warned is not None
    assert last.warned.crosses_at == pytest.approx(NOW + 71 * MINUTE, abs=timedelta(seconds=1))
    assert last.warned.slope_per_hour == pytest.approx(600)
    assert last.warned.value == pytest.approx(290)


@pytest.mark.parametrize("wedding", [None, NOW + timedelta(minutes=30), NOW - timedelta(hours=1)])
def test_a_crossing_after_the_wedding_is_nobodys_concern(wedding: datetime | None) -> None:
    assert follow([100 + 10 * index for index in range(20)], wedding=wedding)[-1].warned is None


@given(st.lists(st.floats(90, 110), min_size=20, max_size=48), st.booleans())
def test_a_level_service_is_never_warned_of_however_far_the_threshold_is(values: list[float], rises: bool) -> None:
    level = sorted(values) if rises else values
    assert all(concern.warned is None for concern in follow(level, threshold=1e6))


@given(st.lists(st.floats(0, 5000, allow_nan=False), min_size=10, max_size=40))
def test_a_warning_neither_comes_nor_goes_within_three_looks(values: list[float]) -> None:
    found = [concern.warned is not None for concern in follow(values)]
    turns = [index for index in range(1, len(found)) if found[index] != found[index - 1]]
    assert all(later - earlier >= POLICY.samples for earlier, later in itertools.pairwise(turns))


def test_a_warning_keeps_its_beginning_and_goes_once_the_service_recovers() -> None:
    found = follow([100 + 10 * index for index in range(20)] + [100.0] * 60)
    begun = [concern.warned.since for concern in found if concern.warned is not None]
    assert len(set(begun)) == 1
    assert found[-1].warned is None


def test_what_has_crossed_already_is_a_concern_from_now_on() -> None:
    last = follow([2000.0] * 12)[-1]
    assert last.warned is not None
    assert last.warned.crosses_at == NOW


def test_each_metric_has_its_own_concern_and_is_news_once() -> None:
    results = samples([100.0] * 12, error_rate=0.5)
    thresholds = {"response_time": 1000.0, "error_rate": 0.25}
    were: tuple[Concern, ...] = ()
    news: list[Any] = []
    for _ in range(5):
        now_are = next_concerns(were, results, thresholds, WEDDING, NOW, POLICY)  # type: ignore[arg-type]
        news += new_warnings(were, now_are)
        were = now_are
    assert [concern.metric for concern in were] == ["response_time", "error_rate"]
    assert [warned.metric for warned in news] == ["error_rate"]
