from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.routing import circuit_breaker as c
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import BUCKETS, Outcome, Tally, classify_outcome, total

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
POLICY = CircuitPolicy(min_calls=4, open_seconds=10, probes=3, ramp_step_seconds=15)
CLOSED = Circuit(service="stripe")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def next_state(
    circuit: Circuit, outcome: Outcome | Tally, now: datetime, policy: CircuitPolicy, *, is_last: bool = False
) -> Circuit:
    tally = outcome if isinstance(outcome, Tally) else Tally().plus(outcome)
    return c.judged(c.counted(circuit, tally, now, policy), now, policy, is_last=is_last)


def run(circuit: Circuit, *outcomes: Any, at: float = 0, **options: Any) -> Circuit:
    for outcome in outcomes:
        circuit = next_state(circuit, outcome, after(at), POLICY, **options)
    return circuit


def tripped(at: float = 0) -> Circuit:
    return run(CLOSED, "failed", "failed", "failed", "failed", at=at)


def ramping(at: float = 20) -> Circuit:
    circuit = tripped()
    for _ in range(POLICY.probes):
        circuit = c.probed(circuit, "ok", circuit.round, after(at), POLICY)
    return circuit


@pytest.mark.parametrize(
    ("outcomes", "state", "reason"),
    [
        (["failed"] * 3, "closed", ""),
        (["failed"] * 4, "open", "failure_rate"),
        (["ok", "ok", "failed", "failed"], "open", "failure_rate"),
        (["ok", "ok", "ok", "failed", "failed"], "closed", ""),
        (["slow"] * 4, "open", "slow_calls"),
        (["slow", "slow", "ok", "ok"], "closed", ""),
        (["slow", "slow", "slow", "failed"], "open", "slow_calls"),
        (["ignored"] * 50, "closed", ""),
        (["ignored"] * 50 + ["failed"] * 3, "closed", ""),
    ],
)
def test_it_opens_by_rate_with_a_minimum_of_calls(outcomes: list[Outcome], state: str, reason: str) -> None:
    circuit = run(CLOSED, *outcomes)
    assert (circuit.state, circuit.reason) == (state, reason)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (VendorUnavailable("x"), "failed"),
        (OutcomeUnknown("x"), "failed"),
        (NotAuthorized("x"), "ignored"),
        (VendorRejected("x"), "ignored"),
        (InvalidInput("x"), "ignored"),
        (VendorThrottled("x", retry_after_seconds=1), "ignored"),
        (RuntimeError("x"), "ignored"),
    ],
)
def test_only_lost_and_undone_calls_count_as_failures(error: Exception, outcome: str) -> None:
    assert classify_outcome(error, 0.1, POLICY) == outcome


def test_a_good_answer_that_came_late_is_slow() -> None:
    assert classify_outcome(None, POLICY.slow_seconds, POLICY) == "slow"
    assert classify_outcome(None, POLICY.slow_seconds - 0.01, POLICY) == "ok"


def test_what_slid_out_of_the_window_counts_no_more() -> None:
    circuit = run(CLOSED, "failed", "failed", "failed")
    assert run(circuit, "failed", at=POLICY.window_seconds / 2).state == "open"
    later = run(circuit, "failed", at=POLICY.window_seconds + 3)
    assert (later.state, total(later.window)) == ("closed", Tally(failed=1, in_row=1))


@pytest.mark.parametrize("behind", [0.02, 3.5, 20.0])
def test_a_writer_whose_clock_is_behind_takes_nothing_from_the_others(behind: float) -> None:
    edge = POLICY.window_seconds / BUCKETS * 5 - NOW.timestamp() % (POLICY.window_seconds / BUCKETS)
    circuit = run(CLOSED, "failed", "failed", "failed", at=edge)
    late = c.counted(circuit, Tally(ok=1), after(edge - behind), POLICY)
    assert total(late.window) == Tally(ok=1, failed=3)
    assert run(circuit, "failed", at=edge - behind).state == "open"


def test_what_a_clock_far_ahead_has_written_does_not_stay() -> None:
    wrong = run(CLOSED, "failed", "failed", "failed", at=3600)
    assert total(run(wrong, "ok").window) == Tally(ok=1)


def test_a_busy_vendor_s_good_minutes_do_not_hide_its_end() -> None:
    busy = next_state(CLOSED, Tally(ok=5000), NOW, POLICY)
    almost = run(busy, *["failed"] * (POLICY.min_calls - 1), at=1)
    assert almost.state == "closed"
    assert run(almost, "ok", *["failed"] * (POLICY.min_calls - 1), at=2).state == "closed"
    ended = run(almost, "failed", at=2)
    assert (ended.state, ended.reason) == ("open", "failures_in_row")


@given(st.lists(st.lists(st.sampled_from(["ok", "failed", "slow", "ignored"]), max_size=8), max_size=8))
def test_tallies_of_several_batches_are_as_one(batches: list[list[Outcome]]) -> None:
    whole, parts = Tally(), Tally()
    for batch in batches:
        part = Tally()
        for outcome in batch:
            whole, part = whole.plus(outcome), part.plus(outcome)
        parts = parts.then(part)
    assert parts == whole


def test_half_open_comes_by_itself() -> None:
    circuit = tripped()
    assert c.phase(circuit, after(9.9)) == "open"
    assert c.phase(circuit, after(10)) == "half_open"
    assert c.admit(circuit, after(5), POLICY) == "refuse"
    assert c.admit(circuit, after(10), POLICY) == "probe"


def test_each_opening_in_a_row_lasts_longer_up_to_the_cap() -> None:
    circuit, at, waits = tripped(), 0.0, []
    for _ in range(8):
        assert circuit.open_until is not None
        waits.append((circuit.open_until - after(at)).total_seconds())
        at += waits[-1]
        circuit = c.probed(circuit, "failed", circuit.round, after(at), POLICY)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert (circuit.epoch, circuit.round) == (1, 9)


def test_all_probes_must_succeed_and_then_traffic_comes_back_in_steps() -> None:
    circuit = tripped()
    for _ in range(2):
        circuit = c.probed(circuit, "ok", circuit.round, after(11), POLICY)
        assert circuit.state == "open"
    circuit = c.probed(circuit, "ok", circuit.round, after(11), POLICY)
    assert (circuit.state, c.share_percent(circuit, after(11), POLICY)) == ("ramping", 10)
    circuit = c.advanced(circuit, after(26), POLICY)
    assert c.share_percent(circuit, after(26), POLICY) == 50
    circuit = c.advanced(circuit, after(41), POLICY)
    assert (circuit.state, circuit.trips, circuit.epoch) == ("closed", 0, 1)
    assert tripped().epoch == 1
    assert run(circuit, *["failed"] * 4, at=50).epoch == 2


@pytest.mark.parametrize("outcome", ["failed", "slow"])
def test_one_bad_probe_reopens(outcome: Outcome) -> None:
    circuit = c.probed(tripped(), outcome, 1, after(11), POLICY)
    assert (circuit.state, circuit.round, circuit.reason) == ("open", 2, "probe_failed")


def test_a_probe_of_an_earlier_round_says_nothing() -> None:
    circuit = c.probed(tripped(), "failed", 1, after(11), POLICY)
    assert c.probed(circuit, "failed", 1, after(12), POLICY) == circuit
    assert c.probed(circuit, "ok", 1, after(12), POLICY) == circuit


def test_the_second_call_that_fails_while_ramping_reopens_for_longer() -> None:
    circuit = run(ramping(), "ok", "failed", "ok", at=21)
    assert circuit.state == "ramping"
    circuit = run(circuit, "failed", at=22)
    assert (circuit.state, circuit.reason, circuit.epoch) == ("open", "failed_again", 1)
    assert circuit.open_until == after(22 + 20)


def test_the_last_provider_is_never_cut_off() -> None:
    circuit = run(CLOSED, *["failed"] * 20, is_last=True)
    assert circuit.state == "closed"
    assert run(circuit, "failed").state == "open"
    assert run(ramping(), "failed", "failed", at=21, is_last=True).state == "ramping"
    assert c.admit(tripped(), NOW, POLICY, is_last=True) == "pass"


def test_a_wedding_day_call_with_nowhere_else_to_go_passes() -> None:
    assert c.admit(tripped(), NOW, POLICY, overrides=True) == "pass"
    assert c.admit(tripped(), NOW, POLICY, overrides=True, can_go_elsewhere=True) == "refuse"
    assert POLICY.on_wedding_day().min_calls == 2
    assert POLICY.on_wedding_day().open_cap_seconds == 30


def test_a_hand_comes_before_everything() -> None:
    cut = c.forced(CLOSED, "open", NOW, POLICY)
    far = after(86400)
    assert c.admit(cut, far, POLICY, is_last=True, overrides=True) == "refuse"
    assert c.phase(cut, far) == "open"
    assert (cut.epoch, cut.round) == (1, 1)
    freed = c.forced(cut, None, far, POLICY)
    assert c.admit(freed, far, POLICY) == "probe"
    kept = c.forced(tripped(), "closed", NOW, POLICY)
    assert c.admit(kept, NOW, POLICY) == "pass"
    assert run(kept, *["failed"] * 20).state == "closed"
    assert run(c.forced(kept, None, NOW, POLICY), *["failed"] * 20).state == "open"


def test_a_held_circuit_is_not_probed_until_it_is_restored() -> None:
    held = tripped().model_copy(update={"held": True})
    assert c.admit(held, after(60), POLICY) == "refuse"
    assert c.admit(c.restorable(held, after(60)), after(60), POLICY) == "probe"
    assert c.restorable(CLOSED, NOW) == CLOSED


def test_a_share_is_the_same_weddings_and_refuses_only_who_can_go_elsewhere() -> None:
    circuit = ramping()
    through = {
        key
        for key in map(str, range(1000))
        if c.admit(circuit, after(21), POLICY, key=key, can_go_elsewhere=True) == "pass"
    }
    assert 60 < len(through) < 140
    wider = c.advanced(circuit, after(36), POLICY)
    assert all(c.admit(wider, after(37), POLICY, key=key, can_go_elsewhere=True) == "pass" for key in through)
    assert c.admit(circuit, after(21), POLICY, key="anyone") == "pass"


def test_without_a_guard_the_ramp_goes_on_slowly() -> None:
    circuit = ramping(at=20)
    pace = POLICY.ramp_step_seconds * c.SLOW_PACE
    shares = [c.share_percent(circuit, after(20 + pace * step + 1), POLICY) for step in range(4)]
    assert shares == [10, 50, 100, 100]
    held = circuit.model_copy(update={"held": True})
    assert c.share_percent(held, after(20 + 10 * pace), POLICY) == 10


def test_a_drain_leaves_in_steps() -> None:
    circuit = c.drained(CLOSED, NOW, POLICY, "by_operator")
    shares = [c.share_percent(circuit, NOW, POLICY)]
    circuit = c.advanced(circuit, after(15), POLICY)
    shares.append(c.share_percent(circuit, after(15), POLICY))
    circuit = c.advanced(circuit, after(30), POLICY)
    assert (shares, circuit.state, circuit.epoch, circuit.reason) == ([50, 10], "open", 1, "by_operator")
    assert c.drained(circuit, NOW, POLICY, "again") == circuit


def test_a_probe_waits_for_the_quiet_moment() -> None:
    circuit = c.postponed(tripped(), after(3600))
    assert c.phase(circuit, after(3599)) == "open"
    assert c.postponed(circuit, after(60)) == circuit
    assert c.postponed(CLOSED, after(60)) == CLOSED


def test_amid_a_ceremony_it_is_not_half_open_and_its_ramp_stands_still() -> None:
    noisy = {"noisy_from": after(5), "noisy_until": after(4000)}
    cut = tripped().model_copy(update=noisy)
    assert [c.phase(cut, after(at)) for at in (10, 3999, 4000)] == ["open", "open", "half_open"]
    pace = POLICY.ramp_step_seconds * c.SLOW_PACE
    back = ramping(at=20).model_copy(update={"noisy_from": after(20 + pace + 5), "noisy_until": after(4000)})
    shares = [c.share_percent(back, after(at), POLICY) for at in (21, 20 + pace, 3999, 4000, 4000 + pace - 6)]
    assert shares == [10, 50, 50, 50, 50]
    assert c.share_percent(back, after(4000 + pace - 5), POLICY) == 100
    leaving = c.drained(CLOSED, NOW, POLICY, "asked").model_copy(update=noisy)
    assert c.share_percent(leaving, after(3 * pace), POLICY) == 0


OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["ok", "slow", "failed", "ignored"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), OUTCOMES),
        st.tuples(st.just("probe"), OUTCOMES),
        st.tuples(st.just("advance"), st.just("ok")),
        st.tuples(st.just("last"), OUTCOMES),
    ),
    max_size=60,
)


@given(STEPS, st.lists(st.floats(0, 40), min_size=60, max_size=60))
def test_whatever_happens_rounds_and_epochs_only_grow_and_openings_end(steps: list[Any], gaps: list[float]) -> None:
    circuit, at = CLOSED, 0.0
    for (kind, outcome), gap in zip(steps, gaps, strict=False):
        at += gap
        before = circuit
        if kind == "call":
            circuit = next_state(circuit, outcome, after(at), POLICY)
        elif kind == "last":
            circuit = next_state(circuit, outcome, after(at), POLICY, is_last=True)
            assert before.state == "open" or circuit.state != "open"
        elif kind == "probe":
            circuit = c.probed(circuit, outcome, circuit.round, after(at), POLICY)
        else:
            circuit = c.advanced(circuit, after(at), POLICY)
        assert circuit.epoch - before.epoch in (0, 1)
        assert circuit.round - before.round in (0, 1)
        assert (circuit.epoch > before.epoch) == (before.state == "closed" and circuit.state == "open")
        if circuit.state == "open":
            assert circuit.open_until is not None
            assert circuit.open_until <= after(at + POLICY.open_cap_seconds)
        assert len(circuit.window) <= BUCKETS
        if before.state == "open" and kind in ("call", "last"):
            assert circuit == before


@given(st.lists(OUTCOMES.filter(lambda outcome: outcome in ("ok", "ignored")), max_size=200))
def test_good_calls_and_refusals_never_open_a_circuit(outcomes: list[Outcome]) -> None:
    assert run(CLOSED, *outcomes).state == "closed"


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_calls_taken_together_open_like_calls_one_by_one(ok: int, slow: int, failed: int) -> None:
    together = next_state(CLOSED, Tally(ok=ok, slow=slow, failed=failed), NOW, POLICY)
    one_by_one = run(CLOSED, *["ok"] * ok, *["slow"] * slow, *["failed"] * failed)
    if together.state == "open":
        assert one_by_one.state == "open"


@pytest.mark.parametrize(("gradually", "state"), [(False, "open"), (True, "draining")])
def test_who_asks_to_leave_it_comes_after_who_held_it_closed(gradually: bool, state: str) -> None:
    held = c.forced(CLOSED, "closed", NOW, POLICY)
    left = c.left(held, after(1), POLICY, gradually=gradually)
    assert (left.state, left.forced, left.epoch) == (state, None, 1)
    assert c.admit(c.left(held, after(1), POLICY), after(2), POLICY) == "refuse"
    assert c.left(left, after(3), POLICY) == left


def test_what_is_left_in_steps_is_out_at_once_when_it_is_held_and_back_when_it_is_restored() -> None:
    draining = c.drained(CLOSED, NOW, POLICY, "asked")
    held = c.kept_out(draining, after(1), POLICY)
    assert (held.state, held.held, held.reason) == ("open", True, "asked")
    assert c.admit(held, after(1000), POLICY, can_go_elsewhere=True) == "refuse"
    assert c.kept_out(held, after(2), POLICY) == held
    restored = c.restorable(draining, after(1))
    assert (restored.state, c.share_percent(restored, after(1000), POLICY)) == ("closed", 100)
