"""Check each step by itself: its service, its action and vendors, its times, and keys that contradict one another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import durations, references, times, when_down
from wedsync.domain.plans.actions import ACTIONS, CAPABILITIES
from wedsync.domain.plans.errors import Report
from wedsync.domain.plans.expand import Instance, needs_of, step_names, vendors_of
from wedsync.domain.plans.plan import Step, WhenDown
from wedsync.domain.plans.topology import downstream

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-")


def check_steps(report: Report) -> None:
    """Check all steps."""
    later = _come_later(report)
    referred = [(step.id, sorted(references.names(step.inputs))) for step in report.plan.steps]
    for index, step in enumerate(report.plan.steps):
        field = f"steps[{index}]"
        _check_service(report, step, field)
        _check_action(report, step, field)
        _check_at(report, step, field)
        _check_durations(report, step, field)
        _check_failure(report, step, field, comes_later=index in later)
        if step.when_down is not None:
            _check_when_down(report, step.when_down, f"{field}.when_down")
        _check_message_keys(report, step, field)
        _check_defaults(report, step, field, referred)
    for capability, rule in report.plan.when_down.items():
        _check_when_down(report, rule, f"when_down.{capability}")
        if capability not in CAPABILITIES:
            hint = report.hint(capability, CAPABILITIES, f"; known are {', '.join(sorted(CAPABILITIES))}")
            report.add(f"when_down.{capability}", "unknown_capability", f"unknown capability {capability!r}{hint}")
    for instance in report.instances:
        _check_vendors(report, instance)


def _check_when_down(report: Report, rule: WhenDown, field: str) -> None:
    extra = when_down.misplaced(rule)
    if extra:
        goes_with = "queue" if extra == "max_wait" else "cached"
        report.add(f"{field}.{extra}", "conflicting_keys", f"{extra!r} goes with 'then: {goes_with}'")
    for key, text in (("max_wait", rule.max_wait), ("max_age", rule.max_age)):
        _check_duration(report, f"{field}.{key}", text)


def _check_service(report: Report, step: Step, field: str) -> None:
    if step.service is None and not step.services:
        report.add(field, "missing_service", f"step {step.id!r} needs 'service' or 'services'")
    if step.service is not None and step.services:
        report.add(f"{field}.services", "conflicting_keys", "give 'service' or 'services', not both")
    named = [(f"{field}.services[{i}]", name) for i, name in enumerate(step.services)]
    if step.service is not None:
        named.append((f"{field}.service", step.service))
    for here, name in named:
        if name not in report.services:
            hint = report.hint(name, report.services)
            report.add(here, "unknown_service", f"unknown service {name!r}{hint}")


def _check_action(report: Report, step: Step, field: str) -> None:
    if step.action in ACTIONS:
        return
    capability = step.action.partition(".")[0]
    if capability not in CAPABILITIES:
        hint = report.hint(capability, CAPABILITIES, f"; known are {', '.join(sorted(CAPABILITIES))}")
        report.add(f"{field}.action", "unknown_capability", f"unknown capability {capability!r}{hint}")
        return
    known = ", ".join(name for name in ACTIONS if name.startswith(f"{capability}."))
    report.add(f"{field}.action", "unknown_action", f"unknown action {step.action!r}; known are {known}")


def _check_vendors(report: Report, instance: Instance) -> None:
    """Check that the vendor and each fallback can do the action."""
    service = report.services.get(instance.service)
    action = instance.step.action
    if service is None or action not in ACTIONS:
        return
    able = sorted(name for name, manifest in report.manifests.items() if manifest.action(action) is not None)
    for vendor in vendors_of(instance.step, service):
        manifest = report.manifests.get(vendor)
        if manifest is not None and manifest.action(action) is None:
            can = f"; vendors that can: {', '.join(able)}" if able else "; no vendor at hand can"
            field = vendor_field(report, instance, vendor) or f"steps[{instance.index}].action"
            detail = f"{vendor!r} cannot do {action} (step {instance.id!r}){can}"
            report.add(field, "unsupported_action", detail)


def vendor_field(report: Report, instance: Instance, vendor: str) -> str | None:
    """Return the field that lists `vendor` as a fallback of the step; None when it is the service's own vendor."""
    service = report.services[instance.service]
    if vendor == service.vendor:
        return None
    if instance.step.fallbacks is not None:
        return f"steps[{instance.index}].fallbacks[{instance.step.fallbacks.index(vendor)}]"
    return f"services[{report.service_index[service.id]}].fallbacks[{service.fallbacks.index(vendor)}]"


def _check_at(report: Report, step: Step, field: str) -> None:
    at = step.at
    if at is None:
        if step.fold is not None:
            report.add(f"{field}.fold", "conflicting_keys", "'fold' says nothing without 'at'")
        return
    try:
        relative = None if _DATE.match(at) else times.parse_relative(at)
        if relative is None:
            if not report.has("wedding.ceremony.zone"):
                times.resolve_wall(at, report.plan.wedding.ceremony.zone, step.fold)
            return
    except InvalidInput as error:
        detail = error.detail
        if error.reason == "bad_time":
            detail = f"{at!r} is neither a wall time (2027-05-01T09:00) nor relative (ceremony - 48h, STEP + 7d)"
        report.add(f"{field}.at", error.reason or "bad_time", detail)
        return
    if relative.anchor == times.CEREMONY:
        return
    names = step_names(report.plan)
    meant = names.get(relative.anchor, ())
    if not meant:
        hint = report.hint(relative.anchor, [times.CEREMONY, *names])
        if relative.anchor.startswith("ceremony-"):
            hint = "; put spaces around the minus: 'ceremony - 48h'"
        report.add(f"{field}.at", "unknown_anchor", f"{at!r}: no step {relative.anchor!r}{hint}")
    elif len(meant) > 1:
        detail = f"{relative.anchor!r} means several steps: write one of {', '.join(meant)}"
        report.add(f"{field}.at", "unknown_anchor", detail)
    elif relative.sign < 0:
        report.add(f"{field}.at", "bad_time", f"{at!r}: nothing can be due before the end of a step that it waits for")


def _check_durations(report: Report, step: Step, field: str) -> None:
    spans = {
        "timeout": step.timeout,
        "decide_within": step.decide_within,
        "compensation.deadline": step.compensation.deadline,
    }
    for key, text in spans.items():
        _check_duration(report, f"{field}.{key}", text)


def _check_duration(report: Report, field: str, text: str | None) -> None:
    if text is None:
        return
    with report.noting(field):
        if durations.parse_duration(text).total_seconds() < 1:
            report.add(field, "bad_duration", f"{text!r} is no time at all")


def _come_later(report: Report) -> set[int]:
    """Return the positions of the steps with a time of their own, and of those that come after one."""
    needs: Mapping[str, Iterable[str]] = {}
    with contextlib.suppress(InvalidInput):
        needs = needs_of(report.plan)
    timed = (instance.id for instance in report.instances if instance.step.at is not None)
    found = downstream(timed, needs)
    return {instance.index for instance in report.instances if instance.id in found}


def _check_failure(report: Report, step: Step, field: str, *, comes_later: bool) -> None:
    if step.otherwise != "rollback":
        return
    if step.on_failure == "continue":
        detail = "a step whose failure lets the rest continue does not roll it back when nobody decides"
        report.add(f"{field}.otherwise", "conflicting_keys", detail)
    if comes_later:
        which = "with a time of its own" if step.at is not None else "that comes after one with a time of its own"
        detail = f"a step {which} never rolls back what has settled: say retry or skip"
        report.add(f"{field}.otherwise", "conflicting_keys", detail)


def _check_message_keys(report: Report, step: Step, field: str) -> None:
    action = ACTIONS.get(step.action)
    text = step.compensation.text
    if action is not None and action.kind != "message":
        if step.delivery != "hold":
            report.add(f"{field}.delivery", "conflicting_keys", f"'delivery' is for messages; {step.action} is none")
        if step.done_when != "accepted":
            report.add(f"{field}.done_when", "conflicting_keys", f"'done_when' is for messages; {step.action} is none")
        if text is not None:
            detail = f"'text' is what is sent instead of unsending; {step.action} sends nothing"
            report.add(f"{field}.compensation.text", "conflicting_keys", detail)
    if text is None:
        return
    if step.compensation.by != "vendor":
        detail = f"a text is sent by the vendor, not by {step.compensation.by!r}"
        report.add(f"{field}.compensation.text", "conflicting_keys", detail)
    known = references.constants(report.plan).keys() | {"service.id", "service.name"}
    for word in references.words(text):
        if word not in known:
            detail = f"'${{{word or ''}}}' can't stand here: only wedding, contact and service references can"
            report.add(f"{field}.compensation.text", "bad_reference", detail)


def _check_defaults(
    report: Report, step: Step, field: str, referred: Sequence[tuple[str, Sequence[tuple[str, str]]]]
) -> None:
    """Check the defaults; `referred` holds, per step, the (step, result) pairs that its inputs refer to."""
    action = ACTIONS.get(step.action)
    if action is None:
        return
    for name in step.default_results:
        if name not in action.results:
            hint = report.hint(name, action.results, f"; it gives {', '.join(action.results)}")
            report.add(f"{field}.default_results.{name}", "unknown_result", f"{step.action} gives no {name!r}{hint}")
    rule = step.when_down or report.plan.when_down.get(action.capability)
    if rule is not None and rule.then == "cached" and action.kind != "read":
        where = f"{field}.when_down.then" if step.when_down else f"when_down.{action.capability}.then"
        report.add(where, "conflicting_keys", f"only reads can be answered from before; {step.action} is none")
    skips_when_down = rule is not None and rule.then == "skip"
    if step.otherwise != "skip" and not skips_when_down:
        return
    why, key = ("its vendors are down", "when_down") if skips_when_down else ("nobody decides", "otherwise")
    own = {instance.id for instance in report.instances if instance.step is step}
    names = step_names(report.plan)
    for later, results in referred:
        for name, result in results:
            if own & set(names.get(name, ())) and result not in step.default_results:
                detail = f"skipped when {why}, but step {later!r} refers to its {result!r}: give a default"
                report.add(f"{field}.{key}", "missing_default", detail)
