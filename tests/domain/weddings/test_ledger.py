"""A ledger entry changes by named acts: each sets what it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from wedsync.domain.vendors.call import Effect
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings.ledger import MANUAL, Binding, Field, LedgerEntry, Recheck, first_recheck

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
SPEC = ActionSpec(
    name="booking.request",
    undo="exact",
    operations=(OperationSpec(name="quote"), OperationSpec(name="book")),
    change_operations=(OperationSpec(name="move"),),
)
BINDING = Binding(
    vendor="generic", account="v", inputs={"a": 1}, round=1, reference="r", spec=SPEC, transaction_id="t1", bound_at=NOW
)
FIELDS = {"effect": Field(value="bk_1", set_by_tx="t1"), "inputs": Field(value=None, set_by_tx="t1")}
#: Every field is set, so that an act shows what it leaves alone.
FULL = LedgerEntry(
    step_id="venue",
    binding=BINDING,
    state="begun",
    external_id="bk_1",
    facts={"reference": "R7"},
    etag="e1",
    content="c1",
    uncertain=True,
    done=("quote", "book", "move"),
    unknown_operation="book",
    last_sent_at=NOW,
    undo_rounds={"cancel": 1},
    fields=FIELDS,
    origin_tx="t0",
)
EFFECT = Effect(state="done", external_id="bk_2", facts={"x": 1}, etag="e2", content="c2")

ACTS: dict[str, tuple[Callable[[LedgerEntry], LedgerEntry], dict[str, Any]]] = {
    "in state": (lambda e: e.in_state("parked"), {"state": "parked"}),
    "under way": (lambda e: e.under_way("quote", LATER), {"unknown_operation": "quote", "last_sent_at": LATER}),
    "not under way": (lambda e: e.not_under_way(), {"unknown_operation": None}),
    "with effect": (
        lambda e: e.with_effect("book", EFFECT),
        {"unknown_operation": None, "done": ("quote", "book", "move", "book"), "external_id": "bk_2",
         "facts": {"reference": "R7", "x": 1}, "etag": "e2", "content": "c2"},
    ),
    "with effect, which says little": (
        lambda e: e.with_effect("book", Effect(state="done")),
        {"unknown_operation": None, "done": ("quote", "book", "move", "book")},
    ),
    "with facts": (lambda e: e.with_facts({"x": 1}), {"facts": {"reference": "R7", "x": 1}}),
    "asked of a person": (lambda e: e.asked_of_a_person(), {"state": "waiting", "done": (MANUAL,)}),
    "refused by hand": (lambda e: e.refused_by_hand(), {"done": ()}),
    "changing to": (
        lambda e: e.changing_to({"a": 2}, "t9"),
        {"binding": BINDING.moved_to({"a": 2}), "fields": {**FIELDS, "inputs": Field(value=None, set_by_tx="t9")}},
    ),
    "changed": (lambda e: e.changed(), {"done": ("quote", "book"), "uncertain": False}),
    "put back": (lambda e: e.put_back(EFFECT), {"etag": "e2", "content": "c2"}),
    "certain": (lambda e: e.certain(), {"uncertain": False}),
    "in doubt": (lambda e: e.in_doubt(), {"content": None}),
    "not compared": (lambda e: e.not_compared(), {"content": None}),
    "undo refused": (lambda e: e.undo_refused("cancel"), {"undo_rounds": {"cancel": 2}}),
    "undo refused, for the first time": (
        lambda e: e.undo_refused("refund"),
        {"undo_rounds": {"cancel": 1, "refund": 1}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTS)
def test_an_act_sets_what_it_says_and_leaves_the_rest(name: str) -> None:
    act, changes = ACTS[name]
    before = FULL.model_copy()
    after = act(FULL)
    assert after.model_dump() == LedgerEntry(**{**FULL.__dict__, **changes}).model_dump()
    assert before == FULL
    assert LedgerEntry.model_validate_json(after.model_dump_json()) == after


def test_every_act_is_in_the_table() -> None:
    acts = {name for name, member in vars(LedgerEntry).items() if callable(member) and not name.startswith("_")}
    questions = {"set_by", "last_operation", "lost_operation"}
    listed = {name.partition(",")[0].replace(" ", "_") for name in ACTS}
    # Who set the effect is a matter of its own, below.
    assert acts - questions - listed == {"set_in"}


@pytest.mark.parametrize(
    "act", [lambda e: e.in_state("begun"), lambda e: e.with_facts({}), lambda e: e.set_in("t2", "t2")]
)
def test_an_act_that_says_nothing_new_makes_nothing_new(act: Callable[[LedgerEntry], LedgerEntry]) -> None:
    assert act(FULL) is FULL


def test_who_set_an_effect_first_stays_the_one_and_its_name_is_kept_once_known() -> None:
    bare = LedgerEntry(step_id="venue", binding=BINDING, state="begun")
    first = bare.set_in("t1", "t0")
    assert (first.fields["effect"], first.fields["inputs"].set_by_tx, first.origin_tx) == (
        Field(value=None, set_by_tx="t1"),
        "t1",
        "t0",
    )
    named = first.with_effect("book", EFFECT).set_in("t2", "t2")
    assert (named.fields["effect"], named.origin_tx) == (Field(value="bk_2", set_by_tx="t1"), "t0")
    assert bare.fields == {}


@pytest.mark.parametrize(("transaction_id", "is_set"), [("t1", True), ("t0", True), ("t2", False), ("", False)])
def test_an_effect_is_of_who_set_it_and_of_what_put_it_on_the_agenda(transaction_id: str, is_set: bool) -> None:
    assert FULL.set_by(transaction_id) is is_set


def test_the_last_operation_is_the_newest_that_took_effect() -> None:
    assert FULL.model_copy(update={"done": ("quote",)}).last_operation().name == "quote"
    with pytest.raises(StopIteration):
        FULL.model_copy(update={"done": ()}).last_operation()


def test_the_lost_operation_is_the_one_under_way() -> None:
    lost = FULL.lost_operation()
    assert lost is not None
    assert lost.name == "book"
    assert FULL.not_under_way().lost_operation() is None


@pytest.mark.parametrize("changes", [{"stat": "begun"}, {"state": "gone"}, {"done": "book"}, {"fields": {"effect": 1}}])
def test_a_misspelt_field_or_a_wrong_value_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FULL._with(**changes)


def test_a_wrong_value_given_to_an_act_raises() -> None:
    with pytest.raises(ValidationError):
        FULL.in_state("gone")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        BINDING.moved_to("inputs")  # type: ignore[arg-type]


def test_an_effect_is_looked_for_after_an_hour_and_after_a_day_and_then_no_more() -> None:
    first = first_recheck(FULL, NOW)
    assert (first.look, first.due_at) == (1, NOW + timedelta(hours=1))
    second = first.again(LATER)
    assert second == Recheck(entry=FULL, due_at=LATER + timedelta(hours=24), look=2)
    assert second.again(LATER) is None
    assert second.put_off(LATER) == Recheck(entry=FULL, due_at=LATER + timedelta(hours=1), look=2)
