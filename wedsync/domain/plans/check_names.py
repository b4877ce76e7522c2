"""Check ids, references by name, and that nothing needs itself."""

from __future__ import annotations

from collections.abc import Iterable

from wedsync.domain.plans.errors import Report
from wedsync.domain.plans.expand import all_names, needs_of
from wedsync.domain.plans.references import RESERVED
from wedsync.domain.plans.topology import cycles

MAX_ID_LENGTH = 63


def check_names(report: Report) -> None:
    """Find duplicate and reserved ids, unknown names, cycles among services, groups and steps."""
    plan = report.plan
    _unique(report, [(contact.id, f"wedding.contacts[{i}].id") for i, contact in enumerate(plan.wedding.contacts)])
    _unique(report, [(service.id, f"services[{i}].id") for i, service in enumerate(plan.services)])
    steps = [(step.id, f"steps[{i}].id") for i, step in enumerate(plan.steps)]
    groups = [(group.id, f"groups[{i}].id") for i, group in enumerate(plan.groups)]
    _unique(report, [*steps, *groups])
    for name, field in (*steps, *groups):
        if name in RESERVED:
            report.add(field, "reserved_id", f"{name!r} means something else in references and times")
    _check_expansions(report)
    _check_needs(report)
    _check_groups(report)
    _check_cycles(report)


def _unique(report: Report, ids: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for name, field in ids:
        if name in seen:
            report.add(field, "duplicate_id", f"{name!r} is taken already at {seen[name]}")
        seen.setdefault(name, field)


def _check_expansions(report: Report) -> None:
    own = {*(step.id for step in report.plan.steps), *(group.id for group in report.plan.groups)}
    for instance in report.instances:
        field = f"steps[{instance.index}].services"
        if not instance.step.services:
            continue
        if len(instance.id) > MAX_ID_LENGTH:
            report.add(field, "id_too_long", f"the step becomes {instance.id!r}: more than {MAX_ID_LENGTH} characters")
        if instance.id in own:
            report.add(field, "duplicate_id", f"the step becomes {instance.id!r}, which is taken already")
        own.add(instance.id)


def _check_needs(report: Report) -> None:
    known = all_names(report.plan)
    named = [(step.needs, f"steps[{i}]") for i, step in enumerate(report.plan.steps)]
    named += [(group.needs, f"groups[{i}]") for i, group in enumerate(report.plan.groups)]
    for needs, field in named:
        seen: set[str] = set()
        for position, need in enumerate(needs):
            here = f"{field}.needs[{position}]"
            if need not in known:
                report.add(here, "unknown_step", f"unknown step {need!r}{report.hint(need, known)}")
            elif need in seen:
                report.add(here, "duplicate_id", f"{need!r} is named already")
            seen.add(need)


def _check_groups(report: Report) -> None:
    known = all_names(report.plan)
    groups = {group.id for group in report.plan.groups}
    home: dict[str, str] = {}
    for index, group in enumerate(report.plan.groups):
        for position, member in enumerate(group.members):
            field = f"groups[{index}].members[{position}]"
            if member not in known:
                report.add(field, "unknown_member", f"no step or group {member!r}{report.hint(member, known)}")
                continue
            for name in {member, *(known[member] if member not in groups else ())}:
                if name in home:
                    report.add(field, "two_groups", f"{name!r} is in group {home[name]!r} already")
                    break
                home[name] = group.id
    inner = {group.id: [name for name in group.members if name in groups] for group in report.plan.groups}
    for path in cycles(list(inner), inner):
        index = next(i for i, group in enumerate(report.plan.groups) if group.id == path[0])
        report.add(f"groups[{index}].members", "cycle", f"groups within one another: {' -> '.join(path)}")


def _check_cycles(report: Report) -> None:
    services = {service.id: service.depends_on for service in report.plan.services}
    for path in cycles(list(services), services):
        index = report.service_index[path[0]]
        position = services[path[0]].index(path[1])
        field = f"services[{index}].depends_on[{position}]"
        report.add(field, "cycle", f"services that depend on one another: {' -> '.join(path)}")
    if any(len(path) > 1 for path in cycles(list(services), services)):
        return
    with report.noting("groups"):
        needs = needs_of(report.plan)
        for path in cycles(list(needs), needs):
            report.add(needs[path[0]][path[1]], "cycle", f"steps that need one another: {' -> '.join(path)}")
