"""Check steps' inputs: their references, and their fit to the action."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import JsonValue, ValidationError

from wedsync.domain import money
from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import references, times
from wedsync.domain.plans.actions import ACTIONS, Action, Inputs
from wedsync.domain.plans.check_steps import vendor_field
from wedsync.domain.plans.errors import Report
from wedsync.domain.plans.expand import Instance, step_names, vendors_of
from wedsync.domain.plans.load import explain

#: What a contact must have for an action: attribute and error code.
_REACHED_BY = {
    "sms.send": ("phone", "missing_phone"),
    "email.send": ("email", "missing_email"),
    "calendar.create_event": ("email", "missing_email"),
}


def check_inputs(report: Report) -> None:
    """Check references, shape, contacts, amounts, times and payment instruments of every step's inputs."""
    names = step_names(report.plan)
    actions = {instance.id: ACTIONS.get(instance.step.action) for instance in report.instances}
    for instance in report.instances:
        action = ACTIONS.get(instance.step.action)
        _check_references(report, instance, names, actions)
        if action is None:
            continue
        shown = _with_samples(report, instance, names, actions)
        _check_shape(report, instance, action, shown)
        _check_kinds(report, instance, action, shown)


def _field(instance: Instance, path: str = "") -> str:
    return f"steps[{instance.index}].inputs{'.' if path else ''}{path}"


def _check_references(
    report: Report, instance: Instance, names: Mapping[str, tuple[str, ...]], actions: Mapping[str, Action | None]
) -> None:
    known = {*references.constants(report.plan), "service.id", "service.name"}
    for path, text in references.strings(instance.step.inputs):
        for word in references.words(text):
            if word in known:
                continue
            with report.noting(_field(instance, path)):
                _refer(report, word, instance, names, actions, known)


def _refer(
    report: Report,
    word: str | None,
    instance: Instance,
    names: Mapping[str, tuple[str, ...]],
    actions: Mapping[str, Action | None],
    known: set[str],
) -> None:
    """Raise InvalidInput unless `word` names a result of another step."""
    if word is None:
        raise InvalidInput("'${' without its '}' (write '$${' for the characters themselves)", reason="bad_reference")
    name = references.step_result(word)
    shown = f"'${{{word}}}'"
    if name is None:
        hint = report.hint(word, known)
        raise InvalidInput(f"{shown} is no reference such as ${{deposit.payment_id}}{hint}", reason="unknown_reference")
    step, result = name
    meant = names.get(step, ())
    if not meant:
        raise InvalidInput(f"{shown}: no step {step!r}{report.hint(step, names)}", reason="unknown_reference")
    if len(meant) > 1:
        detail = f"{shown}: {step!r} means several steps: write one of {', '.join(meant)}"
        raise InvalidInput(detail, reason="unknown_reference")
    if meant[0] == instance.id:
        raise InvalidInput(f"{shown}: a step can't refer to its own result", reason="unknown_reference")
    action = actions[meant[0]]
    if action is not None and result not in action.results:
        detail = f"{shown}: {action.name} gives {', '.join(action.results)}, no {result!r}"
        raise InvalidInput(detail, reason="unknown_reference")


def _with_samples(
    report: Report, instance: Instance, names: Mapping[str, tuple[str, ...]], actions: Mapping[str, Action | None]
) -> dict[str, JsonValue]:
    """Replace each reference in the inputs by a sample value of the result's type."""
    known = references.constants(report.plan)
    service = report.services.get(instance.service)
    known |= references.service_constants(service) if service else {"service.id": "s", "service.name": "s"}

    def lookup(word: str) -> JsonValue:
        if word in known:
            return known[word]
        name = references.step_result(word)
        meant = names.get(name[0], ()) if name else ()
        action = actions[meant[0]] if meant else None
        return action.results.get(name[1], "sample") if action and name else "sample"

    shown: dict[str, JsonValue] = {}
    for key, value in instance.step.inputs.items():
        try:
            shown[key] = references.substitute(value, lookup)
        except InvalidInput:
            shown[key] = value
    return shown


def _check_shape(report: Report, instance: Instance, action: Action, shown: dict[str, JsonValue]) -> None:
    try:
        action.inputs.model_validate_json(json.dumps(shown), strict=True)
    except ValidationError as error:
        for found in explain(error, action.inputs, prefix=("steps", instance.index, "inputs")):
            if not report.has(found.field):
                report.add(found.field, found.code, found.detail)


@lru_cache(maxsize=32)
def _kinds(model: type[Inputs]) -> dict[str, str]:
    """Map each field to `contact`, `amount` or `time`, as the catalogue marks them."""

    def mark(schema: dict[str, Any]) -> str:
        inner = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
        return str(schema.get("x-ref", "")) or next((found for part in inner if (found := mark(part))), "")

    marks = {name: mark(schema) for name, schema in model.model_json_schema()["properties"].items()}
    return {name: kind for name, kind in marks.items() if kind}


def _check_kinds(report: Report, instance: Instance, action: Action, shown: dict[str, JsonValue]) -> None:
    currency = shown.get("currency") or report.plan.wedding.currency
    if "currency" in shown and isinstance(currency, str) and not report.has(_field(instance, "currency")):
        with report.noting(_field(instance, "currency")):
            money.exponent(currency)
    for name, kind in _kinds(action.inputs).items():
        field, value = _field(instance, name), shown.get(name)
        if value is None or report.has(field):
            continue
        input_value = value if isinstance(value, list) else [value]
        for index, item in enumerate(input_value):
            here = f"{field}[{index}]" if isinstance(value, list) else field
            if not isinstance(item, str):
                continue
            if kind == "contact":
                _check_contact(report, instance, item, here)
            elif "${" in str(instance.step.inputs[name]):
                continue
            elif kind == "amount" and isinstance(currency, str):
                _check_amount(report, instance, item, currency, here)
            elif kind == "time":
                _check_time(report, instance, item, shown, here)


def _check_contact(report: Report, instance: Instance, name: str, field: str) -> None:
    contact = report.contacts.get(name)
    if contact is None:
        report.add(field, "unknown_contact", f"unknown contact {name!r}{report.hint(name, report.contacts)}")
        return
    attribute, code = _REACHED_BY.get(instance.step.action, ("", ""))
    if attribute and getattr(contact, attribute) is None:
        report.add(field, code, f"contact {name!r} has no {attribute}, which {instance.step.action} needs")
    service = report.services.get(instance.service)
    for vendor in vendors_of(instance.step, service) if service else ():
        manifest = report.manifests.get(vendor)
        spec = manifest.action(instance.step.action) if manifest else None
        if spec is not None and spec.needs_instrument and vendor not in contact.instruments:
            where = vendor_field(report, instance, vendor) or field
            detail = f"payer {name!r} has no instrument for {vendor!r}, which step {instance.id!r} may ask"
            report.add(where, "missing_instrument", detail)


def _check_amount(report: Report, instance: Instance, amount: str, currency: str, field: str) -> None:
    if currency not in money.EXPONENTS:
        return
    with report.noting(field):
        if money.to_minor(amount, currency) == 0 and instance.step.action == "payments.collect":
            report.add(field, "bad_amount", "a payment of nothing")


def _check_time(report: Report, instance: Instance, time: str, shown: Mapping[str, JsonValue], field: str) -> None:
    ceremony = report.plan.wedding.ceremony
    input_value = shown.get("zone")
    fold: times.Fold | None = "earlier" if shown.get("fold") == "earlier" else "later" if "fold" in shown else None
    if isinstance(input_value, str):
        with report.noting(_field(instance, "zone")):
            times.zone_info(input_value)
    zone = input_value if isinstance(input_value, str) else ceremony.zone
    is_relative = time.startswith(times.CEREMONY)
    if report.has(_field(instance, "zone")) or report.has("wedding.ceremony.zone"):
        return
    if is_relative and report.has("wedding.ceremony"):
        return
    with report.noting(field):
        times.instant_of(time, zone, fold, report.plan)
