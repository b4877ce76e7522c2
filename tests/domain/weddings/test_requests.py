from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wedsync.domain.plans.fill_inputs import Facts
from wedsync.domain.plans.plan import Compensation, PlannedStep
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings import requests
from wedsync.domain.weddings.closing import closing_as
from wedsync.domain.weddings.ledger import Binding, Field, LedgerEntry
from wedsync.domain.weddings.messages import Decision, TransactionRequest, WeddingStart
from wedsync.domain.weddings.step import VENDOR_BACK, CompensationResult, StepState
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.wedding_state import PlanFacts, TransactionCard, WeddingState

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


def step(step_id: str, *needs: str, **more: Any) -> PlannedStep:
    values: dict[str, Any] = {
        "id": step_id, "action": "booking.request", "service": "villa", "capability": "booking",
        "vendors": ("generic",), "account": "villa", "critical": False, "inputs": {}, "needs": needs,
        "window": "preparation", "at": None, "fold": None, "timeout_seconds": 60, "on_failure": "continue",
        "compensation": Compensation(), "compensation_deadline_seconds": 60, "early": False, "delivery": "hold",
        "decide_within_seconds": 60, "otherwise": None, "default_results": {}, "endpoints": {},
        "real_time_updates": False,
    }  # fmt: skip
    return PlannedStep(**{**values, **more})


def state(step_id: str, status: Any = "pending", **more: Any) -> StepState:
    return StepState(step_id=step_id, status=status, **more)


def entry(step_id: str, tx: str = "t1", origin: str = "t1", **more: Any) -> LedgerEntry:
    spec = ActionSpec(name="booking.request", undo="exact", operations=(OperationSpec(name="do"),))
    binding = Binding(
        vendor="generic", account="villa", inputs={}, round=1, reference="r", spec=spec, transaction_id=tx, bound_at=NOW
    )
    values: dict[str, Any] = {"step_id": step_id, "binding": binding, "state": "standing", "done": ("do",)}
    fields = {"effect": Field(value=None, set_by_tx=tx)}
    return LedgerEntry(**{**values, "fields": fields, "origin_tx": origin, **more})


def wedding(*steps: PlannedStep, states: dict[str, StepState] | None = None, **more: Any) -> WeddingState:
    facts = PlanFacts(
        version=1,
        locale="en",
        zone="Europe/Rome",
        ceremony_local="2027-06-19T16:00",
        ceremony_at=NOW + timedelta(days=18),
        ends_at=NOW + timedelta(days=20),
        tzdata_version="x",
        parallelism=2,
        steps=steps,
        wedding=Facts(constants={}, contacts=(), currency="EUR"),
    )
    start = WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19")
    every = {s.id: state(s.id) for s in steps} | (states or {})
    return WeddingState(start=start, status=more.pop("status", "active"), plan=facts, states=every, **more)


def event(type_: str = "payment.succeeded", **more: Any) -> VendorEvent:
    return VendorEvent(**{"source": "stripe", "event_id": "e1", "type": type_, "vendor_type": type_, **more})


def request_of(kind: Any = "orchestrate", **more: Any) -> TransactionRequest:
    return TransactionRequest(id="r", kind=kind, seq=1, **more)


def decision(step_id: str, choice: Any, vendor: str | None = None) -> TransactionRequest:
    return request_of("scheduled", decision=Decision(step_id=step_id, choice=choice, vendor=vendor))


HELD = {"a": state("a", "held", vendor="generic")}
UNKNOWN = {"a": state("a", "held", vendor="generic", unknown=True)}
LATER = step("b", "a", inputs={"notes": "${a.reference}"})
CLOSING = closing_as("ended", NOW, NOW)
DONE_CARD = {"t1": TransactionCard(id="t1", kind="orchestrate", status="rolled_back", origin="t1")}
PARKED_CARD = {"t1": TransactionCard(id="t1", kind="orchestrate", status="needs_attention", origin="t1")}


@pytest.mark.parametrize(
    ("held", "request_", "code"),
    [
        (wedding(step("a")), request_of(), None),
        (wedding(step("a"), origin="t1"), request_of(), "already_orchestrated"),
        (wedding(step("a"), cards=PARKED_CARD), request_of(), "already_orchestrated"),
        (wedding(step("a"), cards=PARKED_CARD), request_of("undo", target="t1"), None),
        (wedding(step("a"), cards=DONE_CARD), request_of(), None),
        (wedding(step("a"), status="ended"), request_of(), "wedding_over"),
        (wedding(step("a"), status="cancelled"), request_of("undo", target="t1"), "wedding_over"),
        (wedding(step("a"), closing=CLOSING), request_of(), "wedding_over"),
        (wedding(step("a"), closing=CLOSING), request_of("timeline"), "wedding_over"),
        (wedding(step("a"), closing=CLOSING), request_of("undo", target="t1"), None),
        (wedding(step("a"), closing=CLOSING, states=HELD), decision("a", "retry"), None),
        (wedding(step("a"), cards=DONE_CARD), request_of("undo", target="t1"), "already_undone"),
        (wedding(step("a")), request_of("undo", target="t9"), None),
        (wedding(step("a"), states=HELD), request_of("timeline"), "steps_open"),
        (wedding(step("a"), states={"a": state("a", "waiting")}), request_of("timeline"), "steps_open"),
        (wedding(step("a")), request_of("timeline"), None),
        (wedding(step("a")), decision("a", "retry"), "not_held"),
        (wedding(step("a")), decision("zz", "retry"), "not_held"),
        (wedding(step("a"), states=HELD), decision("a", "retry"), None),
        (wedding(step("a"), states=UNKNOWN), decision("a", "retry"), "outcome_unknown"),
        (wedding(step("a"), states=UNKNOWN, entries={"a": entry("a")}), decision("a", "retry"), None),
        (wedding(step("a"), states=HELD), decision("a", "use"), "vendor_missing"),
        (wedding(step("a"), states=UNKNOWN), decision("a", "use", "vsco"), "outcome_unknown"),
        (wedding(step("a"), states=HELD), decision("a", "use", "vsco"), None),
        (wedding(step("a"), LATER, states=HELD), decision("a", "skip"), "result_needed"),
        (wedding(step("a", default_results={"reference": "x"}), LATER, states=HELD), decision("a", "skip"), None),
        (wedding(step("a"), step("b", "a"), states=HELD), decision("a", "skip"), None),
    ],
)
def test_what_is_refused_and_why(held: WeddingState, request_: TransactionRequest, code: str | None) -> None:
    error = requests.refusal(held, request_)
    assert (error.code if error else None) == code


@pytest.mark.parametrize(
    ("given", "kept", "fits"),
    [
        (event(object_id="pi_1"), entry("a", external_id="pi_1"), True),
        (event(object_id="ch_1"), entry("a", external_id="pi_1", facts={"charge": "ch_1"}), True),
        (event(object_id="part2"), entry("a", external_id="pi_1", facts={"parts": ["part1", "part2"]}), True),
        (event(object_id="pi_2", step_id="a"), entry("a", external_id="pi_1", facts={"more": [{"x": 1}]}), False),
        (event(object_id="pi_2", step_id="a"), entry("a", external_id="pi_1"), False),
        (event(step_id="a"), entry("a", external_id="pi_1"), True),
        (event(step_id="b"), entry("a", external_id="pi_1"), False),
        (event(object_id="pi_9", step_id="a"), None, True),
        (event("payment.failed", object_id="pi_1"), entry("a", external_id="pi_1"), True),
        (event("calendar.changed", object_id="pi_1"), entry("a", external_id="pi_1"), False),
    ],
)
def test_an_event_fits_the_very_object_that_waits(given: VendorEvent, kept: LedgerEntry | None, fits: bool) -> None:
    waiting = state("a", "waiting", waits_for="payment.succeeded", refused_by=("payment.failed",))
    assert requests.event_fits(given, waiting, kept) is fits


def test_a_yes_counts_more_than_a_no_that_came_before() -> None:
    waiting = state("a", "waiting", waits_for="payment.succeeded", refused_by=("payment.failed",))
    no, yes = event("payment.failed", event_id="e1", step_id="a"), event(event_id="e2", step_id="a")
    held = wedding(step("a"), states={"a": waiting}, entries={"a": entry("a")}, events=(no, yes))
    assert dict(requests.answers(held)) == {"a": yes}
    assert dict(requests.answers(held.model_copy(update={"events": (yes, no)}))) == {"a": yes}


@pytest.mark.parametrize(
    ("status", "compensation", "matters"),
    [("waiting", None, True), ("pending", None, True), ("succeeded", None, False), ("failed", "needs_attention", True)],
)
def test_only_events_that_may_matter_are_kept(status: Any, compensation: Any, matters: bool) -> None:
    undo = CompensationResult(status=compensation) if compensation else None
    held = wedding(step("a"), states={"a": state("a", status, compensation=undo)})
    assert requests.may_matter(held, event(step_id="a")) is matters
    assert requests.may_matter(held, event())


def test_what_a_step_may_wait_for_outlives_reports() -> None:
    answer, named = event(event_id="answer"), event("message.delivered", event_id="named", step_id="a")
    reports = [event(kind, event_id=kind) for kind in ("message.delivered", "calendar.changed")]
    left: tuple[Any, ...] = (answer, reports[0], named, reports[1])
    for fewer in ((answer, named, reports[1]), (answer, named), (named,), ()):
        left = requests.shed(left)
        assert left == fewer


def test_a_hand_undoes_only_what_waits_for_a_hand() -> None:
    parked = state("a", "failed", compensation=CompensationResult(status="needs_attention"))
    said = tuple(event("hand.undone", event_id=f"e-{i}", step_id=i) for i in "ab")
    held = wedding(step("a"), step("b"), states={"a": parked, "b": state("b", "succeeded")}, events=said)
    assert requests.manually_undone(held) == ("a",)


def test_the_agenda_brings_answers_late_ones_and_what_is_due_with_them() -> None:
    states = {
        "a": state("a", "waiting", waits_for="payment.succeeded", deadline_at=NOW),
        "b": state("b", "waiting", waits_for="x", deadline_at=NOW - timedelta(hours=1)),
        "d": state("d", "scheduled", due_at=NOW + timedelta(hours=1)),
    }
    steps = (step("a"), step("b"), step("c", "a", "b"), step("d", at="x"))
    held = wedding(*steps, states=states, entries={"a": entry("a")}, events=(event(step_id="a"),), origin="t1")
    tasks = requests.scheduled_tasks(held, NOW)
    assert [(task.step.id, task.kind) for task in tasks] == [("a", "answer"), ("b", "late"), ("c", "do")]
    without = requests.scheduled_tasks(held.model_copy(update={"origin": ""}), NOW)
    assert [task.step.id for task in without] == ["a", "b"]


def test_only_who_waits_for_a_vendor_to_be_back_is_sent_again() -> None:
    since = {"deadline_at": NOW, "queued_at": NOW - timedelta(hours=1), "queued_until": NOW + timedelta(days=1)}
    states = {
        "a": state("a", "waiting", waits_for=VENDOR_BACK, **since),
        # As weddings from before carry it: it was queued, and then its call went through.
        "b": state("b", "waiting", waits_for="payment.succeeded", **since),
    }
    held = wedding(step("a"), step("b"), states=states, entries={"b": entry("b", state="waiting")})
    assert [(task.step.id, task.kind) for task in requests.scheduled_tasks(held, NOW)] == [("a", "do"), ("b", "late")]


def test_a_retry_raises_the_round_only_after_a_known_non_effect() -> None:
    known = wedding(step("a"), states={"a": state("a", "held", round=2)})
    (task,) = requests.decision_tasks(known, Decision(step_id="a", choice="retry"), NOW)
    assert (task.round, task.entry) == (3, None)
    lost = wedding(step("a"), states={"a": state("a", "held", round=2, unknown=True)}, entries={"a": entry("a")})
    (task,) = requests.decision_tasks(lost, Decision(step_id="a", choice="retry"), NOW)
    assert (task.round, task.vendors, task.entry) == (2, ("generic",), entry("a"))


WAITS = OperationSpec(name="do", waits_for="booking.confirmed")


@pytest.mark.parametrize(
    ("spec", "known", "kind", "done"),
    [
        # Whose word was waited for is asked, who was to do it by hand is asked again.
        ({"operations": (WAITS,)}, {}, "late", ("do",)),
        ({"manual": True}, {}, "do", ()),
        # What got lost is resolved; a step that waits for no word goes on.
        ({"operations": (WAITS,)}, {"unknown_operation": "more"}, "do", ("do",)),
        ({"operations": (WAITS,)}, {"unknown_operation": "do", "done": ()}, "do", ()),
        ({"operations": (OperationSpec(name="do"),)}, {}, "do", ("do",)),
    ],
)
def test_a_retry_of_what_may_stand_asks_whom_it_waited_for(
    spec: dict[str, Any], known: dict[str, Any], kind: str, done: tuple[str, ...]
) -> None:
    bare = entry("a", state="parked", **known)
    said = bare.binding.spec.model_copy(update={"operations": (), **spec})
    kept = bare.model_copy(update={"binding": bare.binding.model_copy(update={"spec": said})})
    held = wedding(step("a"), states=UNKNOWN, entries={"a": kept})
    (task,) = requests.decision_tasks(held, Decision(step_id="a", choice="retry"), NOW)
    assert (task.kind, task.in_effect().done) == (kind, done)


def test_another_vendor_is_used_with_what_becomes_due() -> None:
    held = wedding(step("a"), step("b", "a"), states=HELD, origin="t1")
    tasks = requests.decision_tasks(held, Decision(step_id="a", choice="use", vendor="vsco"), NOW)
    assert [(task.step.id, task.vendors) for task in tasks] == [("a", ("vsco",)), ("b", ())]


def test_a_change_moves_what_stands_and_holds_a_time() -> None:
    steps = (step("a"), step("pay", capability="payments"), step("c"), step("d"))
    states = {i: state(i, "succeeded") for i in ("a", "pay", "c")} | {"d": state("d", "failed")}
    entries = {"a": entry("a"), "pay": entry("pay"), "c": entry("c", state="begun"), "d": entry("d")}
    held = wedding(*steps, states=states, entries=entries)
    assert [task.step.id for task in requests.change_tasks(held)] == ["a"]


def test_an_undo_touches_what_its_target_set_or_planned() -> None:
    entries = {
        "a": entry("a", "t1"),
        "b": entry("b", "t2", "t1"),
        "c": entry("c", "t3", "t3"),
        "d": entry("d", "t1", state="undone"),
        "e": entry("e", "t1", done=()),
    }
    steps = tuple(step(i) for i in "abcdef")
    states = {i: state(i, "succeeded") for i in "abcde"}
    held = wedding(*steps, states=states, entries=entries, origin="t1")

    def undone(target: str | None) -> list[str]:
        return [e.step_id for e in requests.to_undo(held, target)]

    assert (undone("t1"), undone("t2"), undone(None)) == (["a", "b"], ["b"], ["a", "b", "c"])
    spoken = requests.undo_states(held, "t1", requests.to_undo(held, "t1"))
    assert [s.step_id for s in spoken] == ["a", "b", "f"]
    assert [s.step_id for s in requests.undo_states(held, "t2", requests.to_undo(held, "t2"))] == ["b"]


@pytest.mark.parametrize(
    ("step_id", "holder", "target"),
    [
        ("venue", "t1", "t1"),
        ("venue", "t5", "t1"),
        ("food", "t1", "t1"),
        ("sms", "t2", "t2"),
        ("sms", "t1", "t1"),
        ("guide", "t3", "t3"),
        ("guide", None, "t1"),
    ],
)
def test_a_rollback_takes_back_what_was_due_with_the_step_and_nothing_older(
    step_id: str, holder: str | None, target: str
) -> None:
    steps = (step("venue"), step("food", "venue"), step("sms", "venue", at="ceremony - 30d"), step("guide", "sms"))
    held = wedding(*steps, states={step_id: state(step_id, "held", transaction_id=holder)}, origin="t1")
    assert requests.rollback_target(held, step_id) == target


@pytest.mark.parametrize(
    ("inputs_by", "target", "named"),
    [("t1", "t1", ()), ("t7", "t1", ("a.inputs",)), ("t7", "t0", ("a.inputs",)), ("t7", None, ())],
)
def test_what_was_set_anew_since_is_named(inputs_by: str, target: str | None, named: tuple[str, ...]) -> None:
    fields = {"effect": Field(value="x", set_by_tx="t1"), "inputs": Field(value=None, set_by_tx=inputs_by)}
    assert requests.superseded(target, [entry("a", "t1", "t0", fields=fields)]) == named


@pytest.mark.parametrize(
    ("set_by", "status", "code", "detail"),
    [
        ("m1", "completed", None, ""),
        ("m2", "completed", "superseded", "by m2"),
        ("", "completed", "superseded", "undone since"),
        ("", "needs_attention", "not_undoable", "put back"),
    ],
)
def test_only_the_move_that_stands_is_undone(set_by: str, status: Any, code: str | None, detail: str) -> None:
    card = TransactionCard(id="m1", kind="timeline", status=status, origin="t1")
    error = requests.move_back_refusal(wedding(step("a"), ceremony_set_by=set_by), card)
    assert (error.code if error else None) == code
    assert detail in (error.detail if error else "")


def test_the_undo_of_a_scheduled_transaction_speaks_of_what_it_holds() -> None:
    states = {"a": state("a", "succeeded"), "b": state("b", "held", transaction_id="t2"), "c": state("c", "scheduled")}
    held = wedding(step("a"), step("b"), step("c"), states=states, entries={"a": entry("a")}, origin="t1")
    assert [s.step_id for s in requests.undo_states(held, "t2", ())] == ["b"]


def test_the_first_tasks_are_what_is_due_now() -> None:
    held = wedding(step("a"), step("b", "a"), step("c", at="x"))
    assert [(task.step.id, task.round) for task in requests.first_tasks(held, NOW)] == [("a", 1), ("b", 1)]


def test_five_hundred_changes_leave_a_wedding_small_enough_to_carry() -> None:
    steps = tuple(step(f"step-number-{n}", inputs={"title": "x" * 100}) for n in range(60))
    entries = {s.id: entry(s.id, external_id="x" * 30, facts={"booking_id": "y" * 30}) for s in steps}
    cards = {
        f"tx{n}": TransactionCard(id=f"tx{n:026}", kind="timeline", status="completed", origin="t1") for n in range(51)
    }
    held = wedding(
        *steps,
        entries=entries,
        cards=cards,
        seen=tuple(f"{n:026}" for n in range(500)),
        known_events=tuple(f"stripe:evt_{n:024}" for n in range(1000)),
    )
    assert len(held.model_dump_json()) < 256 * 1024


UNDONE = CompensationResult(status="undone")
TO_UNDO = CompensationResult(status="needs_attention")


@pytest.mark.parametrize(
    ("done", "kept", "stands"),
    [
        (state("a", "succeeded"), entry("a"), True),
        (state("a", "succeeded"), None, True),
        (state("a", "skipped", compensation=UNDONE), None, True),
        (state("a", "failed"), None, False),
        (state("a", "succeeded", compensation=UNDONE), None, False),
        # What was undone is another vendor's: the step stands at this one.
        (state("a", "succeeded", compensation=UNDONE), entry("a"), True),
        (state("a", "succeeded", compensation=TO_UNDO), entry("a"), True),
        (state("a", "succeeded", compensation=TO_UNDO), entry("a", state="parked"), False),
    ],
)
def test_nothing_builds_on_what_was_undone(done: StepState, kept: LedgerEntry | None, stands: bool) -> None:
    held = wedding(step("a"), states={"a": done}, entries={"a": kept} if kept else {})
    assert requests.stands(held, "a") is stands


def test_what_was_done_already_goes_on_without_a_need_that_was_undone() -> None:
    states = {"a": state("a", "succeeded", compensation=UNDONE), "b": state("b", "waiting"), "c": state("c")}
    held = wedding(step("a"), step("b", "a"), step("c", "a"), states=states, entries={"b": entry("b")})
    answer = StepTask(kind="answer", step=step("b", "a"), entry=entry("b"), state=states["b"])
    new = StepTask(kind="do", step=step("c", "a"), state=states["c"])
    assert [task.step.needs for task in requests.on_active_entries(held, (answer, new))] == [(), ("a",)]


@pytest.mark.parametrize(
    ("status", "tx", "target", "tried"),
    [
        ("succeeded", "t2", "t1", True),
        ("succeeded", "t2", "t3", False),
        ("held", "t2", "t1", False),
        ("held", "t1", "t1", True),
        ("held", "t2", None, True),
    ],
)
def test_an_undo_tries_what_was_left_behind_unless_its_step_goes_on(
    status: Any, tx: str, target: str | None, tried: bool
) -> None:
    states = {"a": state("a", status, transaction_id=tx)}
    held = wedding(step("a"), origin="t0", states=states, leftovers=(entry("a", origin="t0", state="parked"),))
    assert bool(requests.left_behind(held, target, NOW)) is tried
