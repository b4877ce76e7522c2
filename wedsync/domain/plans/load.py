"""Load a plan from parsed JSON and name every fault: its field, a stable code, and what to write instead."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from wedsync.domain.plans.errors import did_you_mean, field_path, line_of
from wedsync.domain.plans.plan import Plan, PlanError

#: How deep lists and objects may be nested.
MAX_DEPTH = 32
#: Most faults named at once; more do not help.
MAX_ERRORS = 100
_PATTERNS = {
    "^[a-z0-9][a-z0-9-]{0,62}$": "lower-case letters, digits and hyphens, at most 63, beginning with a letter or digit",
    "^[A-Z]{3}$": "a currency by ISO 4217, such as EUR",
    "^[a-z][a-z0-9_]*$": "a vendor's name, such as google_calendar",
    "^[a-z]+\\.[a-z_]+$": "capability.action, such as payments.collect",
    "^(P.+|\\d+(s|m|h|d|w))$": "a duration: 90m, 48h, 7d, 2w, or ISO 8601 such as PT2H",
    r"^\d{1,12}(\.\d{1,4})?$": 'an amount as text, such as "1500.00"',
}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object with keys",
    "model_type": "an object with keys",
    "model_attributes_type": "an object with keys",
}


def plan_from_json(
    data: Mapping[str, JsonValue], *, lines: Mapping[str, int] | None = None, file: str = ""
) -> tuple[Plan | None, list[PlanError]]:
    """Return the plan in parsed JSON, or everything that is wrong with its shape; never both, and never raises."""
    fault = _unusable(data)
    if fault is not None:
        field, code, detail = fault
        return None, [PlanError(file=file, line=line_of(field, lines or {}), field=field, code=code, detail=detail)]
    try:
        return Plan.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, explain(error, Plan, lines=lines or {}, file=file)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    *,
    prefix: tuple[str | int, ...] = (),
    lines: Mapping[str, int] | None = None,
    file: str = "",
) -> list[PlanError]:
    """Explain pydantic's errors about a value of `model` (which stands at `prefix`) in our words, one per field."""
    found: dict[str, PlanError] = {}
    for item in error.errors(include_url=False, include_context=True):
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            # Items with faults of their own count as missing: they are named already.
            continue
        if len(found) >= MAX_ERRORS:
            break
        field = field_path((*prefix, *item["loc"]))
        code, detail = _words(item, model)
        entry = PlanError(file=file, line=line_of(field, lines or {}), field=field, code=code, detail=detail)
        found.setdefault(field, entry)
    return list(found.values())


def _words(item: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    kind, input_value, context = item["type"], item["input"], item.get("ctx", {})
    last = str(item["loc"][-1]) if item["loc"] else ""
    if kind == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return "unknown_key", f"unknown key {last!r}{did_you_mean(last, known) or _known_keys(known)}"
    if kind == "missing":
        return "missing_key", f"{last!r} is missing"
    if kind == "literal_error":
        return (
            "bad_value",
            f"{_show(input_value)} is not {context['expected']}{_near(input_value, str(context['expected']))}",
        )
    if kind == "string_pattern_mismatch":
        wanted = _PATTERNS.get(context["pattern"], f"text like {context['pattern']}")
        return "bad_value", f"{_show(input_value)} is not {wanted}"
    if kind in _WANTED:
        return "wrong_type", _wrong_type(input_value, _WANTED[kind])
    return "bad_value", f"{_show(input_value)}: {item['msg'][:1].lower()}{item['msg'][1:]}"


def _wrong_type(input_value: object, wanted: str) -> str:
    if wanted == "text" and isinstance(input_value, int | float) and not isinstance(input_value, bool):
        return f'{_show(input_value)} is a number: put it in quotes, "{input_value}"'
    if wanted == "text" and isinstance(input_value, bool):
        return f'{_show(input_value)} is true or false: put it in quotes, "{str(input_value).lower()}"'
    if input_value is None:
        return f"nothing stands here: {wanted} is wanted, or leave the key out"
    return f"{_show(input_value)} is not {wanted}"


def _near(input_value: object, expected: str) -> str:
    return did_you_mean(str(input_value), [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")])


def _known_keys(known: list[str]) -> str:
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the object at `loc` within `model` may have."""
    here: Any = model
    for part in loc:
        if isinstance(part, int):
            here = _item_type(here)
        elif isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = _bare(here.model_fields[part].annotation)
        else:
            return []
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _bare(annotation: Any) -> Any:
    """Return `X` of `X | None` and of `Annotated[X, ...]`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((_bare(arg) for arg in get_args(annotation) if arg is not type(None)), None)
    return annotation


def _item_type(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is tuple else None


def _unusable(data: object) -> tuple[str, str, str] | None:
    """Return (field, code, detail) of what JSON text can't hold safely: too deep, not finite, half a character, NUL."""
    pending: list[tuple[tuple[str | int, ...], object]] = [((), data)]
    while pending:
        loc, value = pending.pop()
        if len(loc) > MAX_DEPTH:
            return field_path(loc[:4]), "too_deep", f"nested deeper than {MAX_DEPTH} levels"
        if isinstance(value, Mapping):
            pending.extend(((*loc, str(key)), item) for key, item in value.items())
            pending.extend((loc, key) for key in value)
        elif isinstance(value, list | tuple):
            pending.extend(((*loc, index), item) for index, item in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            return field_path(loc), "bad_value", "not a finite number"
        elif isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
            return field_path(loc), "bad_value", "holds a character that is none (NUL, or half of a pair)"
        elif not isinstance(value, str | int | float | bool | None):
            return field_path(loc), "wrong_type", f"{type(value).__name__} is not JSON"
    return None


def plan_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a plan file, which `docs/plan.schema.json` holds."""
    schema = Plan.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "wedsync plan, version 1"} | schema
