"""`wedsync plan validate | graph` and `schema`: faults are named by file, line and field, good plans drawn."""

from __future__ import annotations

import io
import json

import jsonschema
import pytest
import yaml


def test_a_good_plan_is_good(nowhere, wedsync, plan_file):
    ran = wedsync("plan", "validate", plan_file, "--json")
    assert ran.code == 0
    assert ran.json == {
        "valid": True,
        "errors": [],
        "plans": [{"file": str(plan_file), "plan_id": "elopement", "steps": 3}],
    }
    assert wedsync("plan", "validate", plan_file).out == f"{plan_file}: good (3 steps)\n"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("needs: [deposit]", "needs: [depositt]", "steps[2].needs[0]"),
        ("action: sms.send", "action: smoke.signal", "steps[2].action"),
        ("service: money", "service: monney", "steps[1].service"),
        ("version: 1", "version: 2", "version"),
        ('amount: "500.00"', 'amount: "500.001"', "steps[1].inputs.amount"),
        ("    service: news\n", "    service: news\n    colour: red\n", "steps[2].colour"),
        # What it refers to comes after it, is of no step, or is given by none.
        ("title: Ceremony", 'title: "Paid ${deposit.payment_id}"', "steps[0].inputs.title"),
        ("title: Ceremony", 'title: "Paid ${deposits.payment_id}"', "steps[0].inputs.title"),
        ("text: Booked", 'text: "Paid ${deposit.payment}"', "steps[2].inputs.text"),
    ],
)
def test_people_read_file_line_field_and_what_is_wrong(nowhere, wedsync, plan_file, old, new, field):
    text = plan_file.read_text().replace(old, new)
    plan_file.write_text(text)
    wrong = new.splitlines()[-1]
    line = next(number for number, words in enumerate(text.splitlines(), start=1) if wrong in words)
    ran = wedsync("plan", "validate", plan_file)
    assert ran.code == 2
    assert ran.out == ""
    assert f"{plan_file}:{line}: {field}: " in ran.err


def test_a_step_waits_for_what_it_refers_to_wherever_that_stands_in_the_plan(nowhere, wedsync, plan_file):
    text = plan_file.read_text().replace("title: Ceremony", 'title: "Paid ${deposit.payment_id}"')
    plan_file.write_text(text.replace("    needs: [book-venue]\n", ""))
    assert wedsync("plan", "validate", plan_file).code == 0
    graph = wedsync("plan", "graph", plan_file, "--json").json["graph"]
    (row,) = [line for line in graph.splitlines() if "book-venue !" in line]
    assert row.endswith("after deposit")


def test_several_files_are_all_checked(nowhere, wedsync, plan_file, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\n")
    ran = wedsync("plan", "validate", plan_file, bad, "--json")
    assert ran.code == 2
    error = ran.json["error"]
    assert error["detail"].startswith(f"{bad}: ")
    assert {place["file"] for place in error["errors"]} == {str(bad)}


def test_what_is_no_yaml_is_a_fault_with_a_line(nowhere, wedsync, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("version: 1\nwedding: [\n")
    (place,) = wedsync("plan", "validate", file, "--json").json["error"]["errors"]
    assert place["code"] == "syntax"
    assert place["line"] > 0


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_can_t_be_read_exits_2(nowhere, wedsync, tmp_path, content):
    file = tmp_path / "plan.yaml"
    if content is not None:
        file.write_bytes(content)
    ran = wedsync("plan", "validate", file, "--json")
    assert ran.code == 2
    assert ran.json["error"]["code"] == "unreadable"
    assert ran.json["error"]["errors"][0]["file"] == str(file)


def test_a_plan_may_come_from_stdin(nowhere, wedsync, plan_file, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(plan_file.read_text()))
    assert wedsync("plan", "validate", "-", "--json").json["plans"][0]["file"] == "-"


@pytest.mark.parametrize(("form", "word"), [("text", "book-venue"), ("mermaid", "flowchart"), ("svg", "<svg")])
def test_a_plan_is_drawn(nowhere, wedsync, plan_file, tmp_path, form, word):
    ran = wedsync("plan", "graph", plan_file, "--format", form)
    assert ran.code == 0
    assert word in ran.out
    target = tmp_path / "picture"
    assert wedsync("plan", "graph", plan_file, "--format", form, "-o", target).code == 0
    assert word in target.read_text()
    assert word in wedsync("plan", "graph", plan_file, "--format", form, "--json").json["graph"]


def test_a_wrong_plan_is_not_drawn(nowhere, wedsync, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\n")
    assert wedsync("plan", "graph", file).code == 2


def test_a_picture_that_can_t_be_written_exits_2(nowhere, wedsync, plan_file, tmp_path):
    ran = wedsync("plan", "graph", plan_file, "-o", tmp_path / "no" / "folder.svg", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "unwritable")


def test_the_schema_fits_a_good_plan(nowhere, wedsync, plan_file):
    ran = wedsync("schema")
    assert ran.code == 0
    schema = json.loads(ran.out)
    assert wedsync("schema", "--json").json == schema
    raw = yaml.load(plan_file.read_text(), Loader=yaml.BaseLoader)  # noqa: S506 - our own text
    raw["version"] = 1
    raw["services"] = [one | ({"critical": True} if "critical" in one else {}) for one in raw["services"]]
    raw["steps"][0]["inputs"]["guests"] = 2
    jsonschema.validate(raw, schema)
