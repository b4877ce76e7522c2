"""Follow the trend of a service's probes, to warn before a threshold is crossed. Pure; time is an argument.

The line is the Theil-Sen estimator (https://doi.org/10.1080/01621459.1968.10480934): the median of the slopes of all
pairs, so that a few outliers do not turn it. Kendall's tau measures how steady it is: how many more pairs rise than
fall.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from wedsync.domain.value import Value

Metric = Literal["response_time", "error_rate"]


class TrendPolicy(Value):
    """Thresholds at which a trend is worth a warning."""

    #: How many probes are remembered, and how many are needed.
    keep: Annotated[int, Field(ge=3, le=200)] = 48
    least: Annotated[int, Field(ge=3)] = 8
    #: Kendall's tau from which a line is steady enough to warn, and below which a warning ends.
    steady_at: Annotated[float, Field(gt=0, le=1)] = 0.5
    steady_until: Annotated[float, Field(ge=0, le=1)] = 0.2
    #: A line is extended into the future by at most so many times the observed span.
    reach: Annotated[float, Field(gt=0)] = 24.0
    #: So many probes in a row must agree before a warning comes, and before it goes.
    samples: Annotated[int, Field(ge=1)] = 3


class Sample(Value):
    """Measurements of one probe."""

    at: datetime
    response_ms: float
    #: 0 to 1.
    error_rate: float


class Line(Value):
    """A straight line through some samples."""

    #: The metric's own unit per hour.
    slope_per_hour: float
    #: Its value at the newest sample.
    level: float
    #: -1 (always falls) to 1 (always rises).
    tau: float
    span: timedelta


class Warned(Value):
    """A threshold that a service will cross before a wedding that depends on it."""

    metric: Metric
    #: Milliseconds, or a rate from 0 to 1.
    value: float
    threshold: float
    slope_per_hour: float
    #: When the line reaches the threshold.
    crosses_at: datetime
    next_wedding_at: datetime
    since: datetime


class Concern(Value):
    """A metric's warning, or none, and how many probes in a row have contradicted it."""

    metric: Metric
    against: int = 0
    warned: Warned | None = None


def line_of(points: Sequence[tuple[datetime, float]]) -> Line | None:
    """Fit a line through points in order of time; None when no two moments differ."""
    slopes, rising, pairs = [], 0, 0
    for (one, low), (two, high) in itertools.combinations(points, 2):
        seconds = (two - one).total_seconds()
        if seconds > 0:
            slopes.append((high - low) / seconds)
            rising += (high > low) - (high < low)
            pairs += 1
    if not pairs:
        return None
    slope, newest = statistics.median(slopes), points[-1][0]
    level = statistics.median(value + slope * (newest - at).total_seconds() for at, value in points)
    span = newest - points[0][0]
    return Line(slope_per_hour=slope * 3600, level=level, tau=rising / pairs, span=span)


def crossing(line: Line, threshold: float, now: datetime, reach: float) -> datetime | None:
    """Return when the line reaches the threshold: now if it has; None if never, or beyond the line's reach."""
    if line.level >= threshold:
        return now
    if line.slope_per_hour <= 0:
        return None
    hours = (threshold - line.level) / line.slope_per_hour
    return now + timedelta(hours=hours) if hours * 3600 <= line.span.total_seconds() * reach else None


def next_concern(
    was: Concern,
    samples: Sequence[Sample],
    threshold: float,
    next_wedding_at: datetime | None,
    now: datetime,
    policy: TrendPolicy,
) -> Concern:
    """Return the concern after one more probe. It takes several probes in a row to come, and several to go."""
    found = _seen(was, samples, threshold, next_wedding_at, now, policy)
    if (found is None) == (was.warned is None):
        return Concern(metric=was.metric, warned=found)
    if was.against + 1 >= policy.samples:
        return Concern(metric=was.metric, warned=found)
    return was.model_copy(update={"against": was.against + 1})


def _seen(
    was: Concern,
    samples: Sequence[Sample],
    threshold: float,
    next_wedding_at: datetime | None,
    now: datetime,
    policy: TrendPolicy,
) -> Warned | None:
    """Return the warning that these samples alone give."""
    line = line_of([(sample.at, _value(sample, was.metric)) for sample in samples])
    if line is None or len(samples) < policy.least or next_wedding_at is None or next_wedding_at <= now:
        return None
    at = crossing(line, threshold, now, policy.reach)
    is_steady = line.tau >= (policy.steady_at if was.warned is None else policy.steady_until)
    if at is None or at >= next_wedding_at or not (is_steady or line.level >= threshold):
        return None
    return Warned(
        metric=was.metric,
        value=line.level,
        threshold=threshold,
        slope_per_hour=line.slope_per_hour,
        crosses_at=at,
        next_wedding_at=next_wedding_at,
        since=now if was.warned is None else was.warned.since,
    )


def next_concerns(
    were: Sequence[Concern],
    samples: Sequence[Sample],
    thresholds: Mapping[Metric, float],
    next_wedding_at: datetime | None,
    now: datetime,
    policy: TrendPolicy,
) -> tuple[Concern, ...]:
    """Return every metric's concern after one more probe, in the order of `thresholds`."""
    known = {concern.metric: concern for concern in were}
    return tuple(
        next_concern(known.get(metric, Concern(metric=metric)), samples, threshold, next_wedding_at, now, policy)
        for metric, threshold in thresholds.items()
    )


def new_warnings(were: Sequence[Concern], now_are: Sequence[Concern]) -> tuple[Warned, ...]:
    """Return the warnings that came with the newest probe."""
    warned = {concern.metric for concern in were if concern.warned is not None}
    return tuple(c.warned for c in now_are if c.warned is not None and c.metric not in warned)


def _value(sample: Sample, metric: Metric) -> float:
    return sample.response_ms if metric == "response_time" else sample.error_rate
