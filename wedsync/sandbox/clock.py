"""Movable clock of the sandbox."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.kit.clock import utc_now


class MovableClock:
    """Runs with the wall clock, at an offset that can be set."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        """Return the sandbox's present instant, in UTC."""
        return utc_now() + self._offset

    def move_to(self, now: datetime) -> None:
        """Make `now` the present; the clock runs on from there."""
        self._offset = now - utc_now()

    def reset(self) -> None:
        """Run with the wall clock again."""
        self._offset = timedelta()
