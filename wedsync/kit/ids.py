"""Make ids: ULIDs (26 characters, Crockford base 32, time-ordered)."""

from __future__ import annotations

from ulid import ULID


def new_id() -> str:
    """Return a new ULID as text."""
    return str(ULID())
