from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import times
from wedsync.domain.plans.durations import Span, parse_duration, parse_span
from wedsync.domain.plans.plan import Plan, PlannedStep

Load = Callable[[dict[str, Any]], Plan]
Compiled = Callable[[dict[str, Any]], dict[str, PlannedStep]]
#: Zones with summer time in both hemispheres, a half-hour shift, none at all, and odd offsets.
ZONES = (
    "Europe/Rome", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Tokyo", "Asia/Kathmandu",
    "Africa/Casablanca", "Pacific/Apia", "UTC",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400), ("45s", 45), ("48h", 172800), ("7d", 604800), ("2w", 1209600), ("PT2H", 7200), ("P3D", 259200),
        ("P1DT12H30M5S", 131405), ("P2W", 1209600), ("PT0S", 0), ("0m", 0),
    ],
)  # fmt: skip
def test_durations_have_their_length(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1DT", "1", "h", "1.5h", "P1Y", "P1M", "-1h", "3661d", "٣d", "1h ", "9999999999h"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_duration(text)
    assert caught.value.reason == "bad_duration"


def test_days_stay_apart_from_hours() -> None:
    assert parse_span("2d") == Span(days=2, seconds=0)
    assert parse_span("48h") == Span(days=0, seconds=172800)


@pytest.mark.parametrize(
    ("local", "zone", "fold", "instant"),
    [
        ("2027-06-19T16:00", "Europe/Rome", None, "2027-06-19T14:00:00+00:00"),
        ("2027-01-19T16:00:30", "Europe/Rome", None, "2027-01-19T15:00:30+00:00"),
        ("2027-10-31T02:30", "Europe/Rome", "earlier", "2027-10-31T00:30:00+00:00"),
        ("2027-10-31T02:30", "Europe/Rome", "later", "2027-10-31T01:30:00+00:00"),
        ("2027-06-19T16:00", "Asia/Kathmandu", "later", "2027-06-19T10:15:00+00:00"),
    ],
)
def test_wall_times_mean_one_instant(local: str, zone: str, fold: Any, instant: str) -> None:
    assert times.resolve_wall(local, zone, fold).isoformat() == instant


@pytest.mark.parametrize(
    ("local", "zone", "reason"),
    [
        ("2027-03-28T02:30", "Europe/Rome", "nonexistent_time"),
        ("2027-03-14T02:00", "America/New_York", "nonexistent_time"),
        ("2027-10-03T02:15", "Australia/Lord_Howe", "nonexistent_time"),
        ("2011-12-30T12:00", "Pacific/Apia", "nonexistent_time"),
        ("2027-10-31T02:00", "Europe/Rome", "ambiguous_time"),
        ("2027-04-04T01:45", "Australia/Lord_Howe", "ambiguous_time"),
        ("2027-06-19T16:00", "Europe/Roma", "unknown_zone"),
        ("2027-06-19T16:00", "../etc/passwd", "unknown_zone"),
        ("2027-06-19T16:00", "Europe", "unknown_zone"),
        ("2027-06-19T16:00", "", "unknown_zone"),
        ("2027-06-19T16:00", "right/Europe/Rome", "unknown_zone"),
        ("2027-06-19 16:00", "Europe/Rome", "bad_time"),
        ("2027-06-19T16:00+02:00", "Europe/Rome", "bad_time"),
        ("2027-06-19", "Europe/Rome", "bad_time"),
        ("2027-02-29T16:00", "Europe/Rome", "bad_time"),
        ("2027-06-19T24:30", "Europe/Rome", "bad_time"),
        ("0001-01-01T00:00", "Europe/Rome", "bad_time"),
        ("٢٠٢٧-06-19T16:00", "Europe/Rome", "bad_time"),
    ],
)
def test_walls_that_mean_no_instant_are_refused(local: str, zone: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        times.resolve_wall(local, zone, None)
    assert caught.value.reason == reason


@given(
    st.sampled_from(ZONES),
    st.datetimes(datetime(2026, 1, 1), datetime(2029, 12, 31)).map(lambda wall: wall.replace(microsecond=0)),  # noqa: DTZ001
    st.sampled_from(["earlier", "later"]),
)
def test_an_instant_shows_the_wall_time_it_came_from(zone: str, wall: datetime, fold: Any) -> None:
    local = wall.isoformat()
    try:
        shown = times.wall_text(times.resolve_wall(local, zone, fold), zone)
    except InvalidInput as error:
        shown = str(error.reason)
    place = times.zone_info(zone)
    # Only where the clock jumps do the two folds have two offsets.
    jumps = place.utcoffset(wall) != place.utcoffset(wall.replace(fold=1))
    assert shown == local or (jumps and shown == "nonexistent_time")


@given(st.sampled_from(ZONES), st.datetimes(datetime(2026, 1, 1), datetime(2029, 12, 31)))  # noqa: DTZ001
def test_every_instant_can_be_written_as_a_wall_time_and_a_fold(zone: str, moment: datetime) -> None:
    instant = moment.replace(microsecond=0, tzinfo=UTC)
    local = times.wall_text(instant, zone)
    assert instant in {times.resolve_wall(local, zone, "earlier"), times.resolve_wall(local, zone, "later")}


def test_days_keep_the_hour_over_a_change_of_the_clock_and_hours_do_not() -> None:
    monday_after = times.resolve_wall("2027-11-01T16:00", "Europe/Rome", None)
    assert (
        times.wall_text(times.shift(monday_after, -1, parse_span("2d"), "Europe/Rome"), "Europe/Rome")
        == "2027-10-30T16:00:00"
    )
    assert (
        times.wall_text(times.shift(monday_after, -1, parse_span("48h"), "Europe/Rome"), "Europe/Rome")
        == "2027-10-30T17:00:00"
    )


def test_a_reckoned_wall_time_that_is_skipped_becomes_a_later_one() -> None:
    before = times.resolve_wall("2027-03-27T02:30", "Europe/Rome", None)
    assert (
        times.wall_text(times.shift(before, 1, parse_span("1d"), "Europe/Rome"), "Europe/Rome") == "2027-03-28T03:30:00"
    )


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (None, times.AtOnce()),
        ("2027-05-01T09:00", times.At(datetime(2027, 5, 1, 7, tzinfo=UTC))),
        ("ceremony - 48h", times.At(datetime(2027, 6, 17, 14, tzinfo=UTC))),
        ("ceremony", times.At(datetime(2027, 6, 19, 14, tzinfo=UTC))),
        ("ceremony + P1D", times.At(datetime(2027, 6, 20, 14, tzinfo=UTC))),
        ("venue + 7d", times.At(datetime(2027, 1, 8, 12, tzinfo=UTC))),
        ("deposit + 7d", times.After("deposit")),
    ],
)
def test_a_step_is_due_when_its_at_says(
    at: str | None, due: times.Due, data: dict[str, Any], load: Load, compiled: Compiled
) -> None:
    data["steps"][3]["at"] = at
    step = compiled(data)["email"]
    ended = {"venue": datetime(2027, 1, 1, 12, tzinfo=UTC)}
    assert times.due_at(step, load(data), ended) == due


def test_the_ceremony_is_an_instant(data: dict[str, Any], load: Load) -> None:
    assert times.ceremony_instant(load(data)) == datetime(2027, 6, 19, 14, tzinfo=UTC)


def test_an_input_may_be_relative_to_the_ceremony_only(data: dict[str, Any], load: Load) -> None:
    plan = load(data)
    assert times.instant_of("ceremony - 2h", "Asia/Tokyo", None, plan) == datetime(2027, 6, 19, 12, tzinfo=UTC)
    with pytest.raises(InvalidInput) as caught:
        times.instant_of("venue + 2h", "Asia/Tokyo", None, plan)
    assert caught.value.reason == "bad_time"


@pytest.mark.parametrize(
    ("at", "anchor"),
    [
        (None, None),
        ("2027-06-19T16:00", None),
        ("ceremony - 1d", None),
        ("a-b + 1d", "a-b"),
        ("a + 1y", None),
        ("?", None),
    ],
)
def test_the_anchor_of_an_at_is_the_step_it_names(at: str | None, anchor: str | None) -> None:
    assert times.at_anchor(at) == anchor


def test_the_release_of_the_zone_data_is_named() -> None:
    assert times.tzdata_version()[:2] == "20"


def test_zone_data_that_names_no_release_is_unknown(tmp_path: Path) -> None:
    assert times.release_of(tmp_path) == "unknown"
    (tmp_path / "tzdata.zi").write_text("# something else\n")
    assert times.release_of(tmp_path) == "unknown"
    (tmp_path / "tzdata.zi").write_text("# version 2026f\n# more\n")
    assert times.release_of(tmp_path) == "2026f"
