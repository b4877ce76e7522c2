"""Whatever the client sends and the stand-in answers is valid under Google's published API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.vendors.call import Call
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.google_calendar.reconcile import list_events

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=1000)
NAMES = st.sampled_from(["Ada", "Ḥasan", "花子", "Ольга 💐"])
ZONES = st.sampled_from(["Europe/Rome", "Asia/Tokyo", "America/St_Johns", "Pacific/Apia"])
WALLS = st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)).map(  # noqa: DTZ001
    lambda wall: wall.replace(microsecond=0).isoformat()
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=TEXTS, notes=TEXTS, name=NAMES, guests=st.integers(0, 3), zone=ZONES, wall=WALLS)
async def test_the_life_of_an_event_fits_the_contract(
    sandbox: EmbeddedSandbox,
    calendar_call: Callable[..., Call],
    event_inputs: Callable[..., dict[str, Any]],
    assert_contract: Callable[..., Any],
    title: str,
    notes: str,
    name: str,
    guests: int,
    zone: str,
    wall: str,
) -> None:
    await sandbox.reset()
    client = sandbox.client("google_calendar", account_id="studio+1@example.com")
    attendees = [{"id": f"g{n}", "name": name, "email": f"g{n}@example.com"} for n in range(guests)]
    old = event_inputs(wall, zone, title=title, notes=notes, attendees=attendees)
    new = event_inputs("2031-01-01T10:00:00", zone, title=title, notes="", attendees=[])
    made = await client.send(calendar_call(inputs=old))
    assert await client.find(calendar_call(inputs=old)) is not None
    await client.send(calendar_call("update_event", new, facts=made.facts, previous_inputs=old))
    await client.send(calendar_call("delete_event", new, facts=made.facts))
    assert await assert_contract("google_calendar", "google-calendar", responses=True) == 4


async def test_a_look_at_what_changed_fits_the_contract(
    sandbox: EmbeddedSandbox,
    calendar_call: Callable[..., Call],
    event_inputs: Callable[..., dict[str, Any]],
    assert_contract: Callable[..., Any],
) -> None:
    await sandbox.reset()
    account = Account(vendor="google_calendar", name="default", base_url="", api_key="t", account_id="a@example.com")
    client = sandbox.client("google_calendar", account_id="a@example.com")
    made = await client.send(calendar_call(inputs=event_inputs("2030-06-19T16:00:00", "Europe/Rome")))
    await client.send(calendar_call("delete_event", facts=made.facts))
    http = VendorHttp(
        sandbox.pool,
        vendor="google_calendar",
        base_url=sandbox.vendor_url("google_calendar"),
        timeout_seconds=5,
    )
    now = datetime.now(UTC)
    found = await list_events(http, account, now - timedelta(hours=1), now + timedelta(hours=1))
    assert len(found.bodies) == 1
    assert await assert_contract("google_calendar", "google-calendar", responses=True) == 3
