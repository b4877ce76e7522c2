"""Resolve references in a plan's inputs: `${step.result}`, and words about the wedding itself.

`${deposit.payment_id}` stands for a result of an earlier step. `${wedding.couple}`, `${wedding.reference}` (the plan's
id), `${wedding.place}`, `${wedding.date}`, `${wedding.time}`, `${contact.ID.name}` and, before compilation,
`${service.id}` and `${service.name}` stand for what the plan says. `$${` is a literal `${`. An input that is one
reference and nothing else keeps the result's type; within a longer text it becomes text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.plan import Plan, Service

#: First words that name no step.
RESERVED = frozenset({"wedding", "contact", "service", "ceremony"})
_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_STEP = re.compile(r"([a-z0-9][a-z0-9-]*)\.([a-z][a-z0-9_]*)")

#: Returns the value of a reference's words ("deposit.payment_id"); raises InvalidInput.
Lookup = Callable[[str], JsonValue]


def strings(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text within `value` with its dotted path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, f"{path}.{key}" if path else key)


def words(text: str) -> Iterator[str | None]:
    """Yield the words between `${` and `}` in `text`, in order; None for a `${` that is never closed."""
    for match in _TOKEN.finditer(text):
        if match[0] != "$${":
            yield match[1].strip() if match[1] is not None else None


def step_result(reference: str) -> tuple[str, str] | None:
    """Return ("deposit", "payment_id") of `deposit.payment_id`; None when the words name no step's result."""
    match = _STEP.fullmatch(reference)
    if match is None or match[1] in RESERVED:
        return None
    return match[1], match[2]


def names(inputs: Mapping[str, JsonValue]) -> set[tuple[str, str]]:
    """Return every (step, result) that `inputs` refer to."""
    found = (step_result(word) for _, text in strings(dict(inputs)) for word in words(text) if word)
    return {name for name in found if name is not None}


def constants(plan: Plan) -> dict[str, str]:
    """Return the values of the references to the plan itself, e.g. `wedding.couple` → "Ana & Bo"."""
    wedding = plan.wedding
    date, _, time = wedding.ceremony.at.partition("T")
    known = {
        "wedding.reference": wedding.id,
        "wedding.couple": " & ".join(wedding.couple),
        "wedding.place": wedding.ceremony.place,
        "wedding.date": date,
        "wedding.time": time[:5],
    }
    return known | {f"contact.{contact.id}.name": contact.name for contact in wedding.contacts}


def service_constants(service: Service) -> dict[str, str]:
    """Return `service.id` and `service.name`, which the compiler fills in."""
    return {"service.id": service.id, "service.name": service.name}


def substitute(value: JsonValue, lookup: Lookup, *, keep_escapes: bool = False, path: str = "") -> JsonValue:
    """Replace every reference in `value` by what `lookup` returns for its words; that value is not parsed again.

    `keep_escapes` leaves `$${` as it is, for a value that will be substituted once more. Raises InvalidInput, with the
    dotted path as its field, for what `lookup` refuses, an unclosed `${`, or a list or object within a text.
    """
    if isinstance(value, list):
        return [
            substitute(item, lookup, keep_escapes=keep_escapes, path=f"{path}[{i}]") for i, item in enumerate(value)
        ]
    if isinstance(value, dict):
        return {
            key: substitute(item, lookup, keep_escapes=keep_escapes, path=f"{path}.{key}" if path else key)
            for key, item in value.items()
        }
    if not isinstance(value, str):
        return value
    try:
        return _substitute_text(value, lookup, keep_escapes)
    except InvalidInput as error:
        raise InvalidInput(error.detail, field=path, reason=error.reason) from None


def _substitute_text(text: str, lookup: Lookup, keep_escapes: bool) -> JsonValue:
    whole = _TOKEN.fullmatch(text)
    if whole is not None and whole[1] is not None:
        return lookup(whole[1].strip())

    def put(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "$${" if keep_escapes else "${"
        if match[1] is None:
            raise InvalidInput(
                "'${' without its '}' (write '$${' for the characters themselves)", reason="bad_reference"
            )
        return as_text(lookup(match[1].strip()))

    return _TOKEN.sub(put, text)


def as_text(value: JsonValue) -> str:
    """Write a result as text within a longer text; raises InvalidInput for lists and objects."""
    if isinstance(value, list | dict):
        raise InvalidInput("a list or object does not fit into a text", reason="bad_reference")
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def resolve(
    inputs: Mapping[str, JsonValue], results: Mapping[str, Mapping[str, JsonValue]], plan: Plan
) -> dict[str, JsonValue]:
    """Replace every reference in `inputs`; see `fill`."""
    return fill(inputs, results, constants(plan))


def fill(
    inputs: Mapping[str, JsonValue], results: Mapping[str, Mapping[str, JsonValue]], known: Mapping[str, str]
) -> dict[str, JsonValue]:
    """Replace every reference by an earlier step's result (`results`: step → result → value) or by a constant.

    Raises InvalidInput(reason="missing_result" or "bad_reference") with the input's path as its field.
    """

    def lookup(reference: str) -> JsonValue:
        if reference in known:
            return known[reference]
        name = step_result(reference)
        if name is None:
            raise InvalidInput(f"'${{{reference}}}' refers to nothing", reason="bad_reference")
        step, result = name
        if result not in results.get(step, {}):
            raise InvalidInput(f"step {step!r} gave no {result!r}", reason="missing_result")
        return results[step][result]

    return {key: substitute(value, lookup, path=key) for key, value in inputs.items()}


def resolve_text(text: str, plan: Plan) -> str:
    """Fill in a compensation's text with what the plan itself says; raises InvalidInput for any other reference."""
    return str(resolve({"text": text}, {}, plan)["text"])
