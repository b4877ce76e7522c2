from __future__ import annotations

from datetime import timedelta

from wedsync.kit.clock import FleetClock, utc_now

MS = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)


def ahead(clock: FleetClock) -> timedelta:
    return clock.now() - utc_now()


def test_it_says_what_it_was_told() -> None:
    clock, now = FleetClock(), utc_now()
    assert abs(ahead(clock)) < timedelta(seconds=1)
    clock.set(now + HOUR, now, now + 2 * MS)
    assert abs(ahead(clock) - HOUR) < timedelta(seconds=1)


def test_a_quick_answer_is_believed_until_it_is_old() -> None:
    clock, now = FleetClock(), utc_now()
    clock.set(now + HOUR, now, now + 2 * MS)
    clock.set(now + 2 * HOUR, now, now + 50 * MS)
    assert abs(ahead(clock) - HOUR) < timedelta(seconds=1)
    later = now + timedelta(minutes=2)
    clock.set(later + 2 * HOUR, later, later + 50 * MS)
    assert abs(ahead(clock) - 2 * HOUR) < timedelta(seconds=1)


def test_less_than_the_answer_took_is_no_difference() -> None:
    clock, now = FleetClock(), utc_now()
    clock.set(now + 7 * HOUR, now, now + 10 * HOUR)
    assert abs(ahead(clock)) < timedelta(seconds=1)
