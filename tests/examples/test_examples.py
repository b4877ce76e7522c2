"""The plans that a reader can run, and those in the plan reference, are good against the vendors at hand."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from wedsync.domain.plans import drawing, durations, times
from wedsync.domain.plans.actions import ACTIONS
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.errors import PLAN_ERROR_CODES
from wedsync.domain.plans.fill_inputs import materialize
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.kit.plan_file import check_plan_file
from wedsync.vendors.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
REFERENCE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL)


def read(text: str, file: str) -> Plan:
    plan, errors = check_plan_file(text, file, load_registry().manifests)
    assert errors == []
    assert plan is not None
    return plan


def example(name: str) -> tuple[Plan, dict[str, PlannedStep]]:
    plan = read((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"), name)
    return plan, {step.id: step for step in compile_plan(plan, load_registry().manifests)}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_good_and_every_step_can_be_filled_in_for_every_vendor(file: Path) -> None:
    plan = read(file.read_text(encoding="utf-8"), file.name)
    steps = compile_plan(plan, load_registry().manifests)
    results: dict[str, dict[str, Any]] = {step.id: dict(ACTIONS[step.action].results) for step in steps}
    calls = [materialize(step, vendor, plan, results) for step in steps for vendor in step.vendors]
    assert "${" not in json.dumps(calls)
    assert len(drawing.draw_svg(steps)) > 1000


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_valid_by_the_schema(file: Path) -> None:
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
    plan = read(file.read_text(encoding="utf-8"), file.name)
    data = json.loads(plan.model_dump_json(exclude_unset=True))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(data)) == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_everything_of_an_example_falls_within_the_weddings_life(file: Path) -> None:
    plan = read(file.read_text(encoding="utf-8"), file.name)
    ceremony = times.ceremony_instant(plan)
    last = ceremony + durations.parse_duration(plan.wedding.ends_after)
    ended: dict[str, Any] = {}
    for step in compile_plan(plan, load_registry().manifests):
        due = times.due_at(step, plan, ended)
        ended[step.id] = due.at if isinstance(due, times.At) else max((ended[n] for n in step.needs), default=ceremony)
        assert not isinstance(due, times.At) or due.at < last


def test_plans_have_different_ids() -> None:
    ids = [read(file.read_text(encoding="utf-8"), file.name).wedding.id for file in EXAMPLES]
    assert len(set(ids)) == len(ids) >= 4


def test_the_elopement_has_five_steps_and_tells_the_couple_last() -> None:
    _, steps = example("elopement")
    assert list(steps) == ["venue", "deposit", "photographer", "confirmation", "text-message"]
    assert steps["deposit"].vendors == ("stripe", "paypal")
    assert {"venue", "deposit"} <= set(steps["confirmation"].needs) & set(steps["text-message"].needs)


def test_the_typical_wedding_has_its_size() -> None:
    plan, steps = example("typical")
    assert 25 <= len(steps) <= 35
    assert 8 <= len({service.account or service.id for service in plan.services}) <= 10
    assert any(step.at for step in steps.values())
    assert any(step.real_time_updates for step in steps.values())


def test_the_destination_wedding_has_its_size_zones_currencies_and_scripts() -> None:
    plan, steps = example("destination")
    assert len(plan.steps) >= 60
    zones = {plan.wedding.ceremony.zone} | {
        str(step.inputs["zone"]) for step in steps.values() if "zone" in step.inputs
    }
    assert len(zones) >= 3
    paid = [step.inputs for step in steps.values() if step.action == "payments.collect"]
    assert {str(inputs.get("currency", plan.wedding.currency)) for inputs in paid} == {"JPY", "EUR"}
    names = "".join(contact.name for contact in plan.wedding.contacts)
    assert all(
        re.search(script, names)
        for script in ("[\u4e00-\u9fff]", "[\u0370-\u03ff]", "[\u0600-\u06ff]", "[\uac00-\ud7af]")
    )


def test_the_refused_wedding_has_something_to_undo_before_its_venue() -> None:
    _, steps = example("refused")
    before = [steps[name] for name in steps["venue"].needs]
    manifests = load_registry().manifests
    assert len(before) >= 3
    assert steps["venue"].on_failure == "rollback"
    assert int(str(steps["venue"].inputs["guests"])) > 300
    specs = [manifests[vendor].action(step.action) for step in before for vendor in step.vendors]
    assert all(spec is not None and spec.undo == "exact" for spec in specs)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_reference_is_good(number: int) -> None:
    head, _, rest = BLOCKS[0].partition("services:\n")
    services, _, steps = rest.partition("steps:\n")
    parts = (
        dict(re.findall(r"^(services|steps|groups):\n((?:[ ].*\n|\n)*)", BLOCKS[number], re.MULTILINE))
        if number
        else {}
    )
    text = f"{head}services:\n{services}{parts.get('services', '')}steps:\n{steps}{parts.get('steps', '')}"
    plan = read(text + (f"groups:\n{parts['groups']}" if "groups" in parts else ""), "plan.md")
    assert len(plan.steps) == 3 + parts.get("steps", "").count("action:")


def test_the_reference_lists_every_code_and_no_other() -> None:
    table = REFERENCE.partition("## Error codes")[2]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)) == PLAN_ERROR_CODES


def test_every_code_in_the_sources_is_listed_and_every_listed_code_is_used() -> None:
    domain = ROOT / "wedsync" / "domain"
    names = ("validate", "load", "times", "durations", "references", "compile")
    files = [*(domain / "plans").glob("check_*.py"), *(domain / "plans" / f"{name}.py" for name in names)]
    files += [domain / "money.py", ROOT / "wedsync" / "kit" / "plan_file.py"]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    emitted = set(re.findall(r'reason="(\w+)"', source))
    emitted |= set(re.findall(r'(?:report\.add|failed|_Fault)\([^"\n]*?(?:f"[^"]*",|[\w.()]+,) "(\w+)",', source))
    emitted |= set(re.findall(r'return (?:field_path\([^)\]]*\]?\), )?"(\w+)", (?:f?"|_wrong)', source))
    assert emitted - {"missing_result"} <= set(PLAN_ERROR_CODES)
    unused = {code for code in PLAN_ERROR_CODES if f'"{code}"' not in source}
    assert unused == set()


def test_the_reference_names_every_key_action_and_result() -> None:
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
    keys = {key for part in schema["$defs"].values() for key in part.get("properties", {})}
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`\n]+)`", REFERENCE))))
    assert keys - words == set()
    for action in ACTIONS.values():
        row = next(line for line in REFERENCE.splitlines() if line.startswith(f"| `{action.name}`"))
        assert all(f"`{name}`" in row for name in (*action.inputs.model_fields, *action.results))
