"""How those that wait for a quota in one process share what comes: what is asked for them, and who comes when. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.routing.quotas import BLOCK_PART, BLOCK_SECONDS, SPREAD, Grant, QuotaPolicy

#: Why nothing was given: other processes wrote at the same moment, again and again.
CONTENDED = "contended"


def block_size(policy: QuotaPolicy, left: int | None, waiting: int, recent_per_second: float) -> int:
    """How many calls to ask for: those that wait, and a little for those to come: 1 % of what remains at most."""
    if left is None:
        return waiting
    rates = [one.limit / one.seconds for one in policy.windows if one.window in SPREAD]
    ahead = min([recent_per_second * BLOCK_SECONDS, left * BLOCK_PART, *rates])
    return waiting + max(int(ahead), 0)


def pace_of(grant: Grant, policy: QuotaPolicy) -> timedelta:
    """How far apart those come again who were refused by `grant`."""
    meant = [one for one in policy.windows if grant.why == "blocked" or one.window in (grant.why, "second")]
    apart = [one.seconds / one.limit for one in meant]
    if grant.why == "blocked":
        return timedelta(seconds=min(apart, default=0.0))
    # What calls are spread by is a little slower than their limit.
    return timedelta(seconds=max([grant.pace_seconds, *apart]))


def in_line(grant: Grant, policy: QuotaPolicy, place: int, now: datetime) -> datetime:
    """When the `place`-th (0, 1, ...) of those that wait in a process comes again: not all of them at once."""
    return (grant.until or now) + place * pace_of(grant, policy)
