"""The generic vendor's client against its stand-in and its own contract, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from importlib import resources
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox

REFERENCE = "0123456789abcdefghijklmnopqrstuv"


def moment(at: datetime, offset_minutes: int = 120, zone: str = "Europe/Rome") -> dict[str, Any]:
    local = at.astimezone(timezone(timedelta(minutes=offset_minutes))).replace(tzinfo=None)
    return {"local": local.isoformat(timespec="seconds"), "zone": zone, "instant": at.isoformat()}


def booking(hour: int = 14, **fields: Any) -> dict[str, Any]:
    starts = datetime(2027, 6, 19, hour, tzinfo=UTC)
    return {
        "title": "Ceremony and dinner",
        "starts": moment(starts),
        "ends": moment(starts + timedelta(hours=6)),
        "guests": 80,
        "contact": {"id": "ada", "name": "Ada Lovelace", "email": "ada@example.com", "phone": "+390318125551"},
        "price": "1500.00",
        "currency": "EUR",
        "price_minor": 150000,
        **fields,
    }


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(operation: str, inputs: dict[str, Any] | None = None, **fields: Any) -> Call:
        given = {"account": "villa-aurora", **fields}
        return make_call("generic", "booking.request", operation, inputs or booking(), **given)

    return make


@pytest.fixture(scope="session")
def document(contract: Callable[[str], Any]) -> Any:
    contract_class = type(contract("resend"))
    text = resources.files("wedsync.vendors.generic").joinpath("openapi.json").read_text("utf-8")
    return contract_class(json.loads(text), strict=True)


async def check(sandbox: EmbeddedSandbox, document: Any) -> None:
    for one in await sandbox.requests("generic"):
        url = sandbox.real_url("generic", one["url"])
        sent = base64.b64decode(one["body_base64"])
        assert document.check_request(one["method"], url, one["headers"], sent) == []
        if one["response_body_base64"] is not None:
            answered = base64.b64decode(one["response_body_base64"])
            faults = document.check_response(one["method"], url, one["status"], one["response_headers"], answered)
            assert faults == [], answered


async def test_a_request_holds_the_date_and_the_confirmation_makes_it_firm(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    assert held.state == "done"
    assert held.external_id == held.facts["booking_id"]
    confirmed = await client.send(call("confirm", facts=held.facts))
    assert (confirmed.state, confirmed.external_id) == ("done", held.external_id)
    assert (await client.inspect(call("confirm", facts=held.facts))).state == "done"
    (entry,) = await sandbox.ledger("generic")
    assert (entry["operation"], entry["amount_minor"], entry["currency"], entry["state"]) == (
        "request",
        150000,
        "EUR",
        "active",
    )
    await check(sandbox, document)


async def test_times_are_sent_with_the_venues_offset(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    await sandbox.client("generic").send(call("request"))
    (sent,) = await sandbox.requests("generic", "request")
    body = json.loads(base64.b64decode(sent["body_base64"]))
    assert body["starts_at"] == "2027-06-19T16:00:00+02:00"
    assert body["timezone"] == "Europe/Rome"
    assert sent["url"].endswith("/generic/villa-aurora/bookings")


async def test_a_business_that_answers_later_leaves_the_step_waiting(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    await sandbox.webhook_policy("generic", muted=True)
    client = sandbox.client("generic")
    inputs = booking(answer="webhook")
    held = await client.send(call("request", inputs))
    assert (await client.inspect(call("confirm", inputs, facts=held.facts))).state == "waiting"
    assert (await client.send(call("confirm", inputs, facts=held.facts))).state == "waiting"
    await check(sandbox, document)


async def test_a_declined_booking_is_a_definite_refusal_when_looked_at(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    await sandbox.webhook_policy("generic", delay_ms=600_000)
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    await sandbox.webhook("generic", "booking.declined", held.external_id, delay_ms=600_000)
    with pytest.raises(VendorRejected) as refused:
        await client.inspect(call("confirm", facts=held.facts))
    assert refused.value.reason == "declined"


async def test_the_same_request_again_books_once(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("generic")
    first = await client.send(call("request"))
    again = await client.send(call("request"))
    other_key = await client.send(call("request", idempotency_key="another-key"))
    assert first.external_id == again.external_id == other_key.external_id
    assert len(await sandbox.ledger("generic")) == 1


async def test_a_key_with_another_body_is_refused(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    client = sandbox.client("generic")
    await client.send(call("request"))
    with pytest.raises(VendorRejected) as refused:
        await client.send(call("request", booking(guests=81)))
    assert refused.value.reason == "idempotency_key_reused"
    await check(sandbox, document)


async def test_a_dropped_answer_is_unknown_and_found_by_reference(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    client = sandbox.client("generic")
    assert await client.find(call("request")) is None
    await sandbox.faults("generic", mode="commit_then_drop", operation="request", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(call("request"))
    found = await client.find(call("request"))
    (entry,) = await sandbox.ledger("generic")
    assert found is not None
    assert found.external_id == entry["object_id"]
    assert (await client.send(call("cancel", facts=found.facts))).state == "done"
    assert (await sandbox.ledger("generic"))[0]["state"] == "undone"
    await check(sandbox, document)


async def test_a_cancelled_booking_is_not_found(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    await client.send(call("cancel", facts=held.facts))
    assert await client.find(call("request")) is None
    assert (await client.inspect(call("confirm", facts=held.facts))).state == "absent"


async def test_a_dropped_cancellation_is_replayed(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    await sandbox.faults("generic", mode="commit_then_drop", operation="cancel", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(call("cancel", facts=held.facts))
    assert (await client.send(call("cancel", facts=held.facts))).state == "done"


async def test_cancelling_what_is_gone_is_absent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    client = sandbox.client("generic")
    unknown = call("cancel", facts={"booking_id": "bk_never"})
    assert (await client.send(unknown)).state == "absent"
    held = await client.send(call("request"))
    await client.send(call("cancel", facts=held.facts))
    late = call("cancel", facts=held.facts, idempotency_key="a-later-round")
    assert (await client.send(late)).state == "absent"
    await check(sandbox, document)


async def test_a_change_moves_the_booking_and_back(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    moved = await client.send(call("change", booking(hour=16), facts=held.facts))
    back = await client.send(call("change", booking(), facts=held.facts, idempotency_key="back"))
    assert moved.state == back.state == "done"
    assert len({held.etag, moved.etag, back.etag}) == 3
    await check(sandbox, document)


async def test_a_venue_takes_no_more_than_300_guests(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any
) -> None:
    with pytest.raises(VendorRejected) as refused:
        await sandbox.client("generic").send(call("request", booking(guests=301)))
    assert refused.value.reason == "capacity_exceeded"
    assert await sandbox.ledger("generic") == []
    await check(sandbox, document)


@pytest.mark.parametrize(("business", "taken"), [("exclusive-villa", True), ("villa-aurora", False)])
async def test_an_exclusive_venue_takes_one_wedding_at_a_time(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], business: str, taken: bool
) -> None:
    ours = sandbox.client("generic", wedding_id="wedding-1")
    theirs = sandbox.client("generic", wedding_id="wedding-2")
    held = await ours.send(call("request", account=business))
    await ours.send(call("confirm", account=business, facts=held.facts))
    other = call("request", account=business, reference=REFERENCE[::-1], idempotency_key="theirs")
    if taken:
        with pytest.raises(VendorRejected) as refused:
            await theirs.send(other)
        assert refused.value.reason == "date_taken"
    else:
        assert (await theirs.send(other)).state == "done"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 7}, VendorThrottled),
        ({"mode": "refuse", "operation": "request"}, VendorRejected),
    ],
)
async def test_faults_become_their_errors(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], fault: dict[str, Any], error: type[Exception]
) -> None:
    await sandbox.faults("generic", **fault)
    with pytest.raises(error) as raised:
        await sandbox.client("generic").send(call("request"))
    if isinstance(raised.value, VendorThrottled):
        assert raised.value.retry_after_seconds == 7


async def test_a_refused_credential_is_not_authorized(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("generic", api_key="revoked-key").send(call("request"))


async def test_the_plan_says_where_the_endpoints_are(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("generic")
    endpoints = {
        "base_url": f"{sandbox.base_url}/generic/florist",
        "request": {"method": "POST", "path": "/bookings"},
        "find": {"method": "GET", "path": "/bookings?reference={reference}"},
    }
    held = await client.send(call("request", endpoints=endpoints))
    assert (await client.inspect(call("confirm", endpoints=endpoints, facts=held.facts))).state == "waiting"
    (sent,) = await sandbox.requests("generic", "request")
    assert sent["url"].endswith("/generic/florist/bookings")
    assert "authorization" not in {name.lower() for name in sent["headers"]}


@pytest.mark.parametrize(
    "base_url",
    [
        "http://venue.example.com",
        "ftp://venue.example.com",
        "https://",
        "https://user:word@venue.example.com",
        "https://venue.example.com/?a=b",
        "https://[::1",
        "venue.example.com",
    ],
)
async def test_a_plans_base_url_must_be_https(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], base_url: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await sandbox.client("generic").send(call("request", endpoints={"base_url": base_url}))
    assert refused.value.field == "api_endpoints.base_url"


async def test_plain_http_to_this_machine_is_refused_when_our_account_is_elsewhere(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic", base_url="https://bookings.example.com")
    with pytest.raises(InvalidInput):
        await client.send(call("request", endpoints={"base_url": "http://127.0.0.1:9/x"}))


async def test_a_booking_that_the_business_does_not_know_is_absent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic")
    assert (await client.inspect(call("confirm", facts={"booking_id": "bk_never"}))).state == "absent"
    # A business with endpoints of its own may say so that it found none.
    nowhere = {"find": {"method": "GET", "path": "/no/such/path?reference={reference}"}}
    assert await client.find(call("request", endpoints=nowhere)) is None
    elsewhere = {"find": {"method": "GET", "path": "/bookings?reference={reference}"}}
    assert (
        await client.inspect(call("confirm", endpoints=elsewhere, facts={"booking_id": "bk_never"}))
    ).state == "absent"


async def test_an_address_without_a_search_does_not_prove_that_nothing_is_booked(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic")
    astray = {"base_url": f"{sandbox.base_url}/generic/villa-aurora/no-such-place"}
    cancel = call("cancel", endpoints=astray, facts={"booking_id": "bk_1"})
    for answer in (client.find(call("request", endpoints=astray)), client.send(cancel)):
        with pytest.raises(VendorUnavailable) as caught:
            await answer
        assert (caught.value.reason, caught.value.status) == ("no_search", 404)


async def test_an_address_without_a_cancellation_does_not_undo_a_booking_that_stands(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    nowhere = {"cancel": {"method": "POST", "path": "/bookings/{booking_id}/no-such-path"}}
    undo = call("cancel", endpoints=nowhere, facts=held.facts)
    with pytest.raises(VendorRejected, match="the booking stands") as caught:
        await client.send(undo)
    assert (caught.value.reason, caught.value.status) == ("not_cancelled", 404)
    await client.send(call("cancel", facts=held.facts))
    assert (await client.send(undo)).state == "absent"


async def test_a_search_that_answers_with_something_else_is_asked_again(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    wrong = {"find": {"method": "GET", "path": f"/bookings/{held.external_id}?reference={{reference}}"}}
    with pytest.raises(VendorUnavailable):
        await client.find(call("request", endpoints=wrong))


async def test_a_refusal_of_the_cancellation_is_told(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    client = sandbox.client("generic")
    held = await client.send(call("request"))
    standing = {"cancel": {"method": "POST", "path": "/bookings/{booking_id}/confirm"}}
    with pytest.raises(VendorRejected) as refused:
        await client.send(call("cancel", endpoints=standing, facts=held.facts))
    assert refused.value.reason == "not_cancelled"


@pytest.mark.parametrize("operation", ["confirm", "change", "cancel", "refund"])
async def test_without_the_bookings_id_nothing_is_sent(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], operation: str
) -> None:
    with pytest.raises(InvalidInput):
        await sandbox.client("generic").send(call(operation))
    assert await sandbox.requests("generic") == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
MOMENTS = st.builds(
    lambda at, offset: (at, offset),
    st.integers(0, 9 * 365 * 24 * 60).map(
        lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
    st.sampled_from([-720, -570, -210, 0, 60, 330, 345, 765, 840]),
)


@st.composite
def bookings(draw: st.DrawFn) -> dict[str, Any]:
    at, offset = draw(MOMENTS)
    price = draw(st.sampled_from([None, ("80000", "JPY"), ("1500.00", "EUR"), ("12.345", "KWD"), ("9", "USD")]))
    return {
        "title": draw(TEXT),
        "starts": moment(at, offset),
        "ends": moment(at + timedelta(minutes=draw(st.integers(1, 20_000))), offset),
        "guests": draw(st.integers(0, 100_000)),
        "contact": {"id": "c", "name": draw(TEXT), "email": draw(st.sampled_from([None, "zoë@example.com"]))},
        "price": price and price[0],
        "currency": price[1] if price else "EUR",
        "notes": draw(st.text(max_size=200)) if draw(st.booleans()) else "",
        "answer": draw(st.sampled_from(["now", "webhook"])),
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=bookings(), number=st.integers(0, 10**9))
async def test_every_request_is_valid_by_the_contract(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], document: Any, inputs: dict[str, Any], number: int
) -> None:
    await sandbox.reset()
    await sandbox.webhook_policy("generic", muted=True)
    client = sandbox.client("generic")
    mine = {"reference": f"{number:032d}", "account": "trattoria-da-renzo"}
    with contextlib.suppress(VendorRejected):
        held = await client.send(call("request", inputs, **mine))
        await client.send(call("confirm", inputs, facts=held.facts, **mine))
        await client.send(call("change", inputs, facts=held.facts, **mine))
        await client.find(call("request", inputs, **mine))
        await client.send(call("cancel", inputs, facts=held.facts, **mine))
    await check(sandbox, document)


async def test_bookings_of_one_moment_have_ids_of_their_own(
    sandbox: EmbeddedSandbox, call: Callable[..., Call]
) -> None:
    client = sandbox.client("generic")
    calls = [call("request", reference=f"{number:032d}", idempotency_key=f"key-{number}") for number in range(40)]
    effects = await asyncio.gather(*(client.send(one) for one in calls))
    assert len({effect.external_id for effect in effects}) == 40
