"""Keep what a process holds of one account's quota, who waits for more, and when those who had to leave may retry."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from wedsync.domain.errors import ThrottledUntil
from wedsync.domain.quotas import acquire, headers, waiters
from wedsync.domain.quotas import quota as rules
from wedsync.domain.quotas.quota import Grant, Quota, QuotaPolicy

_NEVER = datetime.min.replace(tzinfo=UTC)
#: A call's moment passed before it could be sent.
MISSED = "missed"
_WHY = {
    "blocked": "as it asked us to",
    waiters.CONTENDED: "too many ask at once",
    MISSED: "the call's turn was missed here",
    acquire.THROTTLED: "as an operator has throttled it",
}


@dataclass(order=True)
class Waiter:
    """A call that waits in line."""

    priority: int
    number: int
    wedding_id: str = field(compare=False)
    #: No longer in line.
    leaves_at: datetime = field(compare=False)
    #: How many calls are left, and the call's moment.
    granted: asyncio.Future[tuple[int, datetime]] = field(compare=False)


class RetrySlots:
    """Retry moments given to calls that had to leave: the next to leave gets a later one.

    By priority: no call gets a moment after those of lower priority.
    """

    def __init__(self) -> None:
        self._last: dict[int, datetime] = {}

    def next(self, priority: int, earliest: datetime, pace: timedelta) -> datetime:
        """Return the first moment that no call was given, `earliest` or later."""
        moment = max([earliest, *(last + pace for rank, last in self._last.items() if rank <= priority)])
        self._last[priority] = moment
        return moment

    def clear(self) -> None:
        """Forget all moments that were given."""
        self._last.clear()


@dataclass
class Account:
    """One account's quota as the process holds it, and the calls that wait for more."""

    known: Quota
    calls: int = 0
    good_until: datetime | None = None
    #: The moment of the block's next call, and the pace of those after it.
    next_at: datetime | None = None
    pace: timedelta = timedelta(0)
    #: With fewer calls in hand the process requests the next block.
    low: int = 0
    left: int = 0
    waiting: list[Waiter] = field(default_factory=list)
    #: Requests for wedding days go one after another: they would only hinder each other.
    urgent: asyncio.Lock = field(default_factory=asyncio.Lock)
    retry_slots: RetrySlots = field(default_factory=RetrySlots)
    task: asyncio.Task[None] | None = None
    #: Moments of the last calls, to estimate the next ones.
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    learned_at: datetime | None = None
    #: How many calls the vendor refused, and until when.
    refused: int = 0
    refused_until: datetime | None = None
    #: What the vendor told this process; the row may not say so yet.
    blocked_until: datetime | None = None
    blocked_at: datetime = _NEVER
    #: Postgres did not answer in time: no request before this moment.
    stalled_until: datetime = _NEVER
    #: What was acquired without Postgres: a read of the row must not wipe it.
    alone: Quota | None = None

    def as_reported(self, now: datetime) -> Quota:
        """Return the row as last read, with what the vendor has told this process since."""
        until = self.blocked_until
        return self.known if until is None or now >= until else headers.blocked(self.known, until, self.blocked_at)

    def heed(self, stored: Quota) -> None:
        """Adopt a newer row; a changed throttle or block in it ends this process's block at once."""
        if stored.version > self.known.version:
            is_stricter = stored.throttle != self.known.throttle or stored.blocked_until != self.known.blocked_until
            self.known = stored
            if is_stricter:
                self.calls = 0

    def next_of_block(self, now: datetime) -> tuple[int, datetime] | None:
        """Acquire a call of the block in hand, if any: how many are left of the limit, and the call's moment."""
        if not self.calls or self.good_until is None or now >= self.good_until:
            return None
        self.calls -= 1
        self.left -= 1
        moment = self.next_at if self.pace and self.next_at is not None else now
        self.next_at = moment + self.pace
        return self.left, moment

    def moment(self, grant: Grant, policy: QuotaPolicy, priority: int, place: int, now: datetime) -> datetime:
        """Return when the `place`-th waiting call, refused by `grant`, may retry."""
        earliest = waiters.in_line(grant, policy, place, now)
        if grant.why not in (*rules.SPREAD, waiters.CONTENDED):
            return earliest
        return self.retry_slots.next(priority, earliest, waiters.pace_of(grant, policy))


def refusal(service: str, until: datetime, why: str, now: datetime) -> ThrottledUntil:
    """Return the error for a call that must wait: for the vendor, an operator, a window, or since its moment passed.

    `until` and `now` are by the same clock.
    """
    what = _WHY.get(why, f"its quota of this {why} is used")
    detail = f"{service} takes no more calls until {until:%Y-%m-%d %H:%M:%S} UTC, {what}; nothing was sent"
    seconds = (until - now).total_seconds()
    return ThrottledUntil(detail, until=until, retry_after_seconds=seconds, vendor=service)
