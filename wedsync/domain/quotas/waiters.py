"""Share a quota among those that wait in one process: how many calls to acquire, and who retries when. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.quotas.quota import BLOCK_PART, BLOCK_SECONDS, SPREAD, Grant, QuotaPolicy

#: Why nothing was granted: other processes wrote at the same moment, again and again.
CONTENDED = "contended"


def block_size(policy: QuotaPolicy, left: int | None, waiting: int, recent_per_second: float) -> int:
    """Return how many calls to acquire: for those that wait, and at most 1 % of what remains for those to come."""
    if left is None:
        return waiting
    rates = [one.limit / one.seconds for one in policy.windows if one.window in SPREAD]
    ahead = min([recent_per_second * BLOCK_SECONDS, left * BLOCK_PART, *rates])
    return waiting + max(int(ahead), 0)


def pace_of(grant: Grant, policy: QuotaPolicy) -> timedelta:
    """Return the time between the retries of those whom `grant` refused."""
    meant = [one for one in policy.windows if grant.why == "blocked" or one.window in (grant.why, "second")]
    apart = [one.seconds / one.limit for one in meant]
    if grant.why == "blocked":
        return timedelta(seconds=min(apart, default=0.0))
    # Calls are spread a little slower than their limit.
    return timedelta(seconds=max([grant.pace_seconds, *apart]))


def in_line(grant: Grant, policy: QuotaPolicy, place: int, now: datetime) -> datetime:
    """Return when the `place`-th (0, 1, ...) of those that wait in a process retries: not all of them at once."""
    return (grant.until or now) + place * pace_of(grant, policy)
