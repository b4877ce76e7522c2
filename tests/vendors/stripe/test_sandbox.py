"""The stand-in refuses as Stripe does."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from wedsync.domain.errors import VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.stripe.sandbox import read_form

INTENT = {"amount": "1500", "currency": "eur", "payment_method": "pm_card_visa"}


class Stripe:
    """A bare caller of the stand-in."""

    def __init__(self, http: VendorHttp) -> None:
        http.read_error = lambda status, body: (str(body["error"].get("code") or body["error"]["type"]), str(body))
        self._http = http

    async def request(
        self, method: Literal["GET", "POST"], path: str, form: dict[str, str] | None = None, **headers: str
    ) -> dict[str, Any]:
        sent = {"Authorization": "Bearer k", **{name.replace("_", "-"): value for name, value in headers.items()}}
        pairs = list(form.items()) if form is not None else None
        answer: dict[str, Any] = (await self._http.request(method, path, form=pairs, headers=sent)).json()
        return answer

    async def paid(self, method: str = "pm_card_visa") -> str:
        intent = await self.request("POST", "/v1/payment_intents", {**INTENT, "payment_method": method})
        confirmed = await self.request("POST", f"/v1/payment_intents/{intent['id']}/confirm", {})
        return str(confirmed["id"])

    async def refusal(
        self, method: Literal["GET", "POST"], path: str, form: dict[str, str] | None = None, **headers: str
    ) -> tuple[int | None, str | None]:
        with pytest.raises(VendorRejected) as caught:
            await self.request(method, path, form, **headers)
        return caught.value.status, caught.value.reason


@pytest.fixture
def stripe(sandbox: EmbeddedSandbox) -> Stripe:
    return Stripe(sandbox.http("stripe"))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"amount": ""}, "parameter_invalid_integer"),
        ({"amount": "12.50"}, "parameter_invalid_integer"),
        ({"amount": "0"}, "amount_too_small"),
        ({"amount": "999999999999"}, "amount_too_large"),
        ({"amount": "5124", "currency": "kwd"}, "amount_too_small"),
        ({"amount": "550", "currency": "ugx"}, "amount_too_small"),
        ({"currency": "euro"}, "invalid_request_error"),
        ({"payment_method": "card_1"}, "resource_missing"),
        ({"description": "x" * 1001}, "invalid_request_error"),
        ({"payment_method_types[]": "card"}, "parameter_unknown"),
    ],
)
async def test_a_bad_intent_is_refused(stripe: Stripe, changed: dict[str, str], reason: str) -> None:
    assert await stripe.refusal("POST", "/v1/payment_intents", {**INTENT, **changed}) == (400, reason)


async def test_what_is_missing_is_named(stripe: Stripe) -> None:
    assert await stripe.refusal("POST", "/v1/payment_intents", {"currency": "eur"}) == (400, "parameter_missing")
    for method, path in (
        ("GET", "/v1/payment_intents/pi_gone"),
        ("POST", "/v1/payment_intents/pi_gone/confirm"),
        ("POST", "/v1/payment_intents/pi_gone/cancel"),
        ("GET", "/v1/refunds/re_gone"),
        ("GET", "/v1/events/evt_gone"),
    ):
        form: dict[str, Any] | None = {} if method == "POST" else None
        assert await stripe.refusal(method, path, form) == (404, "resource_missing")  # type: ignore[arg-type]
    for form in ({"payment_intent": "pi_gone"}, {"charge": "ch_gone"}):
        assert await stripe.refusal("POST", "/v1/refunds", form) == (404, "resource_missing")


async def test_a_version_that_never_was_is_refused(stripe: Stripe) -> None:
    assert await stripe.refusal("POST", "/v1/payment_intents", INTENT, Stripe_Version="yesterday") == (
        400,
        "invalid_request_error",
    )


async def test_no_more_is_refunded_than_was_taken(stripe: Stripe) -> None:
    paid = await stripe.paid()
    part = await stripe.request("POST", "/v1/refunds", {"payment_intent": paid, "amount": "500"})
    assert (part["amount"], part["status"]) == (500, "succeeded")
    assert (await stripe.request("GET", f"/v1/refunds/{part['id']}"))["payment_intent"] == paid
    for amount, reason in (("1001", "invalid_request_error"), ("x", "parameter_invalid_integer")):
        refused = await stripe.refusal("POST", "/v1/refunds", {"payment_intent": paid, "amount": amount})
        assert refused == (400, reason)
    rest = await stripe.request("POST", "/v1/refunds", {"charge": part["charge"]})
    assert rest["amount"] == 1000
    assert await stripe.refusal("POST", "/v1/refunds", {"payment_intent": paid}) == (400, "charge_already_refunded")


async def test_a_part_refund_leaves_the_payment_standing(sandbox: EmbeddedSandbox, stripe: Stripe) -> None:
    paid = await stripe.paid()
    await stripe.request("POST", "/v1/refunds", {"payment_intent": paid, "amount": "500"})
    assert [entry["state"] for entry in await sandbox.ledger("stripe")] == ["active"]


async def test_an_intent_is_confirmed_once_and_not_cancelled_afterwards(stripe: Stripe) -> None:
    paid = await stripe.paid()
    for path in ("confirm", "cancel"):
        refused = await stripe.refusal("POST", f"/v1/payment_intents/{paid}/{path}", {})
        assert refused == (400, "payment_intent_unexpected_state")


async def test_an_unpaid_intent_cannot_be_refunded(stripe: Stripe) -> None:
    intent = await stripe.request("POST", "/v1/payment_intents", INTENT)
    refused = await stripe.refusal("POST", "/v1/refunds", {"payment_intent": intent["id"]})
    assert refused == (400, "payment_intent_unexpected_state")


async def test_another_method_may_be_given_after_a_decline(stripe: Stripe) -> None:
    intent = await stripe.request("POST", "/v1/payment_intents", {**INTENT, "payment_method": "pm_card_chargeDeclined"})
    path = f"/v1/payment_intents/{intent['id']}/confirm"
    assert await stripe.refusal("POST", path, {}) == (402, "card_declined")
    assert await stripe.refusal("POST", path, {}) == (400, "invalid_request_error")
    assert (await stripe.request("POST", path, {"payment_method": "pm_card_visa"}))["status"] == "succeeded"


async def test_a_refusal_is_replayed_under_its_key_until_the_key_expires(
    sandbox: EmbeddedSandbox, stripe: Stripe
) -> None:
    intent = await stripe.request("POST", "/v1/payment_intents", {**INTENT, "payment_method": "pm_card_chargeDeclined"})
    path = f"/v1/payment_intents/{intent['id']}/confirm"
    for _ in range(2):
        assert await stripe.refusal("POST", path, {}, Idempotency_Key="k") == (402, "card_declined")
    await sandbox.set_clock("2030-01-01T00:00:00Z")
    assert await stripe.refusal("POST", path, {}, Idempotency_Key="k") == (400, "invalid_request_error")


async def test_one_key_serves_one_endpoint(stripe: Stripe) -> None:
    intent = await stripe.request("POST", "/v1/payment_intents", INTENT, Idempotency_Key="k")
    path = f"/v1/payment_intents/{intent['id']}/confirm"
    assert await stripe.refusal("POST", path, {}, Idempotency_Key="k") == (400, "idempotency_error")


async def test_events_are_listed_newest_first(stripe: Stripe) -> None:
    paid = await stripe.paid()
    await stripe.request("POST", "/v1/refunds", {"payment_intent": paid})
    listed = await stripe.request("GET", "/v1/events?limit=1")
    assert (listed["data"][0]["type"], listed["has_more"]) == ("charge.refunded", True)
    wanted = await stripe.request("GET", "/v1/events?type=payment_intent.succeeded&created[gte]=1")
    (event,) = wanted["data"]
    assert event["data"]["object"]["id"] == paid
    assert (await stripe.request("GET", f"/v1/events/{event['id']}"))["id"] == event["id"]
    assert (await stripe.request("GET", "/v1/balance"))["object"] == "balance"


async def test_a_bracketed_form_is_read_one_level_deep() -> None:
    assert read_form(b"amount=1&metadata[a]=x%20y&metadata[b]=&expand[]=z") == {
        "amount": "1",
        "metadata": {"a": "x y", "b": ""},
        "expand": {"": "z"},
    }
    assert read_form(b"") == {}
