"""Compile a valid plan to the steps that run: expanded, ordered, with every default filled in and every need named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import references, when_down
from wedsync.domain.plans.actions import ACTIONS
from wedsync.domain.plans.durations import parse_duration
from wedsync.domain.plans.expand import Instance, instances, needs_of, services_of, vendors_of
from wedsync.domain.plans.plan import Plan, PlannedStep, Service
from wedsync.domain.plans.topology import ancestors, cycles, topological
from wedsync.domain.vendors.manifest import Manifest

DEFAULT_TIMEOUT_SECONDS = 3600
DEFAULT_MESSAGE_TIMEOUT_SECONDS = 900
DEFAULT_COMPENSATION_SECONDS = 24 * 3600
DEFAULT_DECIDE_SECONDS = 24 * 3600


def compile_plan(plan: Plan, manifests: Mapping[str, Manifest]) -> tuple[PlannedStep, ...]:
    """Compile the steps of `plan`, in an order in which they could run, plan order where nothing forbids.

    Each step's `needs` are complete: explicit, by reference, by `at`, by service, by group, and, for what cannot be
    undone, every critical step due in the same transaction. The plan must have passed `check_plan`. Raises InvalidInput
    for a cycle, an unknown service or a bad duration.
    """
    found = {instance.id: instance for instance in instances(plan)}
    services = services_of(plan)
    for instance in found.values():
        if instance.service not in services:
            raise InvalidInput(f"unknown service {instance.service!r}", field=f"steps[{instance.index}].service")
    names = tuple(found)
    needs = {name: dict(before) for name, before in needs_of(plan).items()}
    ordered = topological(names, needs)
    if len(ordered) < len(names):
        path = " -> ".join(cycles(names, needs)[0])
        raise InvalidInput(f"steps need one another: {path}", field="steps", reason="cycle")
    complete: dict[str, set[str]] = {name: set(before) for name, before in needs.items()}
    for message, critical in _waits_for_critical(plan, manifests, ordered, complete):
        complete[message].add(critical)
    rank = {name: index for index, name in enumerate(names)}
    return tuple(
        _planned(plan, found[name], services[found[name].service], sorted(complete[name], key=rank.__getitem__))
        for name in topological(names, complete)
    )


def is_final(action: str, vendors: tuple[str, ...], manifests: Mapping[str, Manifest]) -> bool:
    """Tell whether the effect of `action` is final: a message, or a write that one of `vendors` cannot undo."""
    known = ACTIONS.get(action)
    if known is None or known.kind == "read":
        return False
    specs = [manifests[vendor].action(action) for vendor in vendors if vendor in manifests]
    return known.kind == "message" or any(spec is not None and spec.undo == "none" for spec in specs)


def _waits_for_critical(
    plan: Plan, manifests: Mapping[str, Manifest], ordered: tuple[str, ...], needs: Mapping[str, set[str]]
) -> list[tuple[str, str]]:
    """Return (step, critical step) pairs: what can't be undone comes after every critical step of its transaction.

    A pair never contradicts an existing order, so it makes no cycle; between two critical steps that can't be undone
    plan's order decides. Two steps are of one transaction when neither has a time of its own and both come after
    the same steps that have.
    """
    steps = {instance.id: instance for instance in instances(plan)}
    services = services_of(plan)
    bit = {name: 1 << index for index, name in enumerate(ordered)}
    above = ancestors(ordered, needs)
    timed = sum(bit[name] for name in ordered if steps[name].step.at is not None)
    critical = [i.id for i in steps.values() if services[i.service].critical and i.step.at is None]
    final = {
        instance.id
        for instance in steps.values()
        if is_final(instance.step.action, vendors_of(instance.step, services[instance.service]), manifests)
    }
    position = {name: index for index, name in enumerate(steps)}
    waiting = [i.id for i in steps.values() if i.id in final and i.step.at is None and not i.step.early]
    together = {name: above[name] & timed for name in ordered}
    # First those that can be undone; then, among those that can't, earlier before later.
    rounds = [
        {name: [other for other in critical if other not in final] for name in waiting},
        {
            name: [o for o in critical if o in final and (name not in critical or position[o] < position[name])]
            for name in waiting
        },
    ]
    added: list[tuple[str, str]] = []
    for candidates in rounds:
        for name, others in candidates.items():
            chosen = [o for o in others if o != name and together[o] == together[name] and not above[o] & bit[name]]
            added += [(name, other) for other in chosen]
            gained = reduce(or_, (above[other] | bit[other] for other in chosen), 0)
            for below in ordered:
                if below == name or above[below] & bit[name]:
                    above[below] |= gained
    return added


def _planned(plan: Plan, instance: Instance, service: Service, needs: list[str]) -> PlannedStep:
    step = instance.step
    known = ACTIONS.get(step.action)
    is_message = known is not None and known.kind == "message"
    timeout = DEFAULT_MESSAGE_TIMEOUT_SECONDS if is_message else DEFAULT_TIMEOUT_SECONDS
    vendors = vendors_of(step, service)
    endpoints = service.api_endpoints if "generic" in vendors else None
    text = step.compensation.text
    return PlannedStep(
        id=instance.id,
        action=step.action,
        service=service.id,
        capability=step.action.partition(".")[0],
        vendors=vendors,
        account=service.account or (service.id if service.vendor == "generic" else "default"),
        critical=service.critical,
        inputs={key: _about_service(value, service) for key, value in step.inputs.items()},
        needs=tuple(needs),
        window=step.window,
        at=step.at,
        fold=step.fold,
        timeout_seconds=_seconds(step.timeout, timeout),
        on_failure=step.on_failure or ("rollback" if service.critical else "continue"),
        compensation=step.compensation.model_copy(update={"text": text and _about_service(text, service)}),
        compensation_deadline_seconds=_seconds(step.compensation.deadline, DEFAULT_COMPENSATION_SECONDS),
        early=step.early,
        delivery=step.delivery,
        done_when=step.done_when,
        decide_within_seconds=_seconds(step.decide_within, DEFAULT_DECIDE_SECONDS),
        otherwise=step.otherwise,
        default_results=step.default_results,
        endpoints=endpoints.model_dump(mode="json", exclude_none=True) if endpoints else {},
        real_time_updates=service.real_time_updates,
        when_down=when_down.of_step(plan, step),
    )


def _seconds(duration: str | None, default: int) -> int:
    return default if duration is None else int(parse_duration(duration).total_seconds())


def _about_service(value: JsonValue, service: Service) -> JsonValue:
    """Fill in `${service.*}` within `value` and leave every other reference."""
    known = references.service_constants(service)

    def lookup(word: str) -> JsonValue:
        return known[word].replace("${", "$${") if word in known else f"${{{word}}}"

    return references.substitute(value, lookup, keep_escapes=True)
