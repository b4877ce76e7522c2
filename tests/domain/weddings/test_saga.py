from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.plans.plan import Compensation, PlannedStep
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.ledger import Binding, Field, LedgerEntry
from wedsync.domain.weddings.messages import StepStatus
from wedsync.domain.weddings.step import CompensationResult, StepState

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
STATUSES: tuple[StepStatus, ...] = get_args(StepStatus)


def step(step_id: str, *needs: str, **more: Any) -> PlannedStep:
    values: dict[str, Any] = {
        "id": step_id,
        "action": "booking.request",
        "service": "villa",
        "capability": "booking",
        "vendors": ("generic",),
        "account": "villa",
        "critical": False,
        "inputs": {},
        "needs": needs,
        "window": "preparation",
        "at": None,
        "fold": None,
        "timeout_seconds": 3600,
        "on_failure": "continue",
        "compensation": Compensation(),
        "compensation_deadline_seconds": 3600,
        "early": False,
        "delivery": "hold",
        "decide_within_seconds": 3600,
        "otherwise": None,
        "default_results": {},
        "endpoints": {},
        "real_time_updates": False,
    }
    return PlannedStep(**{**values, **more})


def state(step_id: str, status: StepStatus = "succeeded", **more: Any) -> StepState:
    return StepState(step_id=step_id, status=status, **more)


def entry(step_id: str = "a", *, spec: ActionSpec | None = None, counter_text: str = "", **more: Any) -> LedgerEntry:
    spec = spec or ActionSpec(name="booking.request", undo="exact", operations=(OperationSpec(name="do"),))
    binding = Binding(
        vendor="generic",
        account="villa",
        inputs={},
        round=1,
        reference="r" * 32,
        spec=spec,
        transaction_id="tx",
        counter_text=counter_text,
        bound_at=NOW,
    )
    return LedgerEntry(**{"step_id": step_id, "binding": binding, "state": "standing", "done": ("do",), **more})


# -- keys


@given(st.lists(st.text(min_size=1, max_size=20), min_size=5, max_size=5), st.integers(1, 9))
def test_a_key_is_short_ascii_and_the_same_each_time(words: list[str], round_: int) -> None:
    wedding, tx, step_id, operation, vendor = words
    key = saga.idempotency_key(wedding, tx, step_id, operation, vendor, round_)
    assert key == saga.idempotency_key(wedding, tx, step_id, operation, vendor, round_)
    assert len(key) == 43
    assert key.isascii()
    assert key != saga.idempotency_key(wedding, tx, step_id, operation, vendor, round_ + 1)


@given(st.lists(st.sampled_from("ab"), min_size=5, max_size=5), st.lists(st.sampled_from("ab"), min_size=5, max_size=5))
def test_different_calls_have_different_keys(one: list[str], other: list[str]) -> None:
    first, second = (saga.idempotency_key(w, t, s, o, v, 1) for w, t, s, o, v in (one, other))
    assert (first == second) == (one == other)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_reference_fits_the_strictest_vendor(wedding: str, step_id: str) -> None:
    reference = saga.reference(wedding, "tx", step_id, "google_calendar", 1)
    assert len(reference) == 32
    assert set(reference) <= set("0123456789abcdefghijklmnopqrstuv")


# -- waiting and giving up


@given(st.integers(1, 5000), st.floats(0, 0.999))
def test_waits_grow_to_a_cap_and_jitter_takes_a_fifth_at_most(attempt: int, jitter: float) -> None:
    full = saga.delay_seconds(attempt, 0)
    assert 0.5 <= full <= (30 if attempt <= 20 else 600)
    assert full <= saga.delay_seconds(attempt + 1, 0)
    assert full * 0.8 <= saga.delay_seconds(attempt, jitter) <= full


def test_a_day_of_an_outage_is_some_two_hundred_tries() -> None:
    waited = tries = 0.0
    while waited < 24 * 3600:
        tries += 1
        waited += saga.delay_seconds(int(tries), 0.5)
    assert 150 < tries < 250


@pytest.mark.parametrize(
    ("attempt", "fallback", "seconds_left", "leaves"),
    [(3, True, 60, False), (4, True, 60, True), (40, False, 60, False), (1, False, 0, True), (1, True, -1, True)],
)
def test_a_failing_vendor_is_left_in_time(attempt: int, fallback: bool, seconds_left: int, leaves: bool) -> None:
    give_up_at = NOW + timedelta(seconds=seconds_left)
    assert saga.may_give_up(attempt, fallback_ready=fallback, now=NOW, give_up_at=give_up_at) is leaves


@pytest.mark.parametrize(("fallback", "leaves"), [(True, True), (False, False)])
def test_a_vendor_that_is_cut_off_is_left_at_once_when_another_stands_ready(fallback: bool, leaves: bool) -> None:
    later = NOW + timedelta(minutes=1)
    assert saga.may_give_up(1, fallback_ready=fallback, now=NOW, give_up_at=later, is_cut_off=True) is leaves


@pytest.mark.parametrize(
    ("spec", "after_seconds", "again"),
    [
        ({"on_unknown": "replay"}, 0, True),
        ({"on_unknown": "unsafe"}, 10_000, False),
        ({"on_unknown": "find"}, 71, False),
        ({"on_unknown": "find"}, 72, True),
        ({"on_unknown": "find", "refuses_duplicates": True}, 0, True),
        ({"on_unknown": "unsafe", "read": True}, 0, True),
    ],
)
def test_a_lost_call_is_sent_again_only_when_it_cannot_double(
    spec: dict[str, Any], after_seconds: int, again: bool
) -> None:
    operation = OperationSpec(name="do", **spec)
    now = NOW + timedelta(seconds=after_seconds)
    assert saga.may_resend(operation, now=now, last_sent_at=NOW, start_to_close_seconds=12) is again


# -- failures


@pytest.mark.parametrize(
    ("on_failure", "kind", "unknown", "decision"),
    [
        ("rollback", "orchestrate", False, "rollback"),
        ("hold", "orchestrate", False, "hold"),
        ("continue", "orchestrate", False, "continue"),
        ("rollback", "scheduled", False, "hold"),
        ("continue", "scheduled", False, "continue"),
        ("continue", "orchestrate", True, "hold"),
        ("rollback", "scheduled", True, "hold"),
        ("continue", "timeline", False, "rollback"),
        ("hold", "timeline", True, "rollback"),
    ],
)
def test_what_a_failure_does(on_failure: Any, kind: Any, unknown: bool, decision: str) -> None:
    assert saga.on_step_failure(on_failure, kind, unknown=unknown) == decision


# -- who may run


@st.composite
def dags(draw: st.DrawFn) -> list[PlannedStep]:
    size = draw(st.integers(1, 8))
    return [
        step(f"s{n}", *draw(st.sets(st.sampled_from([f"s{m}" for m in range(n)]))) if n else ()) for n in range(size)
    ]


@given(dags(), st.data())
def test_a_ready_step_has_all_it_needs_and_no_doomed_step_is_ready(
    steps: list[PlannedStep], data: st.DataObject
) -> None:
    status = {s.id: data.draw(st.sampled_from(STATUSES)) for s in steps}
    ready = {s.id for s in saga.ready(steps, status, ())}
    doomed = {s.id for s in saga.doomed(steps, status, ())}
    assert not ready & doomed
    for one in steps:
        if status[one.id] != "pending":
            assert one.id not in ready | doomed
        elif all(status[need] in ("succeeded", "skipped") for need in one.needs):
            assert one.id in ready
        else:
            assert (one.id in doomed) == any(status[need] == "failed" for need in one.needs)


def test_a_need_of_an_earlier_transaction_counts_when_satisfied_and_dooms_when_not() -> None:
    steps = [step("b", "a")]
    assert [s.id for s in saga.ready(steps, {"b": "pending"}, {"a"})] == ["b"]
    assert saga.doomed(steps, {"b": "pending"}, {"a"}) == []
    assert saga.ready(steps, {"b": "pending"}, ()) == []
    assert [s.id for s in saga.doomed(steps, {"b": "pending"}, ())] == ["b"]


@given(dags())
def test_whoever_depends_on_a_step_is_undone_before_it(steps: list[PlannedStep]) -> None:
    needs = {s.id: s.needs for s in steps}
    found = saga.dependents(list(needs), needs)
    for one in steps:
        assert one.id not in found[one.id]
        for need in one.needs:
            assert found[need] >= found[one.id] | {one.id}


def test_a_dependence_through_a_step_without_effect_counts() -> None:
    needs = {"c": ("b",), "b": ("a",), "a": ()}
    assert saga.dependents(["a", "c"], needs) == {"a": frozenset({"c"}), "c": frozenset()}


# -- what a transaction came to


@pytest.mark.parametrize(
    ("statuses", "given_", "status"),
    [
        (["succeeded", "failed"], {}, "completed"),
        (["succeeded", "waiting"], {}, "waiting"),
        (["waiting", "held"], {}, "held"),
        (["succeeded", "pending"], {}, "completed"),
        (["failed"], {"rolled_back": True}, "rolled_back"),
        (["held"], {"rolled_back": True, "cancelled": True}, "cancelled"),
        (["failed"], {"rolled_back": True, "cancelled": True, "parked": True}, "needs_attention"),
    ],
)
def test_what_steps_make_of_their_transaction(statuses: list[Any], given_: dict[str, bool], status: str) -> None:
    states = [state(f"s{n}", word) for n, word in enumerate(statuses)]
    assert saga.transaction_status(states, **given_) == status


def test_a_rollback_with_a_parked_undo_needs_attention() -> None:
    parked = state("a", compensation=CompensationResult(status="needs_attention"))
    assert saga.transaction_status([parked], rolled_back=True) == "needs_attention"
    assert saga.gaps([state("b", "failed"), state("a", "failed"), state("c")]) == ("a", "b")


# -- undo


_READ = OperationSpec(name="do", read=True)


@pytest.mark.parametrize(
    ("made", "planned", "plan"),
    [
        ({"done": ()}, {}, "nothing"),
        ({"state": "undone"}, {}, "nothing"),
        ({"spec": {"operations": (_READ,)}}, {}, "nothing"),
        ({}, {"compensation": Compensation(by="none")}, "leave"),
        ({}, {"compensation": Compensation(by="hand")}, "hand"),
        ({"spec": {"undo_manual": True}}, {}, "hand"),
        ({"spec": {"undo": "none"}}, {}, "leave"),
        ({"spec": {"undo": "counter"}}, {}, "leave"),
        ({"spec": {"undo": "counter"}, "counter_text": "sorry"}, {}, "counter"),
        ({"lost": {"on_unknown": "unsafe"}}, {}, "ask"),
        ({"lost": {"on_unknown": "find"}}, {}, "find_first"),
        ({"lost": {"on_unknown": "replay"}}, {}, "replay_first"),
        ({"lost": {"harmless": True}}, {}, "nothing"),
        ({"lost": {"on_unknown": "find"}, "external_id": "x"}, {}, "find_first"),
        ({"lost": {"on_unknown": "replay"}, "external_id": "x"}, {}, "call"),
        ({}, {}, "call"),
    ],
)
def test_how_an_effect_is_undone(made: dict[str, Any], planned: dict[str, Any], plan: str) -> None:
    lost = made.pop("lost", None)
    more = {"undo": "exact", "operations": (OperationSpec(name="do", **(lost or {})),), **made.pop("spec", {})}
    known = {"done": (), "unknown_operation": "do"} if lost else {}
    found, why = saga.undo_plan(entry(spec=ActionSpec(name="x", **more), **{**known, **made}), step("a", **planned))
    assert found == plan
    assert why or plan == "call"


@given(st.sampled_from(["begun", "standing", "waiting", "parked", "undone"]), st.booleans(), st.booleans())
def test_only_what_was_sent_may_have_happened(kept: Any, done: bool, lost: bool) -> None:
    made = entry(state=kept, done=("do",) if done else (), unknown_operation="do" if lost else None)
    assert saga.may_have_happened(made) == (kept != "undone" and (done or lost))


def test_an_effect_belongs_to_who_made_it_and_to_who_planned_it() -> None:
    made = entry(fields={"effect": Field(value="x", set_by_tx="t2")}, origin_tx="t1")
    assert [made.set_by(tx) for tx in ("t1", "t2", "t3")] == [True, True, False]
