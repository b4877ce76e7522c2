"""Forecast how much of each quota the running plans want, and where it falls short. Pure; time is an argument."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from wedsync.domain.quotas.quota import SECONDS, Quota, QuotaPolicy, WindowLimit, WindowName, start_of
from wedsync.domain.quotas.reservations import kept_within
from wedsync.domain.value import Value

#: A window of a second says nothing of weeks ahead: a minute's demand is compared with sixty of them.
_SHORTEST = 60.0


class Demand(Value):
    """Calls that plans want of an account within one minute."""

    service: str
    account: str = "default"
    at: datetime
    calls: int
    weddings: int = 1


class Predicted(Value):
    """One window in which calls are wanted."""

    service: str
    account: str
    window: WindowName
    starts_at: datetime
    ends_at: datetime
    #: Planned calls, and reserved ones besides.
    calls: int
    reserved: int
    limit: int
    weddings: int

    @property
    def over_by(self) -> int:
        """Count the calls that must wait for a later window."""
        return max(self.calls + self.reserved - self.limit, 0)


def span_of(one: WindowLimit) -> tuple[float, int]:
    """Return the seconds and calls that demand is compared with: a second's limit by the minute."""
    if one.seconds >= _SHORTEST:
        return one.seconds, one.limit
    return _SHORTEST, int(one.limit * _SHORTEST / one.seconds)


def predicted(
    demand: Iterable[Demand], policies: Mapping[tuple[str, str], QuotaPolicy], quotas: Mapping[tuple[str, str], Quota]
) -> list[Predicted]:
    """List every window of every account in which calls are wanted, in the order of time."""
    calls: dict[tuple[str, str, WindowName, datetime], int] = defaultdict(int)
    weddings: dict[tuple[str, str, WindowName, datetime], int] = defaultdict(int)
    limits = {(key, one.window): one for key, policy in policies.items() for one in policy.windows}
    for wanted in demand:
        policy = policies.get((wanted.service, wanted.account))
        for one in policy.windows if policy is not None else ():
            place = (wanted.service, wanted.account, one.window, start_of(wanted.at, span_of(one)[0]))
            calls[place] += wanted.calls
            weddings[place] += wanted.weddings
    found = []
    for (service, account, window, starts_at), count in calls.items():
        key = (service, account)
        seconds, limit = span_of(limits[key, window])
        ends_at = starts_at + timedelta(seconds=seconds)
        quota = quotas.get(key, Quota(service=service, account=account))
        found.append(
            Predicted(
                service=service,
                account=account,
                window=window,
                starts_at=starts_at,
                ends_at=ends_at,
                calls=count,
                reserved=kept_within(quota, starts_at, ends_at),
                limit=limit,
                weddings=weddings[service, account, window, starts_at],
            )
        )
    return sorted(found, key=lambda one: (one.starts_at, one.service, one.account, SECONDS[one.window]))
