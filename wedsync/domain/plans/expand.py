"""Expand a plan's shorthand: a step per service, a group's members, and who must come before whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import references
from wedsync.domain.plans.plan import Plan, Service, Step
from wedsync.domain.plans.times import at_anchor

#: Steps of one wedding, expanded.
MAX_STEPS = 500
#: Twice what so many steps can need of one another.
MAX_EDGES = 250_000


@dataclass(frozen=True)
class Instance:
    """One step for one service."""

    id: str
    step: Step
    service: str
    #: The step's index in `plan.steps`.
    index: int


@dataclass(frozen=True)
class Edge:
    """A need: `after` comes after `before`, because of the value at `field`."""

    before: str
    after: str
    field: str


def instances(plan: Plan) -> tuple[Instance, ...]:
    """Return every step in plan order; one with `services` becomes `{id}-{service}` for each."""
    found: list[Instance] = []
    for index, step in enumerate(plan.steps):
        if step.services:
            found.extend(Instance(f"{step.id}-{service}", step, service, index) for service in step.services)
        else:
            found.append(Instance(step.id, step, step.service or "", index))
    return tuple(found)


def step_names(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Map each name of a step to the steps that it means: itself, or all its expansions."""
    known: dict[str, tuple[str, ...]] = {}
    for instance in instances(plan):
        known[instance.step.id] = (*known.get(instance.step.id, ()), instance.id)
        if instance.id != instance.step.id:
            known.setdefault(instance.id, (instance.id,))
    return known


def all_names(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Map names as `step_names` does, and each group's name to the steps within it, of groups within groups too."""
    known = step_names(plan)
    groups = {group.id: group for group in plan.groups}

    def within(group: str) -> Iterator[str]:
        seen, pending = {group}, [group]
        while pending:
            name = pending.pop()
            if name in groups:
                new = [member for member in groups[name].members if member not in seen]
                seen.update(new)
                pending.extend(reversed(new))
            else:
                yield from known.get(name, ())

    return {group: tuple(dict.fromkeys(within(group))) for group in groups} | known


def edges(plan: Plan) -> list[Edge]:
    """List every need that the plan states or implies, unknown names left out, rule by rule.

    One is missing: a message waits for the critical steps, which depends on the vendors (see `compile_plan`).
    Raises InvalidInput(reason="too_large") for more than MAX_EDGES.
    """
    known = all_names(plan)
    own = (edge for instance in instances(plan) for edge in _own_needs(instance, known))
    found = list(islice(chain(own, _service_needs(plan), _group_needs(plan, known)), MAX_EDGES + 1))
    if len(found) > MAX_EDGES:
        raise InvalidInput(f"more than {MAX_EDGES} needs, groups and services counted out", reason="too_large")
    return found


def _own_needs(instance: Instance, known: Mapping[str, tuple[str, ...]]) -> Iterator[Edge]:
    field = f"steps[{instance.index}]"
    for need, index in {need: index for index, need in reversed(list(enumerate(instance.step.needs)))}.items():
        for before in known.get(need, ()):
            yield Edge(before, instance.id, f"{field}.needs[{index}]")
    for path, text in references.strings(instance.step.inputs):
        for word in references.words(text):
            name = references.step_result(word) if word else None
            before_ids = known.get(name[0], ()) if name else ()
            if len(before_ids) == 1 and before_ids[0] != instance.id:
                yield Edge(before_ids[0], instance.id, f"{field}.inputs.{path}")
    anchor = at_anchor(instance.step.at)
    if anchor is not None:
        for before in known.get(anchor, ()):
            yield Edge(before, instance.id, f"{field}.at")


def _service_needs(plan: Plan) -> Iterator[Edge]:
    """Let a service's steps need those steps of the services it depends on that are due at once.

    A step with a time of its own is waited for only if a plan says so: else a booking that depends on the venue
    would wait for the venue's last instalment.
    """
    by_service: dict[str, list[Instance]] = {}
    for instance in instances(plan):
        by_service.setdefault(instance.service, []).append(instance)
    for index, service in enumerate(plan.services):
        for position, other in enumerate(service.depends_on):
            for before in by_service.get(other, ()):
                for after in by_service.get(service.id, ()):
                    if before.step.at is None:
                        yield Edge(before.id, after.id, f"services[{index}].depends_on[{position}]")


def _group_needs(plan: Plan, known: Mapping[str, tuple[str, ...]]) -> Iterator[Edge]:
    for index, group in enumerate(plan.groups):
        for position, need in enumerate(group.needs):
            for before in known.get(need, ()):
                for after in known[group.id]:
                    yield Edge(before, after, f"groups[{index}].needs[{position}]")
        if group.run == "sequence":
            for position, (first, second) in enumerate(pairwise(group.members), start=1):
                for before in known.get(first, ()):
                    for after in known.get(second, ()):
                        yield Edge(before, after, f"groups[{index}].members[{position}]")


def needs_of(plan: Plan) -> dict[str, dict[str, str]]:
    """Return each step's needs, with the field that first states each."""
    needs: dict[str, dict[str, str]] = {instance.id: {} for instance in instances(plan)}
    for edge in edges(plan):
        needs[edge.after].setdefault(edge.before, edge.field)
    return needs


def services_of(plan: Plan) -> dict[str, Service]:
    """Return the plan's services by id."""
    return {service.id: service for service in plan.services}


def vendors_of(step: Step, service: Service) -> tuple[str, ...]:
    """Return the vendors of `step` in the order they are tried."""
    fallbacks = service.fallbacks if step.fallbacks is None else step.fallbacks
    return tuple(dict.fromkeys((service.vendor, *fallbacks)))
