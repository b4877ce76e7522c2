"""Decide which subscriptions want an event: patterns of types, and filters over its fields. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wedsync.domain.errors import InvalidInput
from wedsync.domain.outbox.catalogue import EVENT_TYPES

#: Allowed values by dotted path: `{"wedding_id": ["01J..."], "data.capability": ["payments"]}`.
Filters = Mapping[str, Sequence[str | int | bool | None]]

_PATTERN = re.compile(r"\*|[a-z]+\.(\*|[a-z_]+)")
#: A test: sent only if a subscription names its type, or to one subscription.
_TEST = "webhook.test"
_FILTERABLE = ("wedding_id", "type", "data.")


def wants(patterns: Sequence[str], event_type: str) -> bool:
    """Tell whether one of the patterns (`*`, `payment.*`, `payment.captured`) covers a type."""
    if event_type == _TEST:
        return False
    family = event_type.partition(".")[0]
    return any(pattern in ("*", event_type, f"{family}.*") for pattern in patterns)


def passes(filters: Filters, event: Mapping[str, Any]) -> bool:
    """Tell whether each filtered field (`wedding_id`, `type`, `data.x.y`) holds one of its allowed values."""
    return all(_is_one_of(_value_at(event, path), allowed) for path, allowed in filters.items())


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise InvalidInput(reason="unknown_event_type") for a pattern that covers no type of the catalogue."""
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern) or not any(wants([pattern], name) for name in EVENT_TYPES):
            raise InvalidInput(f"{pattern!r} covers no type of event", field="event_types", reason="unknown_event_type")


def check_filters(filters: Filters) -> None:
    """Raise InvalidInput for a path that no event has."""
    for path in filters:
        if not path.startswith(_FILTERABLE) or not re.fullmatch(r"[a-z_]+(\.[a-z_]+){0,3}", path):
            raise InvalidInput(f"events can't be filtered by {path!r}", field="filters")


def _value_at(event: Any, path: str) -> Any:
    for word in path.split("."):
        event = event.get(word) if isinstance(event, Mapping) else None
    return event


def _is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    # `True == 1` in Python, but not in JSON.
    return any(type(value) is type(item) and value == item for item in allowed)
