"""Read a submitted plan, in JSON or YAML, and report everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import JsonValue

from wedsync.domain.errors import WedsyncError
from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Plan, PlanError
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest
from wedsync.kit.plan_file import check_plan_file


class InvalidPlan(WedsyncError):
    """The plan can't run: `errors` says why, each with its field and a stable code."""

    code: ClassVar[str] = "invalid_plan"

    def __init__(self, errors: Sequence[PlanError]) -> None:
        first = errors[0]
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        super().__init__(f"{first.field or 'plan'}: {first.detail}{more}")
        self.errors = tuple(errors)


class _DuplicateKey(ValueError):
    pass


def validate_plan(
    body: bytes, *, is_yaml: bool, manifests: Mapping[str, Manifest]
) -> tuple[Plan | None, list[PlanError]]:
    """Return the plan, or every error; never both, and never raises. YAML's errors name their lines."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None, [_fault("syntax", "a plan is UTF-8 text")]
    if is_yaml:
        return check_plan_file(text, "", manifests)
    data, fault = _from_json(text)
    if fault is not None:
        return None, [fault]
    if not isinstance(data, dict):
        return None, [_fault("syntax", "a plan is an object: version, wedding, services, steps")]
    plan, errors = plan_from_json(data)
    if plan is not None:
        errors = check_plan(plan, manifests)
    return (None if errors else plan), errors


def require_plan(body: bytes, *, is_yaml: bool, manifests: Mapping[str, Manifest]) -> Plan:
    """Return the plan; raises InvalidPlan."""
    plan, errors = validate_plan(body, is_yaml=is_yaml, manifests=manifests)
    if plan is None:
        raise InvalidPlan(errors)
    return plan


def _from_json(text: str) -> tuple[JsonValue, PlanError | None]:
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant), None
    except _DuplicateKey as error:
        return None, _fault("duplicate_key", f"the key {error.args[0]!r} is given twice in one object")
    except json.JSONDecodeError as error:
        return None, _fault("syntax", f"not JSON: {error.msg} (column {error.colno})", error.lineno)
    except (ValueError, RecursionError):
        return None, _fault("syntax", "not JSON that can be read: a number too long, or nesting too deep")


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(key[:60])
        found[key] = value
    return found


def _no_constant(word: str) -> JsonValue:
    raise ValueError(word)


def _fault(code: str, detail: str, line: int = 0) -> PlanError:
    return PlanError(line=line, field="", code=code, detail=detail)
