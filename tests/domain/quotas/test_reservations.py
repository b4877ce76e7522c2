from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wedsync.domain.quotas import quota as q
from wedsync.domain.quotas.acquire import acquire
from wedsync.domain.quotas.quota import Quota, Reservation, WindowLimit
from wedsync.domain.quotas.reservations import kept_within, most_kept

NOW = datetime(2027, 6, 1, tzinfo=UTC)
DAY = WindowLimit(window="day", limit=100)
A_MONTH = timedelta(days=30)


def kept(id_: str = "r1", calls: int = 1000, starts: datetime = NOW, lasts: timedelta = A_MONTH) -> Reservation:
    return Reservation(id=id_, wedding_id=f"w-{id_}", calls=calls, starts_at=starts, ends_at=starts + lasts)


def holding(*reservations: Reservation) -> Quota:
    return Quota(service="stripe", reservations=reservations)


@pytest.mark.parametrize(
    ("one", "limits", "left"),
    [
        (kept(calls=900), {"per_day": 100}, 70),
        (kept(calls=5000, lasts=timedelta(hours=12)), {"per_hour": 5000}, 4583),
        (kept(calls=30, lasts=timedelta(minutes=40)), {"per_hour": 100, "per_day": 100}, 70),
    ],
)
def test_a_window_keeps_an_even_share_and_the_rest_is_everybody_s(
    one: Reservation, limits: dict[str, int], left: int
) -> None:
    assert acquire(holding(one), q.policy_of(limits), 10_000, NOW, priority=q.WEDDING_DAY)[1].calls == left


def test_a_share_that_was_used_is_kept_no_more_until_the_next_window() -> None:
    rule, quota = q.policy_of({"per_day": 100}), holding(kept(calls=900))
    quota, grant = acquire(quota, rule, 30, NOW, wedding_id="w-r1")
    assert grant.calls == 30
    quota, grant = acquire(quota, rule, 100, NOW, priority=q.WEDDING_DAY)
    assert grant.calls == 70
    assert acquire(quota, rule, 100, NOW + timedelta(days=1), priority=q.WEDDING_DAY)[1].calls == 70


def test_a_reservation_takes_nothing_of_what_another_keeps() -> None:
    rule = q.policy_of({"per_day": 100})
    quota, grant = acquire(holding(kept(calls=900), kept("r2", calls=600)), rule, 100, NOW, wedding_id="w-r1")
    assert grant.calls == 80
    assert acquire(quota, rule, 100, NOW, wedding_id="w-r2")[1].calls == 20


def test_what_is_kept_at_the_most_is_what_a_window_withholds() -> None:
    late = kept("late", 600, NOW + timedelta(days=10, hours=5))
    first, found = kept(calls=900), holding(kept(calls=900), late)
    start, most = most_kept(found, DAY, first)
    assert (start, most) == (NOW + timedelta(days=10), 50)
    assert kept_within(found, start, start + timedelta(days=1)) == most
    counter = q.opened(found, DAY, start)
    assert acquire(found, q.policy_of({"per_day": 100}), 100, counter.started_at, priority=q.WEDDING_DAY)[1].calls == 50


def test_small_shares_are_added_up_before_they_are_rounded() -> None:
    many = holding(*(kept(str(n), 30, lasts=timedelta(hours=1)) for n in range(20)))
    assert kept_within(many, NOW, NOW + timedelta(seconds=1)) == 1
