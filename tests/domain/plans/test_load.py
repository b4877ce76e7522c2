import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from wedsync.domain.plans.errors import PLAN_ERROR_CODES, did_you_mean, field_path, line_of
from wedsync.domain.plans.load import plan_from_json, plan_json_schema

ROOT = Path(__file__).resolve().parents[3]
Edit = Callable[[dict[str, Any]], object]


def test_lists_of_json_become_the_plans_tuples(data: dict[str, Any]) -> None:
    plan, errors = plan_from_json(data)
    assert errors == []
    assert plan is not None
    assert plan.wedding.couple == ("Ana", "Bo")
    assert json.loads(plan.model_dump_json(exclude_unset=True)) == data


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("edit", "field", "code", "words"),
    [
        (lambda d: d["services"][0].update(vendr="x"), "services[0].vendr", "unknown_key", "did you mean 'vendor'"),
        (lambda d: d["wedding"]["ceremony"].update(q=1), "wedding.ceremony.q", "unknown_key", "known are at, fold"),
        (lambda d: d["steps"][0].update(compensation={"bye": 1}), "steps[0].compensation.bye", "unknown_key", "'by'"),
        (
            lambda d: d["services"][0].update(api_endpoints={"reqest": {}}),
            "services[0].api_endpoints.reqest",
            "unknown_key",
            "'request'",
        ),
        (lambda d: d.update(versoin=1), "versoin", "unknown_key", "did you mean 'version'"),
        (lambda d: d["steps"][1].pop("action"), "steps[1].action", "missing_key", "'action' is missing"),
        (lambda d: d.update(version=2), "version", "bad_value", "2 is not 1"),
        (lambda d: d["services"][0].update(role="venu"), "services[0].role", "bad_value", "did you mean 'venue'"),
        (lambda d: d["services"][0].update(id="Villa Aurora"), "services[0].id", "bad_value", "lower-case letters"),
        (lambda d: d["wedding"].update(currency="Euro"), "wedding.currency", "bad_value", "such as EUR"),
        (lambda d: d["steps"][0].update(timeout="soon"), "steps[0].timeout", "bad_value", "a duration"),
        (lambda d: d["steps"][0].update(needs="venue"), "steps[0].needs", "wrong_type", "is not a list"),
        (lambda d: d["steps"][0].update(early="yes"), "steps[0].early", "wrong_type", "is not true or false"),
        (lambda d: d["steps"][0].update(at=5), "steps[0].at", "wrong_type", 'put it in quotes, "5"'),
        (lambda d: d["wedding"].update(locale=True), "wedding.locale", "wrong_type", 'put it in quotes, "true"'),
        (lambda d: d["wedding"].update(ceremony=None), "wedding.ceremony", "wrong_type", "nothing stands here"),
        (
            lambda d: d["wedding"]["ceremony"].update(latitude="x"),
            "wedding.ceremony.latitude",
            "wrong_type",
            "a number",
        ),
        (lambda d: d.update(steps=[]), "steps", "bad_value", "at least 1"),
        (lambda d: d["steps"][0]["inputs"].update(x=float("nan")), "steps[0].inputs.x", "bad_value", "finite"),
        (lambda d: d["steps"][0]["inputs"].update(x="a\0b"), "steps[0].inputs.x", "bad_value", "NUL"),
        (lambda d: d["steps"][0]["inputs"].update({"\ud800": 1}), "steps[0].inputs", "bad_value", "half of a pair"),
        (lambda d: d["steps"][0]["inputs"].update(x={1}), "steps[0].inputs.x", "wrong_type", "set is not JSON"),
        (lambda d: d["steps"][0]["inputs"].update(x=_deep(40)), "steps[0].inputs.x", "too_deep", "32 levels"),
    ],
)
def test_a_fault_of_shape_is_named_with_its_field(
    edit: Edit, field: str, code: str, words: str, data: dict[str, Any]
) -> None:
    edit(data)
    plan, errors = plan_from_json(data)
    assert plan is None
    assert [(error.field, error.code) for error in errors] == [(field, code)]
    assert words in errors[0].detail


def test_every_fault_of_shape_is_named_at_once(data: dict[str, Any]) -> None:
    data["wedding"].pop("id")
    data["steps"][2]["wnidow"] = "ceremony"
    _, errors = plan_from_json(data, lines={"steps[2]": 40, "wedding": 3}, file="p.yaml")
    assert [(error.field, error.line, error.file) for error in errors] == [
        ("wedding.id", 3, "p.yaml"),
        ("steps[2].wnidow", 40, "p.yaml"),
    ]


@pytest.mark.parametrize("data", [[], None, "plan", 3, {}])
def test_what_is_no_object_is_refused_and_never_raises(data: Any) -> None:
    plan, errors = plan_from_json(data)
    assert plan is None
    assert {error.code for error in errors} <= {"wrong_type", "missing_key"}
    assert errors


def test_the_committed_schema_is_the_models_own() -> None:
    committed = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
    assert committed == plan_json_schema()


def test_the_schema_takes_what_the_loader_takes(data: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(plan_json_schema())
    validator = jsonschema.Draft202012Validator(plan_json_schema())
    assert validator.is_valid(data)
    data["steps"][0]["wnidow"] = "ceremony"
    assert not validator.is_valid(data)


def test_paths_are_dotted_with_indexes_in_brackets() -> None:
    assert field_path(("steps", 3, "needs", 0)) == "steps[3].needs[0]"
    assert field_path(()) == ""


@pytest.mark.parametrize(
    ("field", "line"), [("steps[3].needs[0]", 9), ("steps[3].needs[7].x", 8), ("steps[4]", 2), ("other", 1), ("", 1)]
)
def test_the_line_of_a_field_is_its_own_or_that_of_what_holds_it(field: str, line: int) -> None:
    assert line_of(field, {"": 1, "steps": 2, "steps[3].needs": 8, "steps[3].needs[0]": 9}) == line
    assert line_of(field, {}) == 0


def test_only_near_words_are_suggested() -> None:
    assert did_you_mean("vendr", ["vendor", "role"]) == "; did you mean 'vendor'?"
    assert did_you_mean("zzz", ["vendor"]) == ""


def test_codes_are_words() -> None:
    assert all(code.replace("_", "").isalpha() and meaning for code, meaning in PLAN_ERROR_CODES.items())


def test_no_more_faults_are_named_than_help(data: dict[str, Any]) -> None:
    data |= {f"key{index}": 1 for index in range(5000)}
    assert len(plan_from_json(data)[1]) == 100
