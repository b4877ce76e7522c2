"""A step's state changes by named acts: each sets what it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from wedsync.domain.failure import Failure
from wedsync.domain.weddings.step import VENDOR_BACK, CompensationResult, StepError, StepState, step_error, unbegun

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = NOW + DAY
DOWN = Failure(code="vendor_unavailable", detail="HTTP 503")
FULL = Failure(code="vendor_rejected", reason="card_declined", detail="no funds")
WHY = StepError(code="a", detail="b")
DONE = CompensationResult(status="undone")

#: Every field is set, so that an act shows what it leaves alone.
BUSY = StepState(
    step_id="venue",
    status="waiting",
    transaction_id="t1",
    vendor="stripe",
    account="main",
    fallback_used=True,
    attempts=3,
    round=2,
    external_id="ch_1",
    results={"reference": "R7"},
    due_at=NOW,
    started_at=NOW,
    ended_at=NOW,
    error=WHY,
    compensation=DONE,
    waits_for="payment.succeeded",
    refused_by=("payment.failed",),
    deadline_at=NOW,
    queued_at=NOW,
    queued_until=NOW,
    remind_at=NOW,
    unknown=True,
)
AT_REST = {"waits_for": "", "refused_by": (), "deadline_at": None, "queued_at": None, "queued_until": None}

ACTS: dict[str, tuple[Callable[[StepState], StepState], dict[str, Any]]] = {
    "due": (lambda s: s.due(LATER), {"due_at": LATER}),
    "due at no known time": (lambda s: s.due(None), {"due_at": None}),
    "off the agenda": (lambda s: s.off_the_agenda(), {"status": "skipped", "due_at": None}),
    "reminded": (lambda s: s.reminded(), {"remind_at": None}),
    "put off": (
        lambda s: s.put_off(timedelta(days=3), NOW),
        {"deadline_at": NOW + 3 * DAY, "remind_at": NOW + 1.5 * DAY},
    ),
    "put off for a day at least": (
        lambda s: s.put_off(timedelta(hours=1), NOW),
        {"deadline_at": LATER, "remind_at": NOW + DAY / 2},
    ),
    "of": (lambda s: s.of("t2"), {"transaction_id": "t2"}),
    "begun": (lambda s: s.begun(LATER), {"status": "running", "error": None, "compensation": None}),
    "running again": (lambda s: s.running_again(), {"status": "running", "error": None}),
    "at vendor": (
        lambda s: s.at_vendor("paypal", "other", is_fallback=False),
        {"vendor": "paypal", "account": "other", "attempts": 4, "fallback_used": False},
    ),
    "in round": (lambda s: s.in_round(5), {"round": 5}),
    "tried again": (lambda s: s.tried_again(), {"attempts": 4}),
    "holding": (lambda s: s.holding("ch_2"), {"external_id": "ch_2"}),
    "answered": (lambda s: s.answered(waits=False, now=LATER), {"status": "succeeded", "ended_at": LATER}),
    "answered, the event to come": (lambda s: s.answered(waits=True, now=LATER), {"ended_at": None}),
    "succeeded": (
        lambda s: s.succeeded("ch_2", {"x": 1}, LATER),
        {"status": "succeeded", "external_id": "ch_2", "results": {"x": 1}, "ended_at": LATER, "error": None,
         "unknown": False, **AT_REST},
    ),
    "changed": (lambda s: s.changed(was_uncertain=False), {"status": "succeeded", "error": None}),
    "changed after a doubt": (
        lambda s: s.changed(was_uncertain=True),
        {"status": "succeeded", "error": None, "compensation": None},
    ),
    "answered from before": (
        lambda s: s.answered_from_before({"x": 1}, "old", LATER),
        {"status": "succeeded", "error": StepError(code="cached_answer", detail="old"), "results": {"x": 1},
         "ended_at": LATER, **AT_REST},
    ),
    "waiting": (
        lambda s: s.waiting("x", ("y",), LATER),
        {**AT_REST, "waits_for": "x", "refused_by": ("y",), "deadline_at": LATER, "error": None, "unknown": False},
    ),
    "waiting for a person": (
        lambda s: s.waiting("x", (), LATER, StepError(code="manual", detail="d")),
        {**AT_REST, "waits_for": "x", "deadline_at": LATER, "error": StepError(code="manual", detail="d"),
         "unknown": False},
    ),
    "queued": (
        lambda s: s.queued(DOWN, NOW, NOW + 2 * DAY, LATER),
        {"error": StepError(code="vendor_unavailable", detail="queued until 2027-06-03 12:00 UTC"),
         "waits_for": VENDOR_BACK, "refused_by": (), "deadline_at": LATER, "queued_until": NOW + 2 * DAY},
    ),
    "held": (
        lambda s: s.held(FULL, 2 * DAY, NOW, unknown=False),
        {**AT_REST, "status": "held", "error": StepError(code="card_declined", detail="no funds"), "unknown": False,
         "deadline_at": NOW + 2 * DAY, "remind_at": LATER},
    ),
    "held, its outcome unknown": (
        lambda s: s.held(FULL, 2 * DAY, NOW, unknown=True),
        {**AT_REST, "status": "held", "error": StepError(code="outcome_unknown", detail="no funds"),
         "deadline_at": NOW + 2 * DAY, "remind_at": LATER},
    ),
    "left open": (
        lambda s: s.left_open(StepError(code="internal", detail="d"), unknown=False),
        {**AT_REST, "status": "held", "error": StepError(code="internal", detail="d"), "unknown": False},
    ),
    "failed": (
        lambda s: s.failed(StepError(code="x", detail="d"), LATER),
        {**AT_REST, "status": "failed", "error": StepError(code="x", detail="d"), "ended_at": LATER},
    ),
    "refused": (lambda s: s.refused(StepError(code="x", detail="d")), {"error": StepError(code="x", detail="d")}),
    "skipped": (
        lambda s: s.skipped({"x": 1}, None, LATER),
        {**AT_REST, "status": "skipped", "results": {"x": 1}, "error": None, "ended_at": LATER, "unknown": False},
    ),
    "not begun": (lambda s: s.not_begun(), {"status": "skipped"}),
    "compensated": (lambda s: s.compensated(None), {"compensation": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTS)
def test_an_act_sets_what_it_says_and_leaves_the_rest(name: str) -> None:
    act, changes = ACTS[name]
    before = BUSY.model_copy()
    after = act(BUSY)
    assert after.model_dump() == StepState(**{**BUSY.__dict__, **changes}).model_dump()
    assert before == BUSY
    assert StepState.model_validate_json(after.model_dump_json()) == after


def test_every_act_is_in_the_table() -> None:
    acts = {name for name, member in vars(StepState).items() if callable(member) and not name.startswith("_")}
    assert acts - {name.partition(",")[0].replace(" ", "_") for name in ACTS} == set()


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.due(NOW),
        lambda s: s.of("t1"),
        lambda s: s.in_round(2),
        lambda s: s.holding("ch_1"),
        lambda s: s.compensated(DONE),
    ],
)
def test_an_act_that_says_nothing_new_makes_nothing_new(act: Callable[[StepState], StepState]) -> None:
    assert act(BUSY) is BUSY


def test_a_step_that_begins_keeps_when_it_first_began() -> None:
    fresh = StepState(step_id="venue", status="pending")
    assert (fresh.begun(NOW).started_at, fresh.begun(NOW).begun(LATER).started_at) == (NOW, NOW)


@pytest.mark.parametrize("changes", [{"statsu": "held"}, {"status": "heldd"}, {"attempts": "many"}, {"due_at": 3.5j}])
def test_a_misspelt_field_or_a_wrong_value_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BUSY._with(**changes)


def test_a_wrong_value_given_to_an_act_raises() -> None:
    with pytest.raises(ValidationError):
        BUSY.holding(7)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        CompensationResult(status="gone")


def test_a_lasting_undo_needs_a_person() -> None:
    left = CompensationResult(status="undone", attempts=2, detail="d").must_be_undone()
    assert left == CompensationResult(status="needs_attention", attempts=2, detail="d")


@pytest.mark.parametrize(("at", "status"), [(None, "pending"), ("ceremony - 3d", "scheduled")])
def test_a_step_that_begins_anew_goes_on_with_its_rounds_alone(at: str | None, status: Any) -> None:
    assert unbegun("venue", at) == StepState(step_id="venue", status=status)
    assert unbegun("venue", at, BUSY) == StepState(step_id="venue", status=status, round=2)


@pytest.mark.parametrize(("failure", "code"), [(DOWN, "vendor_unavailable"), (FULL, "card_declined")])
def test_a_failure_is_shown_by_its_reason_where_there_is_one(failure: Failure, code: str) -> None:
    assert step_error(failure) == StepError(code=code, detail=failure.detail)
