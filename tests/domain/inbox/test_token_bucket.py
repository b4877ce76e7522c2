from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.inbox.token_bucket import Bucket, Limit, acquire

LIMIT = Limit(per_second=2.0, burst=3.0)


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    bucket: Bucket | None = None
    waits = []
    for _ in range(4):
        bucket, wait = acquire(bucket, LIMIT, now=100.0)
        waits.append(wait)
    assert waits == [0.0, 0.0, 0.0, 0.5]
    bucket, wait = acquire(bucket, LIMIT, now=100.5)
    assert wait == 0.0
    assert acquire(bucket, LIMIT, now=100.6)[1] == pytest.approx(0.4)


@given(st.lists(st.floats(min_value=0, max_value=5), min_size=1, max_size=100))
def test_never_more_pass_than_burst_and_rate_allow(gaps: list[float]) -> None:
    bucket: Bucket | None = None
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        bucket, wait = acquire(bucket, LIMIT, now)
        passed += wait == 0.0
    assert passed <= LIMIT.burst + LIMIT.per_second * now + 1e-6


def test_a_clock_that_steps_back_gives_no_tokens() -> None:
    bucket, _ = acquire(Bucket(tokens=0.5, at=100.0), LIMIT, now=50.0)
    assert bucket.tokens == 0.5
