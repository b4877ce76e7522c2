from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.health.status import Status
from wedsync.domain.incidents import notice as incidents_notice

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


@given(st.integers(1, incidents_notice.MOST_ATTEMPTS - 2))
def test_pauses_grow_up_to_a_quarter_of_an_hour(attempts: int) -> None:
    one, next_one = incidents_notice.pause_after(attempts), incidents_notice.pause_after(attempts + 1)
    assert one is not None
    assert next_one is not None
    assert timedelta(seconds=5) <= one <= next_one <= timedelta(minutes=15)


def test_it_is_given_up_after_some_hours() -> None:
    pauses = [incidents_notice.pause_after(attempts) for attempts in range(1, incidents_notice.MOST_ATTEMPTS)]
    assert timedelta(hours=2) < sum((pause for pause in pauses if pause is not None), timedelta()) < timedelta(hours=4)
    assert incidents_notice.pause_after(incidents_notice.MOST_ATTEMPTS) is None


@pytest.mark.parametrize(
    ("status", "severity"),
    [("healthy", "info"), ("degraded", "warning"), ("unhealthy", "warning"), ("down", "critical")],
)
def test_a_change_is_as_grave_as_what_it_comes_to(status: Status, severity: str) -> None:
    assert incidents_notice.health_changed("stripe", "degraded", status, "", NOW).severity == severity


def test_the_same_news_has_the_same_key_whenever_it_comes() -> None:
    down = incidents_notice.health_changed("stripe", "healthy", "down", "no answer", NOW)
    again = incidents_notice.health_changed("stripe", "unhealthy", "down", "503", NOW + timedelta(minutes=1))
    assert down.dedup_key == again.dedup_key
    others = {
        incidents_notice.health_changed("stripe", "down", "healthy", "", NOW).dedup_key,
        incidents_notice.health_changed("paypal", "healthy", "down", "", NOW).dedup_key,
        incidents_notice.failover_started("stripe", "default", None, "asked", "active", 1, NOW).dedup_key,
        incidents_notice.failover_started("stripe", "default", None, "asked", "active", 2, NOW).dedup_key,
        incidents_notice.failover_ended("failover.held", ("stripe", "default", 1), NOW).dedup_key,
        incidents_notice.quota_exhausted("stripe", NOW, NOW).dedup_key,
    }
    assert len(others | {down.dedup_key}) == 7


@pytest.mark.parametrize(
    ("to_service", "status", "severity"),
    [("paypal", "active", "warning"), (None, "active", "critical"), ("paypal", "proposed", "critical")],
)
def test_a_failover_that_nobody_makes_up_for_is_critical(to_service: str | None, status: str, severity: str) -> None:
    notice = incidents_notice.failover_started("stripe", "default", to_service, "failure_rate", status, 1, NOW)
    assert notice.severity == severity
