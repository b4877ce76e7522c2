from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wedsync.domain.routing import quota_headers as h
from wedsync.domain.routing import quotas as q
from wedsync.domain.routing.quota_headers import Said
from wedsync.domain.routing.quotas import Quota

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
RULE = q.policy_of({"per_second": 10, "per_minute": 100})
EMPTY = Quota(service="resend")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, None),
        ({"content-type": "text/plain"}, None),
        (
            {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "20", "x-ratelimit-reset": "30"},
            Said(limit=100, remaining=20, resets_at=NOW + timedelta(seconds=30)),
        ),
        (
            {
                "x-ratelimit-limit": "100",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(int(NOW.timestamp()) + 9),
            },
            Said(limit=100, remaining=0, resets_at=NOW + timedelta(seconds=9)),
        ),
        ({"ratelimit-limit": "10, 10;w=1", "ratelimit-remaining": "7"}, Said(limit=10, remaining=7)),
        (
            {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
            Said(limit=100, remaining=50, resets_at=NOW + timedelta(seconds=30), seconds=60),
        ),
        ({"x-ratelimit-limit": "many", "x-ratelimit-remaining": "-"}, None),
    ],
)
def test_the_usual_spellings_are_read(headers: dict[str, str], said: Said | None) -> None:
    assert h.read(headers, NOW) == said


@pytest.mark.parametrize(
    ("said", "window"),
    [
        (Said(remaining=1, seconds=60), "minute"),
        (Said(remaining=1, limit=10), "second"),
        (Said(remaining=1, resets_at=NOW + timedelta(seconds=40)), "minute"),
        (Said(remaining=1, resets_at=NOW + timedelta(seconds=400)), None),
        (Said(remaining=1), None),
    ],
)
def test_the_window_that_is_meant_is_found(said: Said, window: str | None) -> None:
    assert h.window_of(said, RULE, NOW) == window


def test_fewer_calls_left_a_lower_limit_and_a_later_end_are_believed() -> None:
    said = Said(limit=80, remaining=5, resets_at=NOW + timedelta(seconds=60.5), seconds=60)
    changed = h.corrected(EMPTY, RULE, said, NOW)
    (counter,) = (c for c in changed.counters if c.window == "minute")
    assert (counter.limit, counter.used, counter.ends_at) == (80, 75, NOW + timedelta(seconds=60.5))
    _, grant = q.take(changed, RULE, 10, NOW, priority=1)
    assert grant.calls <= 5


def test_more_than_was_configured_is_never_believed() -> None:
    assert h.corrected(EMPTY, RULE, Said(limit=100_000, remaining=99_999, seconds=60), NOW) == EMPTY


def test_what_is_nearly_as_counted_here_is_no_news() -> None:
    quota, _ = q.take(EMPTY, RULE, 1, NOW)
    assert h.corrected(quota, RULE, Said(limit=100, remaining=97, seconds=60), NOW) == quota
