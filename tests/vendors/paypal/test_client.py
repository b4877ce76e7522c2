"""PayPal's client against the stand-in, and both against the published contract."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
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
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.ids import new_id
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox

MakeCall = Callable[..., Call]
Pay = Callable[..., Awaitable[Effect]]


def _inputs(instrument: str | None = "8kk8451t", **changed: Any) -> dict[str, Any]:
    payer = {"id": "anna", "name": "Anna Bianchi", "email": "anna@example.test", "instrument": instrument}
    return {
        "amount": "1500.00",
        "currency": "EUR",
        "amount_minor": 150_000,
        "payer": payer,
        "description": "Deposit",
        **changed,
    }


def _create(make_call: MakeCall, instrument: str | None = "8kk8451t", key: str = "1", **changed: Any) -> Call:
    inputs = _inputs(instrument, **changed)
    return make_call("paypal", "payments.collect", "create_order", inputs, idempotency_key=f"create-{key}")


def _capture(make_call: MakeCall, made: Effect, instrument: str = "8kk8451t", key: str = "1") -> Call:
    return make_call(
        "paypal",
        "payments.collect",
        "capture_order",
        _inputs(instrument),
        idempotency_key=f"capture-{key}",
        facts=made.facts,
    )


def _release(make_call: MakeCall, done: Effect, key: str = "1") -> Call:
    return make_call(
        "paypal",
        "payments.collect",
        "release_payment",
        _inputs(),
        idempotency_key=f"release-{key}",
        facts=done.facts,
    )


@pytest.fixture
def client(sandbox: EmbeddedSandbox) -> VendorClient:
    """Of an account of its own, so that no token is left over from another test."""
    return sandbox.client("paypal", client_id=new_id())


@pytest.fixture
def pay(client: VendorClient, make_call: MakeCall) -> Pay:
    async def run(instrument: str = "8kk8451t", key: str = "1") -> Effect:
        made = await client.send(_create(make_call, instrument, key))
        return await client.send(_capture(make_call, made, instrument, key))

    return run


async def test_a_payment_is_done_once_it_is_captured(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    effect = await pay()
    assert effect.state == "done"
    assert effect.external_id == effect.facts["order_id"] != effect.facts["payment_id"]
    assert effect.facts["amount_minor"] == 150_000
    (entry,) = await sandbox.ledger("paypal")
    assert (entry["object_id"], entry["operation"]) == (effect.external_id, "capture_order")
    assert (entry["amount_minor"], entry["currency"], entry["state"]) == (150_000, "EUR", "active")
    assert (entry["wedding_id"], entry["step_id"], entry["idempotency_key"]) == ("wedding-1", "step-1", "capture-1")
    assert (await client.inspect(_capture(make_call, effect))).state == "done"


async def test_an_order_takes_no_money_and_names_no_payment_source(
    sandbox: EmbeddedSandbox, client: VendorClient, make_call: MakeCall
) -> None:
    made = await client.send(_create(make_call))
    assert await sandbox.ledger("paypal") == []
    (request,) = await sandbox.requests("paypal", operation="create_order")
    body = json.loads(base64.b64decode(request["body_base64"]))
    assert "payment_source" not in body
    assert body["purchase_units"][0]["custom_id"] == "wedding-1:step-1"
    assert request["headers"]["paypal-request-id"] == "create-1"
    assert (await client.inspect(_capture(make_call, made))).state == "absent"
    assert (await client.send(_release(make_call, made))).state == "absent"


async def test_a_repeated_call_sends_the_same_bytes_and_charges_once(sandbox: EmbeddedSandbox, pay: Pay) -> None:
    assert await pay() == await pay()
    assert len(await sandbox.ledger("paypal")) == 1
    for operation in ("create_order", "capture_order"):
        first, second = await sandbox.requests("paypal", operation=operation)
        assert first["body_base64"] == second["body_base64"]
        assert second["response_headers"]["idempotent-replayed"] == "true"


async def test_a_capture_whose_answer_was_lost_is_replayed_without_a_second_charge(
    sandbox: EmbeddedSandbox, client: VendorClient, make_call: MakeCall
) -> None:
    made = await client.send(_create(make_call))
    await sandbox.faults("paypal", mode="commit_then_drop", operation="capture_order", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(_capture(make_call, made))
    assert (await client.send(_capture(make_call, made))).state == "done"
    assert len(await sandbox.ledger("paypal")) == 1


async def test_a_capture_repeated_after_its_request_id_was_forgotten_does_not_charge_again(
    sandbox: EmbeddedSandbox, client: VendorClient, make_call: MakeCall
) -> None:
    made = await client.send(_create(make_call))
    first = await client.send(_capture(make_call, made))
    await sandbox.set_clock("2027-11-20T12:00:00Z")
    again = await client.send(_capture(make_call, made))
    assert again == first
    assert len(await sandbox.ledger("paypal")) == 1


async def test_a_second_order_for_the_same_effect_is_unclear_and_not_charged(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall
) -> None:
    await pay(key="1")
    with pytest.raises(OutcomeUnknown) as caught:
        await pay(key="2")
    assert caught.value.reason == "DUPLICATE_INVOICE_ID"
    assert len(await sandbox.ledger("paypal")) == 1


async def test_a_declined_instrument_is_a_definite_refusal(sandbox: EmbeddedSandbox, pay: Pay) -> None:
    with pytest.raises(VendorRejected) as caught:
        await pay("declined")
    assert (caught.value.reason, caught.value.status) == ("INSTRUMENT_DECLINED", 422)
    with pytest.raises(VendorRejected) as caught:
        await pay("card:unknown", key="2")
    assert caught.value.reason == "TOKEN_ID_NOT_FOUND"
    assert await sandbox.ledger("paypal") == []


async def test_the_refuse_fault_declines_the_capture_and_nothing_else(sandbox: EmbeddedSandbox, pay: Pay) -> None:
    await sandbox.faults("paypal", mode="refuse", times=1)
    with pytest.raises(VendorRejected) as caught:
        await pay()
    assert caught.value.reason == "INSTRUMENT_DECLINED"


async def test_a_capture_is_refunded(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    paid = await pay()
    undone = await client.send(_release(make_call, paid))
    assert (undone.state, undone.external_id) == ("done", paid.external_id)
    assert undone.facts["refund_id"]
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["undone"]
    assert (await client.inspect(_capture(make_call, paid))).state == "absent"
    assert (await client.send(_release(make_call, paid, key="2"))).state == "absent"


@pytest.fixture
async def slow_bank(sandbox: EmbeddedSandbox) -> AsyncIterator[None]:
    """What the bank decides later it decides after a minute of the sandbox's clock."""
    sandbox.settings.sandbox_webhook_delay_ms = 60_000
    await sandbox.reset()
    yield
    sandbox.settings.sandbox_webhook_delay_ms = 50


@pytest.mark.usefixtures("slow_bank")
async def test_a_refund_is_done_only_once_the_bank_has_it(
    sandbox: EmbeddedSandbox,
    client: VendorClient,
    pay: Pay,
    make_call: MakeCall,
    assert_contract: Callable[..., Awaitable[int]],
) -> None:
    await sandbox.set_clock("2026-11-20T12:00:00Z")
    paid = await pay("pending-refund")
    for key in ("1", "1", "2"):
        undone = await client.send(_release(make_call, paid, key))
        assert (undone.state, "pending" in undone.detail) == ("waiting", True)
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["active"]
    assert await assert_contract("paypal", "paypal", responses=True, skip=_not_in_contract) >= 9
    await sandbox.set_clock("2026-11-20T13:00:00Z")
    assert (await client.send(_release(make_call, paid))).state == "absent"
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["undone"]


@pytest.mark.usefixtures("slow_bank")
async def test_a_refund_that_the_bank_sends_back_is_a_refusal(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    await sandbox.set_clock("2026-11-20T12:00:00Z")
    paid = await pay("pending-refund-failed")
    assert (await client.send(_release(make_call, paid))).state == "waiting"
    await sandbox.set_clock("2026-11-20T13:00:00Z")
    with pytest.raises(VendorRejected) as caught:
        await client.send(_release(make_call, paid))
    assert caught.value.reason == "refund_failed"
    assert (await client.inspect(_capture(make_call, paid))).state == "done"


async def test_a_refund_whose_answer_was_lost_is_made_once(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    paid = await pay()
    await sandbox.faults("paypal", mode="commit_then_drop", operation="release_payment", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(_release(make_call, paid))
    assert (await client.send(_release(make_call, paid))).state == "absent"
    assert len(await sandbox.requests("paypal", operation="release_payment")) == 1


async def test_a_bank_payment_is_waited_for_and_can_be_undone_only_once_it_arrived(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    sandbox.settings.sandbox_webhook_delay_ms = 60_000
    await sandbox.reset()
    try:
        paid = await pay("pending")
        assert paid.state == "waiting"
        assert (await client.inspect(_capture(make_call, paid))).state == "waiting"
        with pytest.raises(VendorThrottled):
            await client.send(_release(make_call, paid))
        await sandbox.set_clock("2027-11-20T12:00:00Z")
        assert (await client.inspect(_capture(make_call, paid))).state == "done"
        assert (await client.send(_release(make_call, paid))).state == "done"
    finally:
        sandbox.settings.sandbox_webhook_delay_ms = 50


async def test_a_bank_payment_denied_later_is_a_refusal_when_looked_at(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    paid = await pay("pending-denied")
    await sandbox.set_clock("2027-11-20T12:00:00Z")
    with pytest.raises(VendorRejected):
        await client.inspect(_capture(make_call, paid))
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["undone"]
    assert (await client.send(_release(make_call, paid))).state == "absent"


async def test_an_undo_of_what_is_not_there_is_absent(
    sandbox: EmbeddedSandbox, client: VendorClient, make_call: MakeCall
) -> None:
    for facts in ({}, {"order_id": "GONE1234567890123"}):
        gone = Effect(state="done", facts=facts)
        assert (await client.send(_release(make_call, gone))).state == "absent"
        assert (await client.inspect(_capture(make_call, gone))).state == "absent"


async def test_a_capture_on_record_that_the_account_does_not_have_is_never_taken_for_undone(
    client: VendorClient, make_call: MakeCall
) -> None:
    elsewhere = Effect(state="done", facts={"order_id": "GONE1234567890123", "payment_id": "ELSEWHERE12345678"})
    for answer in (client.send(_release(make_call, elsewhere)), client.inspect(_capture(make_call, elsewhere))):
        with pytest.raises(NotAuthorized, match="ELSEWHERE12345678 is not in this account") as caught:
            await answer
        assert (caught.value.reason, caught.value.status) == ("object_not_in_this_account", 404)


async def test_an_order_that_is_not_found_says_nothing_about_an_earlier_capture_of_it(
    client: VendorClient, make_call: MakeCall
) -> None:
    with pytest.raises(NotAuthorized) as caught:
        await client.send(_capture(make_call, Effect(state="done", facts={"order_id": "GONE1234567890123"})))
    assert caught.value.reason == "object_not_in_this_account"


async def test_a_capture_on_record_is_refunded_although_its_order_is_not_found(
    sandbox: EmbeddedSandbox, client: VendorClient, pay: Pay, make_call: MakeCall
) -> None:
    paid = await pay()
    lapsed = paid.model_copy(update={"facts": {**paid.facts, "order_id": "GONE1234567890123"}})
    assert (await client.inspect(_capture(make_call, lapsed))).state == "done"
    assert (await client.send(_release(make_call, lapsed))).state == "done"
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["undone"]


async def test_one_token_is_fetched_for_many_calls_at_once(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    clients = [sandbox.client("paypal", client_id="many") for _ in range(10)]
    calls = [
        client.send(_create(make_call, key=str(number)).model_copy(update={"reference": f"r{number}"}))
        for number, client in enumerate(clients)
    ]
    await asyncio.gather(*calls)
    (token,) = await sandbox.requests("paypal", operation="token")
    assert token["headers"]["authorization"] == "Basic " + base64.b64encode(b"many:local-client-secret").decode()
    assert base64.b64decode(token["body_base64"]) == b"grant_type=client_credentials"


async def test_a_token_that_is_no_longer_taken_is_replaced(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("paypal", client_id="expiring")
    await client.send(_create(make_call))
    await sandbox.set_clock("2027-11-20T12:00:00Z")
    assert (await client.send(_create(make_call, key="2"))).state == "done"
    statuses = [one["status"] for one in await sandbox.requests("paypal", operation="create_order")]
    assert statuses == [201, 401, 201]
    assert len(await sandbox.requests("paypal", operation="token")) == 2


async def test_without_credentials_nothing_is_sent(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("paypal", client_secret="").send(_create(make_call))
    assert await sandbox.requests("paypal") == []


async def test_a_token_that_cannot_be_had_leaves_nothing_unknown(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("paypal", client_id="unlucky")
    for mode in ("commit_then_drop", "down"):
        await sandbox.faults("paypal", mode=mode, operation="token", times=1)
        with pytest.raises(VendorUnavailable):
            await client.send(_create(make_call))
    assert await sandbox.requests("paypal", operation="create_order") == []


async def test_bad_input_never_reaches_paypal(
    sandbox: EmbeddedSandbox, client: VendorClient, make_call: MakeCall
) -> None:
    wrong = [
        _create(make_call, instrument=None),
        _create(make_call, amount_minor=0),
        _create(make_call, payer="anna"),
        make_call("paypal", "payments.collect", "capture_order", _inputs()),
        make_call("paypal", "payments.collect", "no_such_operation", _inputs()),
    ]
    for call in wrong:
        with pytest.raises(InvalidInput):
            await client.send(call)
    assert await sandbox.requests("paypal") == []
    assert await client.find(_create(make_call)) is None


def _not_in_contract(request: dict[str, Any]) -> bool:
    return request["operation"] in ("token", "certificate")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    money=st.sampled_from([("EUR", 1), ("JPY", 1), ("HUF", 100), ("USD", 1)]),
    units=st.integers(1, 10**7),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    ids=st.tuples(*[st.from_regex(r"[A-Za-z0-9-]{1,80}", fullmatch=True)] * 2),
    instrument=st.sampled_from(["8kk8451t", "card:1a2b_3", "agreement:B-9XX"]),
)
async def test_every_request_and_answer_fits_paypals_contract(
    sandbox: EmbeddedSandbox,
    make_call: MakeCall,
    assert_contract: Callable[..., Awaitable[int]],
    money: tuple[str, int],
    units: int,
    description: str,
    ids: tuple[str, str],
    instrument: str,
) -> None:
    await sandbox.reset()
    client = sandbox.client("paypal", client_id=new_id())
    inputs = _inputs(instrument)
    inputs.update(currency=money[0], amount_minor=units * money[1], description=description)
    create, capture, release = (
        make_call("paypal", "payments.collect", operation, inputs, wedding_id=ids[0], step_id=ids[1])
        for operation in ("create_order", "capture_order", "release_payment")
    )
    made = await client.send(create)
    paid = await client.send(capture.model_copy(update={"facts": made.facts}))
    await client.send(release.model_copy(update={"facts": paid.facts}))
    await client.inspect(release.model_copy(update={"facts": paid.facts}))
    assert await assert_contract("paypal", "paypal", responses=True, skip=_not_in_contract) == 5


async def test_refusals_fit_paypals_contract_too(
    sandbox: EmbeddedSandbox,
    client: VendorClient,
    pay: Pay,
    make_call: MakeCall,
    assert_contract: Callable[..., Awaitable[int]],
) -> None:
    for number, instrument in enumerate(("declined", "unknown")):
        with pytest.raises(VendorRejected):
            await pay(instrument, key=str(number))
    for currency in ("KWD", "ISK"):
        with pytest.raises(VendorRejected):
            await client.send(_create(make_call, key=currency, currency=currency))
    await client.send(_release(make_call, Effect(state="done", facts={"order_id": "GONE1234567890123"})))
    with pytest.raises(NotAuthorized):
        await sandbox.http("paypal").request("GET", "/v2/checkout/orders/GONE1234567890123")
    assert await assert_contract("paypal", "paypal", requests=False, responses=True, skip=_not_in_contract) >= 7
