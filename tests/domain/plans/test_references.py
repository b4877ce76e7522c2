from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import references
from wedsync.domain.plans.plan import Plan

Load = Callable[[dict[str, Any]], Plan]


@pytest.fixture
def plan(data: dict[str, Any], load: Load) -> Plan:
    return load(data)


def test_names_are_the_steps_results_referred_to_wherever_they_stand() -> None:
    inputs: dict[str, Any] = {
        "a": "${deposit.payment_id} and ${ venue.reference }",
        "b": ["x", {"c": "${my-step.event_id}"}],
        "d": "$${not.this} ${wedding.couple} ${contact.ana.name} ${broken",
        "e": 5,
    }
    assert references.names(inputs) == {("deposit", "payment_id"), ("venue", "reference"), ("my-step", "event_id")}


def test_a_lone_reference_keeps_its_type_and_one_in_a_text_becomes_text(plan: Plan) -> None:
    results: dict[str, Any] = {"d": {"n": 5, "f": 1.5, "yes": True, "nothing": None, "s": "é", "l": [1, "2"]}}
    inputs: dict[str, Any] = {
        "n": "${d.n}",
        "l": "${d.l}",
        "t": "${d.n}/${d.f}/${d.yes}/${d.nothing}/${d.s}",
        "in": [{"x": "${d.yes}"}],
    }
    assert references.resolve(inputs, results, plan) == {
        "n": 5, "l": [1, "2"], "t": "5/1.5/true//é", "in": [{"x": True}],
    }  # fmt: skip


def test_the_plan_itself_can_be_referred_to(plan: Plan) -> None:
    text = "${wedding.reference}|${wedding.couple}|${wedding.place}|${wedding.date}|${wedding.time}|${contact.ana.name}"
    assert references.resolve({"t": text}, {}, plan)["t"] == "w-1|Ana & Bo|Villa|2027-06-19|16:00|Ana"


def test_what_a_result_holds_is_not_read_again(plan: Plan) -> None:
    results = {"d": {"s": "${wedding.couple} $${x}"}}
    assert references.resolve({"a": "${d.s}", "b": "<${d.s}>"}, results, plan) == {
        "a": "${wedding.couple} $${x}",
        "b": "<${wedding.couple} $${x}>",
    }


def test_a_doubled_dollar_is_the_characters_themselves(plan: Plan) -> None:
    assert references.resolve({"a": "$${wedding.couple} $5 $"}, {}, plan) == {"a": "${wedding.couple} $5 $"}


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ("${d.missing}", "a", "missing_result"),
        ("${other.s}", "a", "missing_result"),
        ("${wedding.nothing}", "a", "bad_reference"),
        ("${}", "a", "bad_reference"),
        ("${open", "a", "bad_reference"),
        ({"b": ["x", "<${d.l}>"]}, "a.b[1]", "bad_reference"),
    ],
)
def test_what_refers_to_nothing_is_refused_with_its_path(value: Any, field: str, reason: str, plan: Plan) -> None:
    with pytest.raises(InvalidInput) as caught:
        references.resolve({"a": value}, {"d": {"l": [1]}}, plan)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_compensations_text_refers_to_the_plan_only(plan: Plan) -> None:
    assert references.resolve_text("${wedding.couple}: undone", plan) == "Ana & Bo: undone"
    with pytest.raises(InvalidInput):
        references.resolve_text("${d.s}", plan)


@given(st.text(st.characters(blacklist_characters="$"), max_size=50))
def test_a_text_without_references_stays_as_it_is(text: str) -> None:
    assert references.substitute({"k": [text]}, lambda word: 1 / 0) == {"k": [text]}
    assert references.names({"k": text}) == set()


@given(st.text(max_size=60))
def test_reading_references_never_fails(text: str) -> None:
    assert all(word is None or isinstance(word, str) for word in references.words(text))
    assert isinstance(references.names({"k": text}), set)
