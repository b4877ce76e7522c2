"""Collect what is wrong with a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from wedsync.domain.errors import InvalidInput
from wedsync.domain.routing.vendor import Manifest
from wedsync.domain.weddings.expand import instances, services_of
from wedsync.domain.weddings.lines import did_you_mean, line_of
from wedsync.domain.weddings.plan import Plan, PlanError

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
