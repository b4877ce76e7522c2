"""Reads the range of time that a report is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from wedsync.domain.errors import InvalidInput
from wedsync.kit.clock import utc_now

WEEK = timedelta(days=7)
_LONGEST = timedelta(days=366)
#: Nothing lies outside, and what is reckoned from a day within is a day that there is.
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

Since = Annotated[AwareDatetime | None, Query(description="From when on; a week before `until` by default.")]
Until = Annotated[AwareDatetime | None, Query(description="Until when; now by default.")]


def read_range(
    since: datetime | None, until: datetime | None, *, default: timedelta = WEEK
) -> tuple[datetime, datetime]:
    """Return the range's start and end; it is `default` long when only its end is given. Raises InvalidInput."""
    end = until or utc_now()
    if not _EARLIEST <= end <= _LATEST:
        raise InvalidInput(f"`until` must lie between {_EARLIEST.date()} and {_LATEST.date()}", field="until")
    begin = since or end - default
    if not timedelta(0) < end - begin <= _LONGEST:
        raise InvalidInput("`since` must be before `until`, by a year at the most", field="since")
    return begin, end
