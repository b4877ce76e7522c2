from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.vendors.call import Effect
from wedsync.domain.vendors.manifest import ActionSpec, AuthSpec, Manifest, OperationSpec, VersionSpec
from wedsync.domain.versions.migration import (
    ENDED,
    FREEZE_AFTER,
    FREEZE_BEFORE,
    Migration,
    MigrationRules,
    Seen,
    differences,
    free_at,
    next_move,
    obstacles,
    testing_required,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULES = MigrationRules(shadow_seconds=3_600, canary_seconds=7_200, verify_seconds=7_200, look_seconds=600)
testing_required.__test__ = False  # type: ignore[attr-defined]


def migration(stage: str, **more: Any) -> Migration:
    times = dict.fromkeys(("stage_since", "observed_from", "started_at"), NOW - 10 * HOUR)
    values = {"id": "m", "service": "stripe", "from_version": "1", "to_version": "2", "rules": RULES, **times}
    return Migration.model_validate({**values, "stage": stage, **more})


@pytest.mark.parametrize(
    ("stage", "more", "seen", "goes_to"),
    [
        ("prepare", {}, {}, "shadow"),
        ("prepare", {}, {"obstacles": ("no such version",)}, "rolled_back"),
        ("prepare", {}, {"calls": 100, "failed": 6}, "rolled_back"),
        ("prepare", {}, {"calls": 4, "failed": 4}, "shadow"),
        ("shadow", {"stage_since": NOW}, {"compared": 3}, None),
        ("shadow", {}, {"compared": 3}, "canary"),
        ("shadow", {"compared": 3}, {}, "canary"),
        ("shadow", {}, {}, "rolled_back"),
        ("shadow", {}, {"readable": 3}, "rolled_back"),
        ("shadow", {"stage_since": NOW - 2 * HOUR}, {"readable": 3}, None),
        ("shadow", {"stage_since": NOW - 2 * HOUR}, {}, "rolled_back"),
        ("shadow", {"stage_since": NOW}, {"compared": 3, "different": 1}, "rolled_back"),
        ("canary", {"stage_since": NOW}, {}, None),
        ("canary", {}, {}, "verify"),
        ("canary", {}, {"new_calls": 4, "new_failed": 4}, "verify"),
        ("canary", {}, {"new_calls": 5, "new_failed": 1}, "rolled_back"),
        ("canary", {}, {"new_calls": 10, "new_failed": 10, "old_calls": 10}, "rolled_back"),
        # A bad day of both versions is none of the new one's.
        ("canary", {}, {"new_calls": 10, "new_failed": 4, "old_calls": 10, "old_failed": 3}, "verify"),
        ("verify", {"stage_since": NOW}, {"different": 1, "compared": 1}, "rolled_back"),
        ("verify", {}, {}, "done"),
        ("verify", {"rollback_asked": True}, {}, "rolled_back"),
        ("shadow", {"paused": True}, {"compared": 3}, None),
        ("canary", {"paused": True}, {"obstacles": ("past its sunset",)}, "rolled_back"),
        ("done", {"rollback_asked": True}, {}, None),
        ("rolled_back", {}, {}, None),
    ],
)
def test_the_next_move(stage: str, more: dict[str, Any], seen: dict[str, Any], goes_to: str | None) -> None:
    move = next_move(migration(stage, **more), Seen(**seen), NOW)
    assert (move.stage if move.kind == "go" else None) == goes_to


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_nothing_moves_ahead_into_a_freeze_window(stage: str) -> None:
    ceremony = NOW + FREEZE_BEFORE + HOUR
    seen = Seen(compared=3, ceremonies=(ceremony,))
    move = next_move(migration(stage), seen, NOW)
    assert (move.kind, move.is_frozen, move.until) == ("wait", True, ceremony + FREEZE_AFTER)


def test_it_waits_for_a_window_no_longer_than_it_may() -> None:
    seen = Seen(compared=3, ceremonies=(NOW + HOUR,))
    waited = migration("canary", waits_since=NOW - timedelta(days=14))
    assert next_move(waited, seen, NOW).stage == "rolled_back"
    nearly = migration("canary", waits_since=NOW - timedelta(days=14) + HOUR)
    assert next_move(nearly, seen, NOW).until == NOW + HOUR


@pytest.mark.parametrize("stage", ["shadow", "canary", "verify"])
def test_the_way_back_is_open_in_a_freeze_window(stage: str) -> None:
    move = next_move(migration(stage, rollback_asked=True), Seen(ceremonies=(NOW,)), NOW)
    assert (move.kind, move.stage) == ("go", "rolled_back")


_CEREMONIES = st.lists(st.integers(-20, 400).map(lambda hours: NOW + timedelta(hours=hours)), max_size=8)


@given(_CEREMONIES, st.integers(1, 100))
def test_what_is_free_lies_in_no_window_and_nothing_earlier_would_do(ceremonies: list[datetime], hours: int) -> None:
    length = timedelta(hours=hours)
    free = free_at(ceremonies, NOW, length)

    def clashes(begin: datetime) -> bool:
        return any(c - FREEZE_BEFORE < begin + length and begin < c + FREEZE_AFTER for c in ceremonies)

    assert not clashes(free)
    tries = [NOW + n * HOUR for n in range(int((free - NOW) / HOUR))]
    assert all(clashes(earlier) for earlier in tries)


_SEEN = st.builds(
    Seen,
    new_calls=st.integers(0, 50),
    new_failed=st.integers(0, 50),
    old_calls=st.integers(0, 50),
    old_failed=st.integers(0, 50),
    compared=st.integers(0, 5),
    different=st.integers(0, 1),
    ceremonies=_CEREMONIES.map(tuple),
).filter(lambda s: s.new_failed <= s.new_calls and s.old_failed <= s.old_calls and s.different <= s.compared)


@given(st.lists(_SEEN, min_size=1, max_size=4))
def test_every_migration_ends(observations: list[Seen]) -> None:
    m, now = migration("prepare", stage_since=NOW), NOW
    for turn in range(2_000):
        move = next_move(m, observations[turn % len(observations)], now)
        if move.kind == "go":
            m = m.model_copy(update={"stage": move.stage, "stage_since": now, "waits_since": None})
        else:
            assert move.until is not None
            assert move.until > now
            waits = (m.waits_since or now) if move.is_frozen else None
            m, now = m.model_copy(update={"waits_since": waits}), move.until
        if m.stage in ENDED:
            return
    raise AssertionError(f"still at {m.stage}")


_WRITE, _READ = OperationSpec(name="write"), OperationSpec(name="read", read=True)
MANIFEST = Manifest(
    name="stripe",
    title="Stripe",
    capabilities=("payments", "weather"),
    documentation_url="https://stripe.example.com",
    base_url="https://stripe.example.com",
    auth=AuthSpec(kind="none"),
    actions=(
        ActionSpec(name="payments.collect", undo="exact", operations=(_WRITE,)),
        ActionSpec(name="weather.forecast", undo="none", operations=(_READ,)),
    ),
)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({}, ""),
        ({"wedding_compatible": False}, "not for weddings"),
        ({"status": "sunset"}, "past its sunset"),
        ({"backward_compatible": False}, "names no migration guide"),
        ({"backward_compatible": False, "migration_guide": "https://guide.example.com"}, ""),
    ],
)
def test_what_forbids_a_migration(spec: dict[str, Any], found: str) -> None:
    said = obstacles(VersionSpec.model_validate({"name": "2", **spec}), MANIFEST, "2", "1", NOW)
    assert (len(said) == 1 and found in said[0]) if found else said == ()


def test_an_unknown_version_and_the_present_one_are_no_aims() -> None:
    assert obstacles(None, MANIFEST, "2", "1", NOW) == ("stripe has no version '2'",)
    assert obstacles(VersionSpec(name="1"), MANIFEST, "1", "1", NOW) == ("stripe is at 1 already",)


def test_what_writes_is_rehearsed_before_an_incompatible_version() -> None:
    assert testing_required(VersionSpec(name="2", backward_compatible=False), MANIFEST) == ("payments.collect",)
    assert testing_required(VersionSpec(name="2"), MANIFEST) == ()


def test_differences_name_what_differs_and_no_value() -> None:
    one = Effect(state="done", external_id="a", facts={"x": 1, "endpoint": "eu", "api_version": "1"})
    assert differences(one, one.model_copy(update={"facts": {"x": 1}})) == ()
    other = Effect(state="waiting", external_id="a", facts={"x": "1", "y": 2})
    assert differences(one, other) == ("state", "facts.x", "facts.y")
    assert differences(one, None) == ("answer",)
    assert differences(None, None) == ()
