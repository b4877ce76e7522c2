from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.quotas import headers as h
from wedsync.domain.quotas import quota as q
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.headers import ParsedLimit
from wedsync.domain.quotas.quota import Quota

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
RULE = q.policy_of({"per_second": 10, "per_minute": 100})
EMPTY = Quota(service="resend")


@pytest.mark.parametrize(
    ("headers", "parsed"),
    [
        ({}, None),
        ({"content-type": "text/plain"}, None),
        (
            {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "20", "x-ratelimit-reset": "30"},
            ParsedLimit(limit=100, remaining=20, resets_at=NOW + timedelta(seconds=30)),
        ),
        (
            {
                "x-ratelimit-limit": "100",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(int(NOW.timestamp()) + 9),
            },
            ParsedLimit(limit=100, remaining=0, resets_at=NOW + timedelta(seconds=9)),
        ),
        ({"ratelimit-limit": "10, 10;w=1", "ratelimit-remaining": "7"}, ParsedLimit(limit=10, remaining=7)),
        (
            {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
            ParsedLimit(limit=100, remaining=50, resets_at=NOW + timedelta(seconds=30), seconds=60),
        ),
        ({"x-ratelimit-limit": "many", "x-ratelimit-remaining": "-"}, None),
    ],
)
def test_the_usual_spellings_are_read(headers: dict[str, str], parsed: ParsedLimit | None) -> None:
    assert h.read(headers, NOW) == parsed


@pytest.mark.parametrize(
    ("parsed", "window"),
    [
        (ParsedLimit(remaining=1, seconds=60), "minute"),
        (ParsedLimit(remaining=1, limit=10), "second"),
        (ParsedLimit(remaining=1, resets_at=NOW + timedelta(seconds=40)), "minute"),
        (ParsedLimit(remaining=1, resets_at=NOW + timedelta(seconds=400)), None),
        (ParsedLimit(remaining=1), None),
    ],
)
def test_the_window_that_is_meant_is_found(parsed: ParsedLimit, window: str | None) -> None:
    assert h.window_of(parsed, RULE, NOW) == window


def test_fewer_calls_left_a_lower_limit_and_a_later_end_are_believed() -> None:
    parsed = ParsedLimit(limit=80, remaining=5, resets_at=NOW + timedelta(seconds=60.5), seconds=60)
    changed = h.corrected(EMPTY, RULE, parsed, NOW)
    (counter,) = (c for c in changed.counters if c.window == "minute")
    assert (counter.limit, counter.used, counter.ends_at) == (80, 75, NOW + timedelta(seconds=60.5))
    _, grant = acquire(changed, RULE, 10, NOW, priority=1)
    assert grant.calls <= 5


def test_more_than_was_configured_is_never_believed() -> None:
    assert h.corrected(EMPTY, RULE, ParsedLimit(limit=100_000, remaining=99_999, seconds=60), NOW) == EMPTY


def test_what_is_nearly_as_counted_here_is_no_news() -> None:
    quota, _ = acquire(EMPTY, RULE, 1, NOW)
    assert h.corrected(quota, RULE, ParsedLimit(limit=100, remaining=97, seconds=60), NOW) == quota


def minute(quota: Quota, at: datetime) -> q.Counter:
    (one,) = (one for one in RULE.windows if one.window == "minute")
    return q.opened(quota, one, at)


def test_a_newer_word_raises_a_limit_again_up_to_the_configured_one() -> None:
    low = h.corrected(EMPTY, RULE, ParsedLimit(limit=6, seconds=60), NOW)
    assert minute(low, NOW).limit == 6
    higher = h.corrected(low, RULE, ParsedLimit(limit=60, seconds=60), NOW)
    assert minute(higher, NOW).limit == 60
    whole = h.corrected(higher, RULE, ParsedLimit(limit=6000, seconds=60), NOW)
    assert minute(whole, NOW).limit is None


def test_a_limit_that_is_said_no_more_is_forgotten_at_the_window_s_end_or_after_a_minute() -> None:
    low = h.corrected(EMPTY, RULE, ParsedLimit(limit=6, seconds=60), NOW)
    assert minute(low, NOW + timedelta(seconds=59)).limit == 6
    assert minute(low, NOW + timedelta(seconds=61)).limit is None
    second = h.corrected(EMPTY, RULE, ParsedLimit(limit=2, seconds=1), NOW)
    (one,) = (one for one in RULE.windows if one.window == "second")
    assert q.opened(second, one, NOW + timedelta(seconds=30)).limit == 2
    assert q.opened(second, one, NOW + timedelta(seconds=61)).limit is None
    # As rows from before hold it: nobody knows how old it is.
    old = second.model_copy(update={"counters": (second.counters[0].model_copy(update={"limit_until": None}),)})
    assert q.opened(old, one, NOW + timedelta(seconds=2)).limit is None


def test_a_limit_that_is_said_again_and_again_lasts_and_is_seldom_written() -> None:
    parsed, quota, written = ParsedLimit(limit=6, seconds=60), EMPTY, 0
    for second in range(0, 300, 5):
        at = NOW + timedelta(seconds=second)
        changed = h.corrected(quota, RULE, parsed, at)
        written += changed != quota
        quota = changed
        assert minute(quota, at).limit == 6
    assert written <= 12


def test_what_answers_said_is_forgotten_for_new_limits() -> None:
    low = h.corrected(EMPTY, RULE, ParsedLimit(limit=6, remaining=1, seconds=60), NOW)
    assert minute(h.forgotten(low), NOW).limit is None
    assert minute(h.forgotten(low), NOW).used == minute(low, NOW).used


def test_after_the_vendor_s_word_nobody_calls_until_then() -> None:
    until = NOW + timedelta(seconds=30)
    quota = h.blocked(EMPTY, until, NOW)
    for priority in (1, 3):
        _, grant = acquire(quota, RULE, 1, NOW + timedelta(seconds=29.9), priority=priority)
        assert (grant.calls, grant.until, grant.why) == (0, until, "blocked")
    assert acquire(quota, RULE, 1, until)[1].calls == 1
    assert h.blocked(quota, NOW + timedelta(seconds=10), NOW) == quota


def test_a_block_that_was_lifted_comes_back_by_a_newer_word_only() -> None:
    until, at = NOW + timedelta(hours=5), NOW + timedelta(seconds=60)
    quota = h.lifted(h.blocked(EMPTY, until, NOW), at)
    assert acquire(quota, RULE, 1, at)[1].calls == 1
    assert h.blocked(quota, until, at - timedelta(seconds=1)) == quota
    assert h.blocked(quota, until, at + timedelta(seconds=1)).blocked_until == until


def test_what_a_minute_allows_says_nothing_of_a_day() -> None:
    daily = q.policy_of({"per_day": 40_000})
    parsed = h.read({"x-ratelimit-limit": "600", "x-ratelimit-remaining": "599", "x-ratelimit-reset": "60"}, NOW)
    assert parsed is not None
    assert h.corrected(EMPTY, daily, parsed, NOW) == EMPTY


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-limit": "10", "x-ratelimit-reset": "999999999999"},
        {"x-ratelimit-limit": "10", "x-ratelimit-reset": "1780000000000"},
        {"ratelimit": '"d";r=5;t=999999999999', "ratelimit-policy": '"d";q=10'},
    ],
)
def test_a_moment_that_can_not_be_is_not_heard(headers: dict[str, str]) -> None:
    parsed = h.read(headers, NOW)
    assert parsed is not None
    assert (parsed.limit, parsed.resets_at) == (10, None)


@given(st.text(st.characters(codec="ascii"), max_size=60), st.text(max_size=30))
def test_no_header_is_too_odd_to_be_read(odd: str, number: str) -> None:
    for headers in (
        {"ratelimit": odd, "ratelimit-policy": odd},
        {"ratelimit": f'"d";r=1;t={number}'},
        {"x-ratelimit-limit": odd, "x-ratelimit-remaining": "1", "x-ratelimit-reset": number},
    ):
        parsed = h.read(headers, NOW)
        if parsed is not None:
            assert parsed.remaining is None or parsed.remaining >= 0
            assert h.corrected(EMPTY, RULE, parsed, NOW).service == EMPTY.service
