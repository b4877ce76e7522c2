"""The only place that reads the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

#: An answer about another clock is believed for so long, unless a quicker one comes.
_KEPT = timedelta(minutes=1)


def utc_now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)


class FleetClock:
    """The clock by which all processes count, Postgres', as far as this one knows it."""

    def __init__(self) -> None:
        #: It less this machine's.
        self._ahead = timedelta(0)
        self._took, self._set_at = timedelta.max, datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The fleet's time."""
        return utc_now() + self._ahead

    def set(self, told: datetime, before: datetime, after: datetime) -> None:
        """It said `told` at some moment between the two, which are this machine's.

        Believe the quickest of the last minute's answers: a slow one says little about the moment it speaks of. What is
        less than the answer took is no difference.
        """
        took = after - before
        if took <= self._took or abs(after - self._set_at) > _KEPT:
            ahead = told - (before + took / 2)
            self._ahead, self._took, self._set_at = ahead if abs(ahead) > took else timedelta(0), took, after
