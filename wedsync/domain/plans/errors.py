"""Collect what is wrong with a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.expand import instances, services_of
from wedsync.domain.plans.plan import Plan, PlanError
from wedsync.domain.vendors.manifest import Manifest

_LAST = re.compile(r"(\.[^.\[\]]+|\[\d+\]|^[^.\[\]]+)$")


def field_path(parts: Iterable[str | int]) -> str:
    """Write ("steps", 3, "needs", 0) as `steps[3].needs[0]`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def line_of(field: str, lines: Mapping[str, int]) -> int:
    """Return the line of `field`, else of the nearest part around it that has one; 0 when the source has no lines."""
    while field not in lines:
        match = _LAST.search(field)
        if match is None:
            return lines.get("", 0)
        field = field[: match.start()]
    return lines[field]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest `; did you mean 'vendor'?`, or nothing when no known word is near."""
    close = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


PLAN_ERROR_CODES: dict[str, str] = {
    "ambiguous_time": "daylight saving repeats this wall time and no `fold` says which is meant",
    "bad_amount": "not an amount of money, or a payment of nothing",
    "bad_duration": "not a duration, too long, or nothing where some time is needed",
    "bad_email": "not an email address",
    "bad_locale": "not a language tag by BCP 47",
    "bad_phone": "not a phone number by E.164",
    "bad_reference": "a `${` without its `}`, or a reference where none can stand",
    "bad_time": "not a wall time, nor relative to the ceremony or a step",
    "bad_value": "of the right type, but not among the values allowed",
    "conflicting_keys": "two keys that contradict one another, or one that has no effect here",
    "cycle": "steps, groups or services that need one another; the path is shown, each needing the next",
    "duplicate_id": "an id, or an entry of a list, given twice",
    "duplicate_key": "a key given twice in one object",
    "id_too_long": "an expanded step's id has more than 63 characters",
    "missing_default": "a step may be skipped, later inputs refer to it, and `default_results` lacks the result",
    "missing_email": "the contact needs an email address for this",
    "missing_instrument": "the payer has no payment instrument for a vendor that may be asked to charge",
    "missing_key": "a key that must be given",
    "missing_phone": "the contact needs a phone number for this",
    "missing_service": "a step with neither `service` nor `services`",
    "nonexistent_time": "daylight saving skips this wall time",
    "reserved_id": "an id that means something else in references or times",
    "syntax": "neither YAML nor JSON, or more of YAML than a plan may use",
    "too_deep": "nested too deep",
    "too_large": "the file, or what its aliases expand to, is too large",
    "too_many_decimals": "more decimals than the currency has",
    "too_many_steps": "too many steps once `services` are expanded",
    "two_groups": "a step or group that is a member of two groups",
    "unknown_action": "the capability has no such action",
    "unknown_anchor": "`at` is relative to a step that does not exist",
    "unknown_capability": "no such capability",
    "unknown_contact": "no such contact in the plan",
    "unknown_currency": "not an active currency of ISO 4217",
    "unknown_key": "a key that does not exist here",
    "unknown_member": "a group's member that is neither a step nor a group",
    "unknown_reference": "a reference to a result that no earlier step gives, or to nothing known",
    "unknown_result": "a default for a result that the action does not give",
    "unknown_service": "no such service in the plan",
    "unknown_step": "no such step or group in the plan",
    "unknown_vendor": "no such vendor",
    "unknown_zone": "not an IANA time zone",
    "unsupported_action": "the vendor, or a fallback, cannot do this; those that can are named",
    "url_forbidden": "an address that is not `https://` and public",
    "wrong_type": "text where a number is wanted, a list where text is wanted, and the like",
}


#: More do not help.
MAX_ERRORS = 200
MAX_HINTS = 50


class Report:
    """Errors of one plan so far, and the look-up tables of every check."""

    def __init__(self, plan: Plan, manifests: Mapping[str, Manifest], lines: Mapping[str, int], file: str) -> None:
        self.plan = plan
        self.manifests = manifests
        self.services = services_of(plan)
        self.service_index = {service.id: index for index, service in enumerate(plan.services)}
        self.contacts = {contact.id: contact for contact in plan.wedding.contacts}
        self.instances = instances(plan)
        self._lines, self._file = lines, file
        self._found: dict[tuple[str, str, str], PlanError] = {}
        self._hints = MAX_HINTS

    def add(self, field: str, code: str, detail: str) -> None:
        """Note an error once; those beyond MAX_ERRORS are dropped."""
        if len(self._found) >= MAX_ERRORS:
            return
        line = line_of(field, self._lines)
        error = PlanError(file=self._file, line=line, field=field, code=code, detail=detail)
        self._found.setdefault((field, code, detail), error)

    def hint(self, word: str, known: Iterable[str], otherwise: str = "") -> str:
        """Suggest `; did you mean ...?`, else `otherwise`. Finding near words is slow: only so many times a plan."""
        self._hints -= 1
        return (did_you_mean(word, known) if self._hints >= 0 else "") or otherwise

    @contextmanager
    def noting(self, field: str) -> Iterator[None]:
        """Note an InvalidInput raised within, at `field`, by its reason."""
        try:
            yield
        except InvalidInput as error:
            self.add(field, error.reason or "bad_value", error.detail)

    def has(self, prefix: str) -> bool:
        """Tell whether something at `prefix` or within it is wrong."""
        return any(field == prefix or field.startswith((f"{prefix}.", f"{prefix}[")) for field, _, _ in self._found)

    def errors(self) -> list[PlanError]:
        """Return all errors, in the file's order if the lines are known."""
        return sorted(self._found.values(), key=lambda error: error.line)
