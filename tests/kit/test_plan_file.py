import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.kit.plan_file import MAX_BYTES, check_plan_file, read_plan, read_plan_lines
from wedsync.vendors.registry import load_registry

GOOD = """\
version: 1
wedding:
  id: no
  couple: [Ana, on]
  ceremony:
    at: 2027-06-19T16:00
    zone: Europe/Rome
  currency: EUR
  contacts:
    - id: ana
      name: Ana
      phone: +390318125551
      email: ana@example.com
services:
  - id: mail
    name: Mail
    role: other
    vendor: resend
steps:
  - id: hello
    action: email.send
    service: mail
    inputs:
      to: ana
      subject: 16:30
      text: |
        Dear Ana,
        yes
"""


def fault(text: str) -> tuple[int, str, str]:
    """The only error's line, field and code."""
    plan, errors = read_plan(text, "p.yaml")
    assert plan is None
    assert len(errors) == 1, errors
    assert errors[0].file == "p.yaml"
    return errors[0].line, errors[0].field, errors[0].code


def value_of(written: str) -> Any:
    plan, errors = read_plan(GOOD.replace("subject: 16:30", f"subject: {written}"), "p.yaml")
    assert plan is not None, errors
    return plan.steps[0].inputs["subject"]


def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text() -> None:
    plan, errors = read_plan(GOOD, "p.yaml")
    assert plan is not None, errors
    assert (plan.wedding.id, plan.wedding.couple) == ("no", ("Ana", "on"))
    assert plan.wedding.ceremony.at == "2027-06-19T16:00"
    assert plan.wedding.contacts[0].phone == "+390318125551"
    assert plan.steps[0].inputs == {"to": "ana", "subject": "16:30", "text": "Dear Ana,\nyes\n"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("Yes", "Yes"), ("off", "off"), ("2027-06-19", "2027-06-19"), ("16:30:00", "16:30:00"),
        ("0123", "0123"), ("0x1F", "0x1F"), ("1_000", "1_000"), (".5", ".5"), (".inf", ".inf"), ("+1", "+1"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("tRUE", "tRUE"),
        ("12", 12), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), ('"12"', "12"), ("'true'", "true"), ("!!str 12", "12"),
        ("9" * 50, "9" * 50),
    ],
)  # fmt: skip
def test_only_what_json_would_read_so_is_a_number_or_truth(written: str, value: Any) -> None:
    found = value_of(written)
    assert found == value
    assert type(found) is type(value)


def test_json_is_read_too() -> None:
    plan, _ = read_plan(GOOD, "p.yaml")
    assert plan is not None
    text = json.dumps(json.loads(plan.model_dump_json()), indent=1)
    assert read_plan(text, "p.json") == (plan, [])
    misspelt = text.replace('"zone"', '"zoen"')
    line = next(index for index, row in enumerate(misspelt.splitlines(), start=1) if "zoen" in row)
    _, errors = read_plan(misspelt, "p.json")
    assert [(e.field, e.code) for e in errors] == [
        ("wedding.ceremony.zone", "missing_key"),
        ("wedding.ceremony.zoen", "unknown_key"),
    ]
    assert errors[1].line == line


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read_plan("\ufeff" + GOOD, "p.yaml")[0] is not None


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "code"),
    [
        ("    vendor: resend", "    vendor: resend\n    vendr: x", 19, "services[0].vendr", "unknown_key"),
        ("    vendor: resend\n", "", 15, "services[0].vendor", "missing_key"),
        ("  currency: EUR", "  currency: EUR\n  currency: JPY", 9, "wedding.currency", "duplicate_key"),
        ("      to: ana", "      to: ana\n      to: bo", 25, "steps[0].inputs.to", "duplicate_key"),
        ("version: 1", "version: 2", 1, "version", "bad_value"),
        ("couple: [Ana, on]", "couple: [Ana, 5]", 4, "wedding.couple[1]", "wrong_type"),
        ("couple: [Ana, on]", "couple: [Ana, *who]", 4, "wedding.couple[1]", "syntax"),
        ("couple: [Ana, on]", "couple: &self [Ana, *self]", 4, "wedding.couple[1]", "syntax"),
        ("couple: [Ana, on]", "couple: !!python/tuple [Ana]", 4, "wedding.couple", "syntax"),
        ("couple: [Ana, on]", "couple: [!!int 5]", 4, "wedding.couple[0]", "syntax"),
        ("couple: [Ana, on]", "couple: {[a]: b}", 4, "wedding.couple", "syntax"),
        ("couple: [Ana, on]", "<<: 5", 4, "wedding", "syntax"),
        ("couple: [Ana, on]", "couple: [Ana", 5, "", "syntax"),
        ("couple: [Ana, on]", "couple: " + "[" * 60 + "]" * 60, 4, "wedding.couple[0][0]", "too_deep"),
        ("      to: ana", "      to: ana\n---\n", 25, "", "syntax"),
    ],
)
def test_a_fault_has_its_line_and_field(old: str, new: str, line: int, field: str, code: str) -> None:
    assert old in GOOD
    assert fault(GOOD.replace(old, new, 1)) == (line, field, code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "syntax"), ("# nothing\n", "syntax"), ("- a\n", "syntax"), ("just text", "syntax"), ("a: b: c", "syntax"),
        ("\x00", "syntax"), ("a: \x07", "syntax"), ("\ud800", "syntax"), ("a: 1\n--- \nb: 2\n", "syntax"),
        ("#" * (MAX_BYTES + 1), "too_large"), ("a: [" + "1," * 60_000 + "]", "too_large"),
        ("{" + ",".join(f"k{i}: 1" for i in range(60_000)) + "}", "too_large"),
    ],
)  # fmt: skip
def test_what_is_no_plan_file_is_refused(text: str, code: str) -> None:
    assert fault(text)[2] == code


def test_aliases_that_expand_without_end_are_refused() -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    assert fault("\n".join(laughs))[2] == "too_large"


def test_anchors_and_merges_stand_for_what_they_name() -> None:
    text = GOOD.replace("  - id: mail\n", "  - &base\n    id: mail\n").replace(
        "steps:", "  - {<<: *base, id: two}\n  - <<: [{name: Three}, *base]\n    id: three\nsteps:"
    )
    plan, errors = read_plan(text, "p.yaml")
    assert plan is not None, errors
    assert [(service.id, service.name, service.vendor) for service in plan.services] == [
        ("mail", "Mail", "resend"), ("two", "Mail", "resend"), ("three", "Three", "resend"),
    ]  # fmt: skip


def test_every_field_has_its_line() -> None:
    _, _, lines = read_plan_lines(GOOD, "p.yaml")
    assert lines["wedding.ceremony.at"] == 6
    assert lines["steps[0].inputs.text"] == 26
    assert lines["wedding.couple[1]"] == 4
    assert lines["services[0]"] == 15


def test_a_file_is_checked_against_the_vendors_with_its_lines() -> None:
    manifests = load_registry().manifests
    plan, errors = check_plan_file(GOOD, "p.yaml", manifests)
    assert (errors, plan is not None) == ([], True)
    plan, errors = check_plan_file(
        GOOD.replace("    service: mail", "    service: mail\n    needs: [nobody]"), "p.yaml", manifests
    )
    assert plan is None
    assert [(e.file, e.line, e.field, e.code) for e in errors] == [("p.yaml", 23, "steps[0].needs[0]", "unknown_step")]
    plan, errors = check_plan_file("version: [", "p.yaml", manifests)
    assert (plan, errors[0].code) == (None, "syntax")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_reading_never_raises(text: str) -> None:
    plan, errors = read_plan(text, "p.yaml")
    assert (plan is None) == bool(errors)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=15,
    )
)
def test_json_values_survive_being_read_as_yaml(value: Any) -> None:
    data = json.loads(read_plan(GOOD, "p.yaml")[0].model_dump_json())  # type: ignore[union-attr]
    data["steps"][0]["inputs"]["text"] = value
    plan, errors = read_plan(json.dumps(data, ensure_ascii=False), "p.json")
    assert plan is not None, errors
    assert plan.steps[0].inputs["text"] == value
