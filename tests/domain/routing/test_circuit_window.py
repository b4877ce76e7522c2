from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.routing import circuit_breaker as c
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import COUNTED_AGAIN_AFTER, FailedCall, Outcome, Tally, tallied

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
POLICY = CircuitPolicy(min_calls=4, open_seconds=10, probes=3)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def retried(times: int, every_seconds: float, again_after: timedelta | None) -> Circuit:
    """One call is tried again and again, and fails each time."""
    circuit = Circuit(service="resend")
    for turn in range(times):
        now = after(turn * every_seconds)
        tally, failed = tallied([("failed", "poisoned")], circuit.failed_calls, now, again_after)
        circuit = c.judged(c.counted(circuit, tally, now, POLICY, failed), now, POLICY)
    return circuit


def test_one_call_that_fails_however_often_shuts_no_vendor() -> None:
    assert retried(500, 0.1, None).state == "closed"
    assert retried(500, 0.1, COUNTED_AGAIN_AFTER).state == "closed"


def test_where_no_probe_tells_more_a_failing_call_counts_once_a_minute() -> None:
    known: tuple[FailedCall, ...] = ()
    counts = []
    for second in (0, 20, 59, 60, 100, 120):
        tally, known = tallied([("failed", "one")], known, after(second), COUNTED_AGAIN_AFTER)
        counts.append(tally.failed)
    assert counts == [1, 0, 0, 1, 0, 1]


def test_failures_of_different_calls_all_count_and_so_do_those_of_nobody() -> None:
    outcomes: list[tuple[Outcome, str]] = [
        ("failed", "a"),
        ("failed", "b"),
        ("failed", ""),
        ("failed", ""),
        ("ok", "a"),
    ]
    tally, known = tallied(outcomes, (), NOW, None)
    assert tally == Tally(ok=1, failed=4, in_row=0)
    assert {one.caller for one in known} == {"a", "b"}


def test_a_failed_call_is_forgotten_an_hour_after_its_last_failure() -> None:
    _, known = tallied([("failed", "one")], (), NOW, None)
    assert tallied([("failed", "one")], known, after(3599), None)[0].failed == 0
    assert tallied([("failed", "one")], known, after(3601), None)[0].failed == 1


CALLERS = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@given(st.lists(CALLERS, max_size=200))
def test_no_more_failures_count_than_calls_failed(callers: list[str]) -> None:
    tally, known = tallied([("failed", caller) for caller in callers], (), NOW, None)
    assert tally.failed == len(set(callers)) == len(known)


def test_a_call_leaves_the_vendors_own_probe_and_after_a_failure_other_calls_a_moment() -> None:
    circuit = c.opened(Circuit(service="resend"), NOW, POLICY, "failure_rate")
    assert not c.may_probe(circuit, "one", after(10.5), POLICY)
    assert c.may_probe(circuit, "one", after(11), POLICY)
    again = c.probed(circuit, "failed", circuit.round, after(11), POLICY, "one")
    assert again.open_until == after(31)
    assert [c.may_probe(again, caller, after(33), POLICY) for caller in ("one", "other")] == [False, True]
    # There may be nobody else.
    assert c.may_probe(again, "one", after(41), POLICY)
