"""Stripe's client against the stand-in, and both against the published contracts."""

from __future__ import annotations

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
from wedsync.kit.vendor import VendorClient
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.stripe.client import API_VERSION

MakeCall = Callable[..., Call]
Pay = Callable[..., Awaitable[Effect]]


def _inputs(instrument: str | None = "pm_card_visa", **changed: Any) -> dict[str, Any]:
    payer = {"id": "anna", "name": "Anna Bianchi", "email": "anna@example.test", "instrument": instrument}
    return {
        "amount": "1500.00",
        "currency": "EUR",
        "amount_minor": 150_000,
        "payer": payer,
        "description": "Deposit",
        **changed,
    }


@pytest.fixture
def pay(sandbox: EmbeddedSandbox, make_call: MakeCall) -> Pay:
    """Create and confirm; `key` keeps two payments apart."""

    async def run(instrument: str = "pm_card_visa", key: str = "1") -> Effect:
        client = sandbox.client("stripe")
        made = await client.send(_create(make_call, instrument, key))
        return await client.send(_confirm(make_call, made, instrument, key))

    return run


def _create(make_call: MakeCall, instrument: str = "pm_card_visa", key: str = "1", **changed: Any) -> Call:
    inputs = _inputs(instrument, **changed)
    return make_call("stripe", "payments.collect", "create_intent", inputs, idempotency_key=f"create-{key}")


def _confirm(make_call: MakeCall, made: Effect, instrument: str = "pm_card_visa", key: str = "1") -> Call:
    return make_call(
        "stripe",
        "payments.collect",
        "confirm_intent",
        _inputs(instrument),
        idempotency_key=f"confirm-{key}",
        facts=made.facts,
    )


def _release(make_call: MakeCall, done: Effect, key: str = "1") -> Call:
    return make_call(
        "stripe",
        "payments.collect",
        "release_payment",
        _inputs(),
        idempotency_key=f"release-{key}",
        facts=done.facts,
    )


async def test_a_payment_is_created_then_confirmed_and_waits_for_the_webhook(
    sandbox: EmbeddedSandbox, pay: Pay
) -> None:
    effect = await pay()
    assert effect.state == "waiting"
    assert effect.external_id == effect.facts["payment_id"]
    assert effect.facts["amount_minor"] == 150_000
    assert not any("secret" in str(value) for value in effect.facts.values())
    (entry,) = await sandbox.ledger("stripe")
    assert entry["object_id"] == effect.external_id
    assert entry["operation"] == "confirm_intent"
    assert (entry["amount_minor"], entry["currency"], entry["state"]) == (150_000, "EUR", "active")
    assert (entry["wedding_id"], entry["step_id"], entry["idempotency_key"]) == ("wedding-1", "step-1", "confirm-1")


async def test_an_intent_that_is_only_created_takes_no_money(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("stripe")
    made = await client.send(_create(make_call))
    assert made.state == "done"
    assert await sandbox.ledger("stripe") == []
    assert (await client.inspect(_confirm(make_call, made))).state == "absent"


async def test_requests_carry_the_pinned_version_the_key_and_our_marks(
    sandbox: EmbeddedSandbox, pay: Pay, contract: Callable[[str], Any]
) -> None:
    await pay()
    create, confirm = await sandbox.requests("stripe")
    for one, key in ((create, "create-1"), (confirm, "confirm-1")):
        assert one["headers"]["stripe-version"] == API_VERSION == sandbox.registry.manifest("stripe").api_version
        assert one["headers"]["authorization"] == "Bearer local-api-key"
        assert one["headers"]["idempotency-key"] == key
    assert contract("stripe-current").doc["info"]["version"] in API_VERSION
    assert create["operation"] == "create_intent"
    assert confirm["operation"] == "confirm_intent"


async def test_a_repeated_call_sends_the_same_bytes_and_charges_once(sandbox: EmbeddedSandbox, pay: Pay) -> None:
    first, second = await pay(), await pay()
    assert first == second
    assert len(await sandbox.ledger("stripe")) == 1
    create, confirm, create_again, confirm_again = await sandbox.requests("stripe")
    assert create["body_base64"] == create_again["body_base64"]
    assert confirm["body_base64"] == confirm_again["body_base64"]
    assert confirm_again["response_headers"]["idempotent-replayed"] == "true"


async def test_a_confirmation_whose_answer_was_lost_is_replayed_without_a_second_charge(
    sandbox: EmbeddedSandbox, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    made = await client.send(_create(make_call))
    await sandbox.faults("stripe", mode="commit_then_drop", operation="confirm_intent", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(_confirm(make_call, made))
    assert (await client.send(_confirm(make_call, made))).state == "waiting"
    assert len(await sandbox.ledger("stripe")) == 1


async def test_a_confirmation_repeated_after_its_key_expired_does_not_charge_again(
    sandbox: EmbeddedSandbox, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    made = await client.send(_create(make_call))
    await client.send(_confirm(make_call, made))
    await sandbox.set_clock("2026-12-25T00:00:00Z")
    assert (await client.send(_confirm(make_call, made))).state == "waiting"
    assert len(await sandbox.ledger("stripe")) == 1


async def test_a_key_reused_for_other_parameters_is_refused(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("stripe")
    await client.send(_create(make_call))
    with pytest.raises(VendorRejected) as caught:
        await client.send(_create(make_call, amount_minor=99))
    assert caught.value.reason == "idempotency_error"


@pytest.mark.parametrize(
    ("instrument", "reason"),
    [
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
async def test_a_declined_card_is_a_definite_refusal(
    sandbox: EmbeddedSandbox, pay: Pay, instrument: str, reason: str
) -> None:
    with pytest.raises(VendorRejected) as caught:
        await pay(instrument)
    assert (caught.value.reason, caught.value.status) == (reason, 402)
    assert await sandbox.ledger("stripe") == []


async def test_the_refuse_fault_declines_the_card_and_leaves_creation_alone(sandbox: EmbeddedSandbox, pay: Pay) -> None:
    await sandbox.faults("stripe", mode="refuse")
    with pytest.raises(VendorRejected) as caught:
        await pay()
    assert caught.value.reason == "generic_decline"
    assert [one["status"] for one in await sandbox.requests("stripe")] == [200, 402]


async def test_a_taken_payment_is_refunded(sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall) -> None:
    client = sandbox.client("stripe")
    paid = await pay()
    undone = await client.send(_release(make_call, paid))
    assert undone.state == "done"
    assert str(undone.facts["refund_id"]).startswith("re_")
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["undone"]
    assert (await client.inspect(_confirm(make_call, paid))).state == "absent"


async def test_a_refund_whose_answer_was_lost_is_made_once(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    paid = await pay()
    await sandbox.faults("stripe", mode="commit_then_drop", operation="release_payment", times=1)
    with pytest.raises(OutcomeUnknown):
        await client.send(_release(make_call, paid))
    assert (await client.send(_release(make_call, paid))).state == "done"
    assert (await client.send(_release(make_call, paid, key="2"))).state == "absent"
    refunds = [one for one in await sandbox.requests("stripe") if one["url"].endswith("/v1/refunds")]
    assert [one["status"] for one in refunds] == [None, 200, 400]


@pytest.fixture
async def slow_bank(sandbox: EmbeddedSandbox) -> AsyncIterator[None]:
    """What the bank decides later it decides after a minute of the sandbox's clock."""
    sandbox.settings.sandbox_webhook_delay_ms = 60_000
    await sandbox.reset()
    yield
    sandbox.settings.sandbox_webhook_delay_ms = 50


@pytest.mark.usefixtures("slow_bank")
async def test_a_refund_is_done_only_once_the_bank_has_it(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall, assert_contract: Callable[..., Awaitable[int]]
) -> None:
    client = sandbox.client("stripe")
    await sandbox.set_clock("2026-11-20T12:00:00Z")
    paid = await pay("pm_card_pendingRefund")
    for key in ("1", "1", "after-the-first-was-pruned"):
        undone = await client.send(_release(make_call, paid, key))
        assert (undone.state, "pending" in undone.detail) == ("waiting", True)
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["active"]
    assert await assert_contract("stripe", "stripe-current") == 8
    await sandbox.set_clock("2026-11-20T13:00:00Z")
    again = await client.send(_release(make_call, paid))
    assert (again.state, again.facts) == ("done", undone.facts)
    assert (await client.send(_release(make_call, paid, key="2"))).state == "absent"
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["undone"]


@pytest.mark.usefixtures("slow_bank")
async def test_a_refund_that_the_bank_sends_back_is_a_refusal(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    await sandbox.set_clock("2026-11-20T12:00:00Z")
    paid = await pay("pm_card_pendingRefund_fails")
    assert (await client.send(_release(make_call, paid))).state == "waiting"
    await sandbox.set_clock("2026-11-20T13:00:00Z")
    with pytest.raises(VendorRejected, match=r"refund re_\w+ of pi_\w+ is failed"):
        await client.send(_release(make_call, paid))
    assert (await client.inspect(_confirm(make_call, paid))).state == "done"
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["active"]


async def test_an_unconfirmed_intent_is_cancelled(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("stripe")
    made = await client.send(_create(make_call))
    assert (await client.send(_release(make_call, made))).state == "done"
    assert (await client.send(_release(make_call, made, key="2"))).state == "absent"
    assert (await client.inspect(_confirm(make_call, made))).state == "absent"


async def test_without_an_intent_on_record_there_is_nothing_to_undo(
    sandbox: EmbeddedSandbox, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    assert (await client.send(_release(make_call, Effect(state="done")))).state == "absent"
    assert (await client.inspect(_confirm(make_call, Effect(state="done")))).state == "absent"
    assert await sandbox.requests("stripe") == []


async def test_an_intent_on_record_that_the_account_does_not_have_is_never_taken_for_undone(
    sandbox: EmbeddedSandbox, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    elsewhere = Effect(state="done", facts={"payment_id": "pi_elsewhere"})
    asked = (
        client.send(_release(make_call, elsewhere)),
        client.inspect(_confirm(make_call, elsewhere)),
        client.send(_confirm(make_call, elsewhere)),
    )
    for answer in asked:
        with pytest.raises(NotAuthorized, match="pi_elsewhere is not in this account") as caught:
            await answer
        assert (caught.value.reason, caught.value.status) == ("object_not_in_this_account", 404)


async def test_a_bank_debit_is_waited_for_and_can_be_undone_only_once_settled(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    await sandbox.set_clock("2026-11-20T12:00:00Z")
    sandbox.settings.sandbox_webhook_delay_ms = 60_000
    await sandbox.reset()
    try:
        paid = await pay("pm_usBankAccount_success")
        assert (await client.inspect(_confirm(make_call, paid))).state == "waiting"
        with pytest.raises(VendorThrottled) as caught:
            await client.send(_release(make_call, paid))
        assert caught.value.reason == "still_processing"
        await sandbox.set_clock("2027-11-20T12:00:00Z")
        assert (await client.inspect(_confirm(make_call, paid))).state == "done"
        assert (await client.send(_release(make_call, paid))).state == "done"
    finally:
        sandbox.settings.sandbox_webhook_delay_ms = 50


async def test_a_bank_debit_that_fails_later_is_a_refusal_when_looked_at(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall
) -> None:
    client = sandbox.client("stripe")
    paid = await pay("pm_usBankAccount_debitNotAuthorized")
    await sandbox.set_clock("2027-11-20T12:00:00Z")
    with pytest.raises(VendorRejected) as caught:
        await client.inspect(_confirm(make_call, paid))
    assert caught.value.reason == "debit_not_authorized"
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["undone"]


async def test_failures_of_the_way_are_told_apart(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("stripe", timeout_seconds=0.2)
    expected: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "throttle", "retry_after_seconds": 7}, VendorThrottled),
        ({"mode": "slow", "delay_ms": 400}, OutcomeUnknown),
    ]
    for fault, kind in expected:
        await sandbox.faults("stripe", **fault)
        with pytest.raises(kind) as caught:
            await client.send(_create(make_call))
        if isinstance(caught.value, VendorThrottled):
            assert caught.value.retry_after_seconds == 7
        await sandbox.clear_faults("stripe")


async def test_without_a_key_nothing_is_done(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    with pytest.raises(NotAuthorized):
        await sandbox.client("stripe", api_key="").send(_create(make_call))
    with pytest.raises(NotAuthorized) as caught:
        await sandbox.http("stripe").request("GET", "/v1/payment_intents/pi_1")
    assert caught.value.status == 401


async def test_bad_input_never_reaches_stripe(sandbox: EmbeddedSandbox, make_call: MakeCall) -> None:
    client = sandbox.client("stripe")
    wrong = [
        _create(make_call, instrument=""),
        _create(make_call, amount_minor=0),
        _create(make_call, payer="anna"),
        make_call("stripe", "payments.collect", "confirm_intent", _inputs()),
        make_call("stripe", "payments.collect", "no_such_operation", _inputs()),
    ]
    for call in wrong:
        with pytest.raises(InvalidInput):
            await client.send(call)
    assert await sandbox.requests("stripe") == []
    assert await client.find(_create(make_call)) is None


def _expands(request: dict[str, Any]) -> bool:
    return "expand" in request["url"]


_CURRENCIES = st.sampled_from([("EUR", 1), ("JPY", 1), ("KWD", 10), ("UGX", 1), ("USD", 1)])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    currency=_CURRENCIES,
    units=st.integers(1, 10**7),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=1200),
    ids=st.tuples(*[st.from_regex(r"[A-Z0-9-]{1,40}", fullmatch=True)] * 3),
    customer=st.sampled_from(["", "cus_1:"]),
)
async def test_every_request_and_answer_fits_stripes_contract(
    sandbox: EmbeddedSandbox,
    make_call: MakeCall,
    assert_contract: Callable[..., Awaitable[int]],
    currency: tuple[str, int],
    units: int,
    description: str,
    ids: tuple[str, str, str],
    customer: str,
) -> None:
    await sandbox.reset()
    client: VendorClient = sandbox.client("stripe")
    wedding, step, transaction = ids
    inputs = _inputs(f"{customer}pm_card_visa")
    inputs.update(currency=currency[0], amount_minor=units * currency[1], description=description)
    marks = {"wedding_id": wedding, "step_id": step, "transaction_id": transaction}
    create, confirm, release, spare = (
        make_call("stripe", "payments.collect", operation, inputs, idempotency_key=f"{operation}-{number}", **marks)
        for number, operation in enumerate(("create_intent", "confirm_intent", "release_payment", "create_intent"))
    )
    made = await client.send(create)
    paid = await client.send(confirm.model_copy(update={"facts": made.facts}))
    await client.send(release.model_copy(update={"facts": paid.facts}))
    other = await client.send(spare)
    await client.send(release.model_copy(update={"facts": other.facts, "idempotency_key": "cancel"}))
    assert await assert_contract("stripe", "stripe-current") == 7
    # The contract with answers is of an older version: it knows neither this version's requests nor expanded objects.
    assert await assert_contract("stripe", "stripe", requests=False, responses=True, skip=_expands) == 5


async def test_refusals_fit_stripes_contract_too(
    sandbox: EmbeddedSandbox, pay: Pay, make_call: MakeCall, assert_contract: Callable[..., Awaitable[int]]
) -> None:
    client = sandbox.client("stripe")
    with pytest.raises(VendorRejected):
        await pay("pm_card_chargeDeclined")
    with pytest.raises(NotAuthorized):
        await sandbox.http("stripe").request("GET", "/v1/payment_intents/pi_1")
    with pytest.raises(NotAuthorized):
        await client.send(_release(make_call, Effect(state="done", facts={"payment_id": "pi_elsewhere"})))
    assert await assert_contract("stripe", "stripe", requests=False, responses=True) == 4
