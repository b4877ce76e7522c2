"""Read the wall clock: the only place that does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

#: A process trusts an answer about another clock for so long, unless a quicker one comes.
_KEPT = timedelta(minutes=1)


def utc_now() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)


class FleetClock:
    """Reads the clock by which all processes count, that of Postgres, as far as this one knows it."""

    def __init__(self) -> None:
        #: The difference to this machine's clock.
        self._ahead = timedelta(0)
        self._took, self._set_at = timedelta.max, datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """Return the fleet's time."""
        return utc_now() + self._ahead

    def set(self, fleet_time: datetime, before: datetime, after: datetime) -> None:
        """Note that the other clock showed `fleet_time` at some moment between the two, which are this machine's.

        Trusts the quickest of the last minute's answers: a slow one says little about its moment. A difference that is
        less than the answer took is none.
        """
        took = after - before
        if took <= self._took or abs(after - self._set_at) > _KEPT:
            ahead = fleet_time - (before + took / 2)
            self._ahead, self._took, self._set_at = ahead if abs(ahead) > took else timedelta(0), took, after
