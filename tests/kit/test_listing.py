from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.kit.listing import Pages, newest_first

SINCE = datetime(2031, 6, 1, tzinfo=UTC)
UNTIL = SINCE + timedelta(days=3)
PAGE = 5


class Vendor:
    """A list of events by the second, the newest first."""

    def __init__(self, seconds: list[int]) -> None:
        self.events = sorted({SINCE + timedelta(seconds=second) for second in seconds}, reverse=True)

    async def read(self, since: datetime, until: datetime, most: int) -> Pages:
        wanted = [event for event in self.events if since <= event < until]
        shown = wanted[: most * PAGE]
        reached = shown[-1] if len(wanted) > len(shown) else None
        return Pages(bodies=tuple(event.isoformat().encode() for event in shown), reached=reached)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3 * 86_400 - 1), max_size=60), st.integers(0, 3 * 86_400 - 4000))
def test_readings_one_after_another_leave_nothing_out(scattered: list[int], burst_at: int) -> None:
    vendor = Vendor([*scattered, *range(burst_at, burst_at + 4000)])

    async def read_all() -> set[bytes]:
        found: set[bytes] = set()
        since = SINCE
        while since < UNTIL:
            listed = await newest_first(vendor.read, since, UNTIL)
            assert since < listed.until <= UNTIL
            found |= set(listed.bodies)
            assert all(event.isoformat().encode() in found for event in vendor.events if event < listed.until)
            since = listed.until
        return found

    assert len(asyncio.run(read_all())) == len(vendor.events)
