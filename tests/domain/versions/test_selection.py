from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import VendorRejected
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions.selection import (
    Chosen,
    Pin,
    days_left,
    draw,
    is_sunset,
    marked,
    notice_of,
    refuse,
    resolve,
    status_of,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPECS = {name: VersionSpec(name=name) for name in ("m", "e", "s", "t", "x")}


def pin(version: str, organization_id: str | None = None, since: datetime = NOW - HOUR, **more: Any) -> Pin:
    return Pin(service="stripe", organization_id=organization_id, version=version, since=since, **more)


def chosen(*pins: Pin, at: datetime = NOW, endpoint: str = "", **more: Any) -> str:
    given: dict[str, Any] = {"organization_id": "org", "wedding_id": "w", **more}
    return resolve(SPECS, pins, at=at, endpoint_version=endpoint, manifest_version="m", **given).name


SERVICE, TENANT = pin("s"), pin("t", "org")


@pytest.mark.parametrize(
    ("pins", "endpoint", "more", "expected"),
    [
        ((), "", {}, "m"),
        ((), "e", {}, "e"),
        ((SERVICE,), "e", {}, "s"),
        ((TENANT, SERVICE), "e", {}, "t"),
        ((pin("t", "another"),), "e", {}, "e"),
        ((TENANT, SERVICE), "e", {"requested": "x"}, "x"),
        ((TENANT,), "e", {"facts": {"api_version": "x"}}, "x"),
        # What was made by the manifest's version carries no mark.
        ((TENANT,), "", {"facts": {"payment_id": "p"}}, "m"),
        ((TENANT,), "a label", {"facts": {"payment_id": "p"}}, "a label"),
        ((pin("t", "org", until=NOW),), "", {}, "m"),
        ((pin("t", "org", since=NOW + HOUR),), "", {}, "m"),
        ((pin("s"), pin("x", since=NOW - HOUR / 2)), "", {}, "x"),
        # A migration's pin lies over a newer one of an operator's.
        ((pin("x", migration_id="mig"), pin("s", since=NOW - HOUR / 2)), "", {}, "x"),
    ],
)
def test_the_version_of_a_call(pins: tuple[Pin, ...], endpoint: str, more: dict[str, Any], expected: str) -> None:
    assert chosen(*pins, endpoint=endpoint, **more) == expected


def test_a_step_leaves_its_version_when_the_vendor_answers_it_no_longer() -> None:
    gone = SPECS | {"x": VersionSpec(name="x", status="sunset")}
    where: dict[str, Any] = {"organization_id": "org", "wedding_id": "w", "at": NOW, "endpoint_version": ""}
    assert resolve(gone, (TENANT,), manifest_version="m", facts={"api_version": "x"}, **where).name == "t"


_MOMENTS = st.integers(0, 48).map(lambda hours: NOW + timedelta(hours=hours))
_PINS = st.builds(
    pin,
    st.sampled_from(sorted(SPECS)),
    st.sampled_from([None, "org", "another"]),
    _MOMENTS,
    share_percent=st.integers(1, 100),
    migration_id=st.sampled_from(["", "mig"]),
)


@given(st.lists(_PINS, max_size=6), _MOMENTS, _MOMENTS)
def test_a_retry_speaks_the_version_of_its_first_attempt_whatever_is_pinned_later(
    pins: list[Pin], first_sent_at: datetime, changed_at: datetime
) -> None:
    later = [one.model_copy(update={"until": changed_at}) if one.since <= changed_at else one for one in pins]
    later.append(pin("x", "org", changed_at))
    if first_sent_at < changed_at:
        assert chosen(*pins, at=first_sent_at) == chosen(*later, at=first_sent_at)


@given(st.lists(_PINS, max_size=6), _MOMENTS)
def test_another_organizations_pins_never_matter(pins: list[Pin], at: datetime) -> None:
    mine = [one for one in pins if one.organization_id != "another"]
    assert chosen(*pins, at=at) == chosen(*mine, at=at)


def test_a_share_is_of_weddings_and_repeats() -> None:
    canary = pin("x", share_percent=10, migration_id="mig")
    weddings = [f"w{n}" for n in range(2000)]
    taken = [w for w in weddings if canary.holds(NOW, w)]
    assert 140 <= len(taken) <= 260
    assert taken == [w for w in weddings if canary.holds(NOW + HOUR, w)]
    assert all(draw("mig", w) < 10 for w in taken)


@pytest.mark.parametrize(
    ("spec", "status", "left", "sunset"),
    [
        ({}, "active", None, False),
        ({"status": "deprecated"}, "deprecated", None, False),
        ({"deprecated_on": "2026-11-22"}, "active", None, False),
        ({"deprecated_on": "2026-11-21", "sunset_on": "2026-12-01"}, "deprecated", 10, False),
        ({"sunset_on": "2026-11-21"}, "sunset", 0, True),
        ({"sunset_on": "2026-11-21", "sunset_overridden": True}, "sunset", 0, False),
        ({"status": "sunset"}, "sunset", None, True),
    ],
)
def test_a_version_as_its_dates_say(spec: dict[str, Any], status: str, left: int | None, sunset: bool) -> None:
    version, today = VersionSpec.model_validate({"name": "x", **spec}), date(2026, 11, 21)
    assert (status_of(version, today), days_left(version, today), is_sunset(version, today)) == (status, left, sunset)
    assert (notice_of("stripe", version, today) == "") is (status == "active")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"wedding_compatible": False}, "version_not_for_weddings"), ({"status": "sunset"}, "version_sunset")],
)
def test_a_version_that_weddings_may_not_use_is_refused(spec: dict[str, Any], reason: str) -> None:
    version = VersionSpec.model_validate({"name": "x", **spec})
    with pytest.raises(VendorRejected) as refused:
        refuse("stripe", Chosen(name="x", spec=version), NOW.date())
    assert refused.value.reason == reason


def test_only_another_version_than_the_manifests_is_marked() -> None:
    assert marked(Chosen(name="x", spec=SPECS["x"]), "m")
    assert not marked(Chosen(name="m", spec=SPECS["m"]), "m")
    assert not marked(Chosen(name="label"), "m")
