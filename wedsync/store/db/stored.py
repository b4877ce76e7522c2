"""Read values from Postgres that an older or a newer release may have written."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)
K = TypeVar("K", bound=Hashable)


def value_of(model: type[M], stored: Mapping[str, Any]) -> M:
    """Read the stored value; keys that this release doesn't know are ignored. Raises ValidationError."""
    return model.model_validate(stored, extra="ignore")


def values_of(
    model: type[M], stored: Iterable[tuple[K, Mapping[str, Any]]], known: Mapping[K, M] | None = None
) -> dict[K, M]:
    """Read the stored values by key. An unreadable one keeps no other from being read: it stays as it was `known`."""
    found: dict[K, M] = {}
    for key, values in stored:
        try:
            found[key] = value_of(model, values)
        except ValidationError as error:
            # Not its values: a policy or a configuration may name tenants.
            where = [".".join(map(str, one["loc"])) for one in error.errors(include_input=False)]
            log.error("store.not_readable", what=model.__name__, key=key, fields=where[:5])
            if known is not None and key in known:
                found[key] = known[key]
    return found
