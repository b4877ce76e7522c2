"""Three weddings of the demo: what is done to each, how it should end, and what is checked afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wedsync.cli.follow import Snapshot
from wedsync.cli.output import BAD_INPUT, CliError
from wedsync.cli.plans import load

if TYPE_CHECKING:
    from wedsync.domain.plans.plan import Plan

Json = dict[str, Any]
PAYMENT = "payments.collect"


@dataclass(frozen=True)
class Check:
    """One check: what was expected, what was seen."""

    expected: str
    seen: str
    ok: bool

    def as_json(self) -> Json:
        """Build `{expected, seen, ok}`."""
        return {"expected": self.expected, "seen": self.seen, "ok": self.ok}


@dataclass(frozen=True)
class Seen:
    """Everything that is checked after a scene: the plan, its end, and what the vendors hold."""

    plan: Plan
    snapshot: Snapshot
    active: Sequence[Json]


@dataclass(frozen=True)
class Scene:
    """One wedding of the demo."""

    title: str
    file: str
    #: Whether the first payment vendor is down for it.
    payments_down: bool
    checks: Sequence[Callable[[Seen], Check]]


def examples_folder() -> Path:
    """Return `examples/` here, or beside the package's source; raises CliError (2) when neither is there."""
    for folder in (Path.cwd() / "examples", Path(__file__).resolve().parents[2] / "examples"):
        if (folder / "typical.yaml").is_file():
            return folder
    raise CliError("examples_missing", "run the demo from the repository: examples/ is not here", BAD_INPUT)


def plan_for(scene: Scene, suffix: str) -> Plan:
    """Return the scene's plan under an id of its own."""
    plan = load(str(examples_folder() / scene.file))
    return renamed(plan, suffix)


def renamed(plan: Plan, suffix: str) -> Plan:
    """Return the same plan with `suffix` added to its id."""
    name = f"{plan.wedding.id[: 62 - len(suffix)]}-{suffix}"
    return plan.model_copy(update={"wedding": plan.wedding.model_copy(update={"id": name})})


def new_suffix() -> str:
    """Make six letters and digits, new each time."""
    return secrets.token_hex(3)


def first_payment_vendor(plan: Plan) -> str:
    """Return the first choice for the plan's first payment."""
    vendors = {service.id: service.vendor for service in plan.services}
    step = next(step for step in plan.steps if step.action == PAYMENT)
    return vendors[step.service or step.services[0]]


def ends_as(status: str) -> Callable[[Seen], Check]:
    """Check that the transaction ends with `status`."""

    def check(seen: Seen) -> Check:
        ok = seen.snapshot.status == status
        error = seen.snapshot.transaction.get("error")
        why = f" ({error['detail']})" if error and not ok else ""
        return Check(f"it ends {_words(status)}", _words(seen.snapshot.status) + why, ok)

    return check


def nothing_missing(seen: Seen) -> Check:
    """Check that no step failed and none fell back."""
    failed = [step["id"] for step in seen.snapshot.steps if step["status"] == "failed"]
    moved = [step["id"] for step in seen.snapshot.steps if step.get("fallback_used")]
    done = sum(1 for step in seen.snapshot.steps if step["status"] == "succeeded")
    later = sum(1 for step in seen.snapshot.steps if step["status"] == "scheduled")
    words = [f"{done} done", f"{later} to come later"]
    words += [f"failed: {', '.join(failed)}"] if failed else []
    words += [f"by a fallback: {', '.join(moved)}"] if moved else []
    return Check("every step that is due is done by its first vendor", ", ".join(words), not failed and not moved)


def fallback_paid(seen: Seen) -> Check:
    """Check that the fallback took the payments that were due."""
    paid = _paid(seen.snapshot)
    vendors = sorted({str(step.get("vendor")) for step in paid})
    ok = bool(paid) and all(step.get("fallback_used") for step in paid)
    words = f"taken by {', '.join(vendors)}" if paid else "no payment was taken"
    return Check(f"another vendor than {first_payment_vendor(seen.plan)} takes the deposit", words, ok)


def charged_once(seen: Seen) -> Check:
    """Check that each payment stands once, at all vendors together."""
    counts = {
        step["id"]: [entry["vendor"] for entry in seen.active if entry["step_id"] == step["id"]]
        for step in _paid(seen.snapshot)
    }
    words = "; ".join(f"{step}: {len(at)} at {', '.join(at) or 'no vendor'}" for step, at in counts.items())
    ok = bool(counts) and all(len(at) == 1 for at in counts.values())
    return Check("each payment stands exactly once at the vendors", words or "no payment was taken", ok)


def all_compensated(seen: Seen) -> Check:
    """Check that the report lists an undo for each step that was done, and none needs a person."""
    reports = {step["id"]: str(step["compensation"]["status"]) for step in seen.snapshot.steps if step["compensation"]}
    silent = [step["id"] for step in seen.snapshot.steps if step["status"] == "succeeded" and step["id"] not in reports]
    outcomes = sorted(set(reports.values()))
    words = ", ".join(f"{list(reports.values()).count(one)} {_words(one)}" for one in outcomes) or "no report"
    words += f"; without report: {', '.join(silent)}" if silent else ""
    ok = "undone" in outcomes and set(outcomes) <= {"undone", "nothing_to_undo"} and not silent
    return Check("what was done is undone, each step with its report", words, ok)


def nothing_left(seen: Seen) -> Check:
    """Check that no vendor holds anything of the wedding but messages, which can't be unsent."""
    from wedsync.domain.plans.actions import ACTIONS

    messages = {step["id"] for step in seen.snapshot.steps if ACTIONS[step["action"]].kind == "message"}
    left = [entry for entry in seen.active if entry["step_id"] not in messages]
    words = ", ".join(f"{entry['vendor']}: {entry['step_id']}" for entry in left) or "nothing"
    return Check("no vendor holds anything any more, save sent messages", words, not left)


def _paid(snapshot: Snapshot) -> list[Json]:
    return [step for step in snapshot.steps if step["action"] == PAYMENT and step["status"] == "succeeded"]


def _words(status: str) -> str:
    return status.replace("_", " ")


SCENES = (
    Scene("a typical wedding, all well", "typical.yaml", False, (ends_as("completed"), nothing_missing, charged_once)),
    Scene(
        "the same wedding, the first payment vendor is down",
        "typical.yaml",
        True,
        (ends_as("completed"), fallback_paid, charged_once),
    ),
    Scene("the venue refuses", "refused.yaml", False, (ends_as("rolled_back"), all_compensated, nothing_left)),
)
