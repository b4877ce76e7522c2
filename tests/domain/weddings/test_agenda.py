from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from wedsync.domain.plans.plan import Compensation, PlannedStep
from wedsync.domain.weddings import agenda
from wedsync.domain.weddings.step import StepState

CEREMONY = datetime(2027, 6, 19, 14, tzinfo=UTC)
ENDS = CEREMONY + timedelta(days=2)
HOUR = timedelta(hours=1)


def step(step_id: str, *needs: str, at: str | None = None) -> PlannedStep:
    return PlannedStep(
        id=step_id,
        action="booking.request",
        service="villa",
        capability="booking",
        vendors=("generic",),
        account="villa",
        critical=False,
        inputs={},
        needs=needs,
        window="preparation",
        at=at,
        fold=None,
        timeout_seconds=60,
        on_failure="continue",
        compensation=Compensation(),
        compensation_deadline_seconds=60,
        early=False,
        delivery="hold",
        decide_within_seconds=60,
        otherwise=None,
        default_results={},
        endpoints={},
        real_time_updates=False,
    )


def state(step_id: str, status: Any = "pending", **more: Any) -> StepState:
    return StepState(step_id=step_id, status=status, **more)


@pytest.mark.parametrize(
    ("hours", "phase", "mode"),
    [
        (-25, "preparation", "normal"),
        (-24, "preparation", "wedding_day"),
        (0, "ceremony", "wedding_day"),
        (1, "reception", "wedding_day"),
        (9, "cleanup", "wedding_day"),
        (12, "cleanup", "normal"),
    ],
)
def test_phase_and_mode_by_the_hour(hours: int, phase: str, mode: str) -> None:
    now = CEREMONY + hours * HOUR
    assert (agenda.phase_at(now, CEREMONY), agenda.mode_at(now, CEREMONY)) == (phase, mode)


@given(st.integers(-2000, 2000))
def test_phase_and_mode_change_only_at_turning_points(minutes: int) -> None:
    points = agenda.turning_points(CEREMONY, ENDS)
    assert list(points) == sorted(points)
    now = CEREMONY + timedelta(minutes=minutes)
    before = now - timedelta(minutes=1)
    if not any(before < point <= now for point in points):
        for judge in (agenda.phase_at, agenda.mode_at):
            assert judge(now, CEREMONY) == judge(before, CEREMONY)


@pytest.mark.parametrize(
    ("states", "settling", "due"),
    [
        ({"a": "pending", "b": "pending"}, (), ["a", "b"]),
        ({"a": "waiting", "b": "pending"}, (), []),
        ({"a": "waiting", "b": "pending"}, ("a",), ["b"]),
        ({"a": "failed", "b": "scheduled"}, (), ["b"]),
        ({"a": "succeeded", "b": "held"}, (), []),
    ],
)
def test_a_step_is_due_when_its_needs_are_over_or_due_with_it(
    states: dict[str, Any], settling: tuple[str, ...], due: list[str]
) -> None:
    found = agenda.due_steps(
        [step("a"), step("b", "a")], {i: state(i, s) for i, s in states.items()}, CEREMONY, settling
    )
    assert [s.id for s in found] == due


@pytest.mark.parametrize(("due_in_hours", "due"), [(None, False), (1, False), (0, True), (-1, True)])
def test_a_step_with_a_time_waits_for_it(due_in_hours: int | None, due: bool) -> None:
    due_at = None if due_in_hours is None else CEREMONY + due_in_hours * HOUR
    found = agenda.due_steps([step("a", at="x")], {"a": state("a", "scheduled", due_at=due_at)}, CEREMONY)
    assert bool(found) is due


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pending", "scheduled", "waiting", "held", "succeeded"]),
            st.integers(-500, 5000),
            st.integers(-500, 5000),
        ),
        max_size=6,
    )
)
def test_the_next_wake_is_ahead_and_no_later_than_anything_due(steps: list[tuple[Any, int, int]]) -> None:
    now, month = CEREMONY - timedelta(days=60), timedelta(days=30)
    states = [
        state(f"s{n}", status, due_at=now + due * HOUR, deadline_at=now + dead * HOUR, remind_at=now + dead * HOUR / 2)
        for n, (status, due, dead) in enumerate(steps)
    ]
    wake = agenda.next_wake(states, (), agenda.turning_points(CEREMONY, ENDS), now, month)
    assert now < wake <= now + month
    for one in states:
        if one.status in agenda.UNBEGUN and one.due_at is not None and one.due_at > now:
            assert wake <= one.due_at
        if one.status in ("waiting", "held") and one.deadline_at is not None and one.deadline_at > now:
            assert wake <= one.deadline_at


def test_patience_ends_at_the_deadline_and_reminders_come_before() -> None:
    states = [
        state("a", "held", deadline_at=CEREMONY, remind_at=CEREMONY - HOUR),
        state("b", "held"),
        state("c", "waiting", deadline_at=CEREMONY),
    ]
    assert [s.step_id for s in agenda.overdue(states, "held", CEREMONY)] == ["a"]
    assert agenda.overdue(states, "held", CEREMONY - HOUR) == []
    assert [s.step_id for s in agenda.overdue(states, "waiting", CEREMONY)] == ["c"]
    assert [s.step_id for s in agenda.to_remind(states, CEREMONY - HOUR)] == ["a"]


@pytest.mark.parametrize(
    ("statuses", "folded"),
    [
        (["succeeded", "held", "waiting"], "held"),
        (["succeeded", "waiting"], "waiting"),
        (["succeeded", "failed", "scheduled"], "completed"),
    ],
)
def test_a_settled_transaction_moves_on_with_its_steps(statuses: list[str], folded: str) -> None:
    states = [state(f"s{n}", status) for n, status in enumerate(statuses)]
    assert agenda.folded_status(states) == folded
    assert agenda.folded_gaps(states) == tuple(s.step_id for s in states if s.status == "failed")


@given(st.text(min_size=1), st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_wedding_names_its_own_transactions_the_same_after_a_reset_and_no_two_alike(
    wedding_id: str, number: int, other: int
) -> None:
    made = agenda.own_transaction_id(wedding_id, number)
    assert str(ULID.from_str(made)) == made
    assert agenda.own_transaction_id(wedding_id, number) == made
    assert (agenda.own_transaction_id(wedding_id, other) == made) is (other == number)
    assert agenda.own_transaction_id(wedding_id + "x", number) != made
    # The later a transaction, the later its name sorts.
    assert agenda.own_transaction_id(wedding_id, number + 1) > made
