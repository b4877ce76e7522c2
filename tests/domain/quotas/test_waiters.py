from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from wedsync.domain.quotas import quota as q
from wedsync.domain.quotas import waiters as line
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.quota import Quota

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
EMPTY = Quota(service="stripe")


def test_a_block_is_never_more_than_those_that_wait_and_a_hundredth_of_what_remains() -> None:
    rule = q.policy_of({"per_second": 100, "per_hour": 10_000})
    assert line.block_size(rule, 5000, 3, 1000.0) == 53
    assert line.block_size(rule, 50, 3, 1000.0) == 3
    assert line.block_size(q.policy_of({"per_second": 10}), 5000, 0, 1000.0) == 10


def test_those_that_wait_come_one_after_the_other_as_the_line_moves() -> None:
    rule = q.policy_of({"per_second": 10})
    quota, _ = acquire(EMPTY, rule, 100, NOW)
    _, grant = acquire(quota, rule, 1, NOW)
    moments = [line.in_line(grant, rule, place, NOW) for place in range(5)]
    assert moments[0] == grant.until
    for earlier, later in pairwise(moments):
        assert later - earlier == timedelta(seconds=grant.pace_seconds)
    for place, moment in enumerate(moments):
        quota, given = acquire(quota, rule, 1, moment + timedelta(microseconds=100))
        assert given.calls == 1, place


def test_after_a_window_that_is_used_up_they_come_at_its_pace() -> None:
    rule = q.policy_of({"per_second": 10, "per_hour": 3600})
    quota = EMPTY
    _, grant = acquire(quota, rule, 1, NOW)
    refused = grant.model_copy(update={"calls": 0, "until": NOW, "why": "hour", "pace_seconds": 0.1})
    assert line.pace_of(refused, rule) == timedelta(seconds=1)
