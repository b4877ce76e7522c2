"""Decide when a delivery is tried again. Pure.

`exponential` (the default, 8 attempts): at once, then after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h: 27 h 35 min
in all. More attempts repeat the last wait. `fixed`: every 15 minutes. Each wait is shortened by up to a tenth at
random, so that endpoints don't wake together.
"""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from wedsync.domain.value import Value

Backoff = Literal["exponential", "fixed"]

_EXPONENTIAL = tuple(
    timedelta(seconds=seconds) for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
)
_FIXED = timedelta(minutes=15)
#: Clocks that are compared may differ by so much.
_SLACK = timedelta(seconds=1)
#: The least time for the schedule, however soon an event ends to be useful.
_SHORTEST = timedelta(seconds=5)
JITTER = 0.1
#: A longer `Retry-After` is not obeyed.
RETRY_AFTER_CAP = timedelta(hours=1)
#: The wait after a 429 that names none.
THROTTLED_WAIT = timedelta(seconds=30)


class DeliveryRetryPolicy(Value):
    """Number of a delivery's attempts, and the times between them."""

    max_attempts: Annotated[int, Field(ge=1, le=20, strict=True)] = 8
    backoff: Backoff = "exponential"


def waits(policy: DeliveryRetryPolicy) -> tuple[timedelta, ...]:
    """Return the waits between the attempts: one fewer than there are attempts."""
    count = policy.max_attempts - 1
    if policy.backoff == "fixed":
        return (_FIXED,) * count
    return tuple(_EXPONENTIAL[min(index, len(_EXPONENTIAL) - 1)] for index in range(count))


def total(policy: DeliveryRetryPolicy) -> timedelta:
    """Return the time from the first attempt to the last."""
    return sum(waits(policy), timedelta())


def passed(policy: DeliveryRetryPolicy, elapsed: timedelta) -> int:
    """Count the policy's waits, none of them compressed, that fit into so much time, jitter granted."""
    ends = itertools.accumulate(waits(policy))
    return sum(elapsed >= end * (1 - JITTER) - _SLACK for end in ends)


def wait_after(
    policy: DeliveryRetryPolicy,
    attempt: int,
    *,
    jitter: float,
    now: datetime,
    useful_until: datetime | None = None,
    retry_after: timedelta | None = None,
    most: timedelta | None = None,
) -> timedelta | None:
    """Return the wait after failed attempt number `attempt` (1, 2, ...); None: that was the last.

    `jitter` is in [0, 1). If the event is useful for less time than the rest of the schedule takes, the rest is
    compressed into that time. `most` shortens the wait further. `retry_after` lengthens it, up to `RETRY_AFTER_CAP`.
    """
    left = waits(policy)[attempt - 1 :]
    if not left:
        return None
    wait = left[0] * (1 - JITTER * jitter)
    if useful_until is not None and now < useful_until:
        share = (useful_until - now) / sum(left, timedelta())
        wait = max(_SHORTEST, wait * min(1.0, share))
    if most is not None:
        wait = max(_SHORTEST, min(wait, most))
    if retry_after is not None:
        wait = max(wait, min(retry_after, RETRY_AFTER_CAP))
    return wait


def warning_times(policy: DeliveryRetryPolicy, failing_since: datetime) -> dict[int, datetime]:
    """Return the moment at which each of these percents of the time until disabling has gone by."""
    whole = total(policy)
    return {percent: failing_since + whole * percent / 100 for percent in (50, 70, 90)}
