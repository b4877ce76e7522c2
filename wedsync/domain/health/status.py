"""Rate a service: healthy, degraded, unhealthy, down. Pure; time is an argument.

The status falls quickly and recovers slowly: thresholds to recover are stricter than those to fall, so that a service
on the edge does not flutter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.vendor_config import Dependency
from wedsync.domain.value import Value

Status = Literal["healthy", "degraded", "unhealthy", "down"]
Impact = Literal["none", "minor", "major", "critical"]
ORDER: tuple[Status, ...] = ("healthy", "degraded", "unhealthy", "down")


class HealthPolicy(Value):
    """Thresholds at which a service falls and recovers."""

    #: Error rates (0 to 1) from which it is at least degraded, unhealthy.
    degraded_at: Annotated[float, Field(gt=0, le=1)] = 0.05
    unhealthy_at: Annotated[float, Field(gt=0, le=1)] = 0.25
    #: Error rates below which it no longer is.
    degraded_until: Annotated[float, Field(ge=0, le=1)] = 0.02
    unhealthy_until: Annotated[float, Field(ge=0, le=1)] = 0.10
    #: Failures in a row that mean down, and successes in a row that mean up again.
    down_after: Annotated[int, Field(ge=1)] = 3
    up_after: Annotated[int, Field(ge=1)] = 2
    #: Seconds from a first failed probe to the next; then, while it goes on failing, between the beginnings of probes.
    confirm_seconds: Annotated[float, Field(gt=0)] = 1.0
    recheck_seconds: Annotated[float, Field(gt=0)] = 5.0
    #: The weight of the newest probe in the smoothed error rate and response time.
    smoothing: Annotated[float, Field(gt=0, le=1)] = 0.2


class Health(Value):
    """A service's health, carried from probe to probe."""

    status: Status = "healthy"
    since: datetime
    checked_at: datetime | None = None
    error_rate: float = 0.0
    response_ms: float = 0.0
    failures_in_row: int = 0
    successes_in_row: int = 0
    #: Counted since the status last became healthy.
    error_count: int = 0
    detail: str = ""


class ProbeResult(Value):
    """One measurement of a service: a probe, or several real calls taken together."""

    ok: bool
    response_ms: float = 0.0
    detail: str = ""


def next_health(health: Health, result: ProbeResult, now: datetime, policy: HealthPolicy) -> Health:
    """Return the health after one more probe."""
    part = policy.smoothing
    rate = (1 - part) * health.error_rate + part * (0.0 if result.ok else 1.0)
    response = (
        result.response_ms if not health.response_ms else (1 - part) * health.response_ms + part * result.response_ms
    )
    failures = 0 if result.ok else health.failures_in_row + 1
    successes = health.successes_in_row + 1 if result.ok else 0
    status = _next_status(health.status, rate, failures, successes, policy)
    changed = status != health.status
    errors = 0 if changed and status == "healthy" else health.error_count + (not result.ok)
    return Health(
        status=status,
        since=now if changed else health.since,
        checked_at=now,
        # Once it is up again, what came before the outage says nothing about now.
        error_rate=min(rate, policy.unhealthy_at) if health.status == "down" and status != "down" else rate,
        response_ms=response,
        failures_in_row=failures,
        successes_in_row=successes,
        error_count=errors,
        detail=result.detail,
    )


def _next_status(was: Status, rate: float, failures: int, successes: int, policy: HealthPolicy) -> Status:
    if failures >= policy.down_after:
        return "down"
    if was == "down" and successes < policy.up_after:
        return "down"
    if rate >= policy.unhealthy_at or (was in ("unhealthy", "down") and rate >= policy.unhealthy_until):
        return "unhealthy"
    if rate >= policy.degraded_at or (was != "healthy" and rate >= policy.degraded_until):
        return "degraded"
    return "healthy"


def seconds_to_next_probe(health: Health, result: ProbeResult, interval_seconds: float, policy: HealthPolicy) -> float:
    """Return the seconds from the end of `result`, which led to `health`, until the next probe is due.

    The wait counts the time that the probe took, so that an outage that hangs is found as soon as one that answers.
    """
    if result.ok:
        return interval_seconds
    if health.status == "down":
        return min(policy.recheck_seconds, interval_seconds)
    return min(_seconds_to_confirm(health.failures_in_row, result, policy), interval_seconds)


def _seconds_to_confirm(failures: int, result: ProbeResult, policy: HealthPolicy) -> float:
    if failures <= 1:
        return policy.confirm_seconds
    return max(policy.confirm_seconds, policy.recheck_seconds - result.response_ms / 1000)


def failures_in_row(were: Mapping[Endpoint, int], results: Mapping[Endpoint, ProbeResult]) -> dict[Endpoint, int]:
    """Count the probes in a row that each endpoint has failed; one that answered, or was changed, begins anew."""
    return {endpoint: were.get(endpoint, 0) + 1 for endpoint, result in results.items() if not result.ok}


def seconds_until_certain(
    failures: Mapping[Endpoint, int], results: Mapping[Endpoint, ProbeResult], policy: HealthPolicy
) -> float | None:
    """Return the seconds to the next probe while a failing endpoint is not yet known to be down; None: none is."""
    waits = [
        _seconds_to_confirm(times, results[endpoint], policy)
        for endpoint, times in failures.items()
        if times < policy.down_after
    ]
    return min(waits, default=None)


def by_circuits(phases: Collection[str]) -> Status:
    """Derive a service's status from the phases of all its endpoints' circuits: down when none takes calls."""
    if phases and all(phase in ("open", "half_open") for phase in phases):
        return "down"
    return "healthy" if all(phase == "closed" for phase in phases) else "degraded"


def wedding_impact(
    status: Status, dependency: Dependency, weddings: int, days_to_next: float | None, has_backup: bool
) -> Impact:
    """Rate what the status means to the `weddings` that depend on the service, the next in `days_to_next` days."""
    if status == "healthy" or not weddings or dependency == "optional":
        return "none" if status == "healthy" or not weddings else "minor"
    is_bad = status in ("unhealthy", "down")
    is_near = days_to_next is not None and days_to_next <= 2
    if not is_bad or has_backup:
        return "major" if is_bad and is_near and dependency == "critical" else "minor"
    return "critical" if is_near and dependency == "critical" else "major"


def worst(statuses: list[Status]) -> Status:
    """Return the worst status; healthy when there is none."""
    return max(statuses, key=ORDER.index, default="healthy")
