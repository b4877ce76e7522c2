"""Calls about one calendar event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from wedsync.domain.vendors.call import Call


@pytest.fixture
def event_inputs() -> Callable[..., dict[str, Any]]:
    """`event_inputs(local, zone, minutes, **fields)` → the inputs of `calendar.create_event`."""

    def make(
        local: str = "2027-06-19T16:00:00", zone: str = "Europe/Rome", minutes: int = 60, **fields: Any
    ) -> dict[str, Any]:
        starts = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone))
        utc = ZoneInfo("UTC")

        def moment(instant: datetime) -> dict[str, Any]:
            wall = instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            return {"local": wall.isoformat(), "zone": zone, "instant": instant.astimezone(utc).isoformat()}

        ends = starts.astimezone(utc) + timedelta(minutes=minutes)
        return {"title": "Ceremony", "starts": moment(starts), "ends": moment(ends), **fields}

    return make


@pytest.fixture
def calendar_call(make_call: Callable[..., Call], event_inputs: Callable[..., dict[str, Any]]) -> Callable[..., Call]:
    """`calendar_call(operation, inputs=None, **fields)` → a call about a calendar event."""

    def make(operation: str = "insert_event", inputs: dict[str, Any] | None = None, **fields: Any) -> Call:
        given = inputs if inputs is not None else event_inputs()
        return make_call("google_calendar", "calendar.create_event", operation, given, **fields)

    return make
