from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.health.status import (
    Health,
    HealthPolicy,
    ProbeResult,
    failures_in_row,
    next_health,
    seconds_to_next_probe,
    seconds_until_certain,
    wedding_impact,
    worst,
)
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.vendor_config import (
    CRITICAL_INTERVAL_SECONDS,
    HealthCheck,
    ServiceConfig,
    watched_every_seconds,
)

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
POLICY = HealthPolicy()


def follow(results: str, health: Health | None = None) -> list[str]:
    """Statuses after each look: `+` good, `-` bad."""
    now, found = health or Health(since=NOW), []
    for number, result in enumerate(results):
        now = next_health(now, ProbeResult(ok=result == "+", response_ms=10), NOW + timedelta(seconds=number), POLICY)
        found.append(now.status)
    return found


def test_it_falls_at_once_and_three_failures_in_a_row_are_down() -> None:
    assert follow("+-") == ["healthy", "degraded"]
    assert follow("---") == ["degraded", "unhealthy", "down"]


def test_one_success_is_not_up_again() -> None:
    assert follow("---+-++")[3:] == ["down", "down", "down", "unhealthy"]


def test_it_recovers_through_the_stricter_thresholds() -> None:
    found = follow("---" + "+" * 30)
    assert found[3:5] == ["down", "unhealthy"]
    order = [status for index, status in enumerate(found) if index == 0 or found[index - 1] != status]
    assert order == ["degraded", "unhealthy", "down", "unhealthy", "degraded", "healthy"]


def test_errors_are_counted_until_it_is_healthy() -> None:
    health = Health(since=NOW)
    for result in "--+-":
        health = next_health(health, ProbeResult(ok=result == "+"), NOW, POLICY)
    assert health.error_count == 3
    for _ in range(40):
        health = next_health(health, ProbeResult(ok=True), NOW, POLICY)
    assert (health.status, health.error_count) == ("healthy", 0)


@given(st.text("+-", max_size=80))
def test_three_bad_looks_are_always_down_and_a_long_good_run_always_healthy(results: str) -> None:
    assert follow(results + "---")[-1] == "down"
    assert follow(results + "+" * 40)[-1] == "healthy"


@pytest.mark.parametrize(
    ("status", "dependency", "weddings", "days", "backup", "impact"),
    [
        ("healthy", "critical", 9, 0.5, False, "none"),
        ("down", "critical", 0, None, False, "none"),
        ("down", "critical", 1, 0.5, False, "critical"),
        ("down", "critical", 1, 0.5, True, "major"),
        ("down", "critical", 1, 30, True, "minor"),
        ("down", "critical", 1, 30, False, "major"),
        ("unhealthy", "important", 1, 0.5, False, "major"),
        ("degraded", "critical", 1, 0.5, False, "minor"),
        ("down", "optional", 1, 0.5, False, "minor"),
    ],
)
def test_impact_on_weddings(
    status: str, dependency: str, weddings: int, days: float | None, backup: bool, impact: str
) -> None:
    assert wedding_impact(status, dependency, weddings, days, backup) == impact  # type: ignore[arg-type]


def test_the_worst_of_several() -> None:
    assert worst(["healthy", "down", "degraded"]) == "down"
    assert worst([]) == "healthy"


def test_a_refusal_is_an_answer_unless_statuses_are_named() -> None:
    assert HealthCheck().accepts(401)
    assert not HealthCheck().accepts(503)
    assert not HealthCheck(expected_statuses=(200,)).accepts(401)


def seconds_until_down(look_seconds: float, *, tick_seconds: float = 1.0, hurried_seconds: float = 0.25) -> float:
    """How long an outage that begins right after a good look goes unseen at the worst."""
    health, at, ticks = Health(since=NOW), CRITICAL_INTERVAL_SECONDS, tick_seconds
    while True:
        at += ticks + look_seconds
        result = ProbeResult(ok=False, response_ms=look_seconds * 1000)
        health = next_health(health, result, NOW + timedelta(seconds=at), POLICY)
        if health.status == "down":
            return at
        at += seconds_to_next_probe(health, result, CRITICAL_INTERVAL_SECONDS, POLICY)
        ticks = hurried_seconds


@pytest.mark.parametrize("look_seconds", [0.0, 0.5, 2.5, 5.0])
def test_a_critical_service_that_is_down_is_found_within_thirty_seconds_even_when_it_hangs(look_seconds: float) -> None:
    assert seconds_until_down(look_seconds) < 30


def test_a_short_hiccup_is_no_outage() -> None:
    assert seconds_until_down(0.0) - CRITICAL_INTERVAL_SECONDS > POLICY.recheck_seconds


def test_a_first_failed_look_is_repeated_at_once_and_one_that_went_well_in_its_own_time() -> None:
    failed = ProbeResult(ok=False, response_ms=4000)
    health = next_health(Health(since=NOW), failed, NOW, POLICY)
    assert seconds_to_next_probe(health, failed, 60, POLICY) == 1
    health = next_health(health, failed, NOW, POLICY)
    assert seconds_to_next_probe(health, failed, 60, POLICY) == 1
    assert seconds_to_next_probe(health, ProbeResult(ok=False), 60, POLICY) == 5
    health = next_health(health, failed, NOW, POLICY)
    assert (health.status, seconds_to_next_probe(health, failed, 60, POLICY)) == ("down", 5)
    assert seconds_to_next_probe(health, ProbeResult(ok=True), 60, POLICY) == 60
    assert seconds_to_next_probe(health, failed, 2, POLICY) == 2


def test_each_endpoint_s_failures_are_counted_by_themselves_until_they_are_certain() -> None:
    near, far = Endpoint(name="near"), Endpoint(name="far", base_url="https://far.example.com")
    failures: dict[Endpoint, int] = {}
    waits = []
    for _ in range(POLICY.down_after):
        results = {near: ProbeResult(ok=True), far: ProbeResult(ok=False, response_ms=1000)}
        failures = failures_in_row(failures, results)
        waits.append(seconds_until_certain(failures, results, POLICY))
    assert (failures, waits) == ({far: POLICY.down_after}, [1.0, 4.0, None])
    moved = far.model_copy(update={"base_url": "https://elsewhere.example.com"})
    assert failures_in_row(failures, {near: ProbeResult(ok=True), moved: ProbeResult(ok=False)}) == {moved: 1}
    assert failures_in_row(failures, {near: ProbeResult(ok=True), far: ProbeResult(ok=True)}) == {}


@pytest.mark.parametrize(
    ("dependency", "is_near", "interval", "seconds"),
    [
        ("important", False, 60, 60),
        ("important", True, 60, 10),
        ("critical", False, 60, 10),
        ("critical", True, 4, 4),
        ("optional", False, 600, 600),
    ],
)
def test_what_weddings_need_is_looked_at_every_ten_seconds(
    dependency: str, is_near: bool, interval: float, seconds: float
) -> None:
    config = ServiceConfig.model_validate(
        {"service": "stripe", "dependency": dependency, "health": {"interval_seconds": interval}}
    )
    assert watched_every_seconds(config, is_near=is_near) == seconds
