"""The stand-in refuses as PayPal does."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import pytest_asyncio

from wedsync.domain.errors import NotAuthorized, VendorRejected
from wedsync.kit.http import VendorHttp
from wedsync.sandbox.embedded import EmbeddedSandbox

ORDERS = "/v2/checkout/orders"


class PayPal:
    """A bare caller of the stand-in."""

    def __init__(self, http: VendorHttp, token: str) -> None:
        http.read_error = lambda status, body: (str((body.get("details") or [{"issue": body["name"]}])[0]["issue"]), "")
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}

    async def request(self, method: Literal["GET", "POST"], path: str, body: Any = None) -> dict[str, Any]:
        answer = await self._http.request(method, path, json_body=body, headers=self._headers)
        parsed: dict[str, Any] = answer.json()
        return parsed

    async def refusal(self, method: Literal["GET", "POST"], path: str, body: Any = None) -> tuple[int | None, Any]:
        with pytest.raises(VendorRejected) as caught:
            await self.request(method, path, body)
        return caught.value.status, caught.value.reason

    async def captured(self) -> dict[str, Any]:
        """The capture of a new order."""
        order = await self.request("POST", ORDERS, _order())
        source = {"payment_source": {"card": {"vault_id": "1a2b"}}}
        paid = await self.request("POST", f"{ORDERS}/{order['id']}/capture", source)
        capture: dict[str, Any] = paid["purchase_units"][0]["payments"]["captures"][0]
        return capture


def _order(**amount: Any) -> dict[str, Any]:
    unit = {"amount": {"currency_code": "EUR", "value": "15.00", **amount}}
    return {"intent": "CAPTURE", "purchase_units": [unit]}


@pytest_asyncio.fixture
async def paypal(sandbox: EmbeddedSandbox) -> PayPal:
    http = sandbox.http("paypal")
    form = [("grant_type", "client_credentials")]
    answer = await http.request("POST", "/v1/oauth2/token", form=form, auth=("id", "secret"))
    assert answer.json()["token_type"] == "Bearer"
    return PayPal(http, answer.json()["access_token"])


@pytest.mark.parametrize(
    ("amount", "status", "reason"),
    [
        ({"currency_code": "KWD"}, 422, "INVALID_CURRENCY_CODE"),
        ({"currency_code": "JPY", "value": "15.00"}, 422, "DECIMALS_NOT_SUPPORTED"),
        ({"value": "1.005"}, 422, "DECIMAL_PRECISION"),
        ({"value": "0.00"}, 422, "CANNOT_BE_ZERO_OR_NEGATIVE"),
        ({"value": 15}, 400, "MISSING_REQUIRED_PARAMETER"),
    ],
)
async def test_a_bad_amount_is_refused(paypal: PayPal, amount: dict[str, Any], status: int, reason: str) -> None:
    assert await paypal.refusal("POST", ORDERS, _order(**amount)) == (status, reason)


async def test_a_bad_order_is_refused(paypal: PayPal) -> None:
    long = _order()
    long["purchase_units"][0]["description"] = "x" * 128
    assert await paypal.refusal("POST", ORDERS, long) == (400, "INVALID_STRING_LENGTH")
    for body in ({}, {"intent": "CAPTURE"}, {"intent": "CAPTURE", "purchase_units": []}):
        assert await paypal.refusal("POST", ORDERS, body) == (400, "MISSING_REQUIRED_PARAMETER")
    assert await paypal.refusal("POST", ORDERS, ["no object"]) == (400, "MALFORMED_REQUEST_JSON")


async def test_what_is_missing_is_404(paypal: PayPal) -> None:
    missing: list[tuple[Literal["GET", "POST"], str]] = [
        ("GET", f"{ORDERS}/GONE"),
        ("POST", f"{ORDERS}/GONE/capture"),
        ("GET", "/v2/payments/captures/GONE"),
        ("POST", "/v2/payments/captures/GONE/refund"),
        ("GET", "/v2/payments/refunds/GONE"),
        ("GET", "/v1/notifications/certs/GONE"),
    ]
    for method, path in missing:
        assert await paypal.refusal(method, path, {} if method == "POST" else None) == (404, "INVALID_RESOURCE_ID")


async def test_an_order_without_a_payment_source_is_not_approved(paypal: PayPal) -> None:
    order = await paypal.request("POST", ORDERS, _order())
    assert await paypal.refusal("POST", f"{ORDERS}/{order['id']}/capture", {}) == (422, "ORDER_NOT_APPROVED")


async def test_no_more_is_refunded_than_was_taken(sandbox: EmbeddedSandbox, paypal: PayPal) -> None:
    capture = await paypal.captured()
    path = f"/v2/payments/captures/{capture['id']}"
    five = {"amount": {"currency_code": "EUR", "value": "5.00"}}
    refund = await paypal.request("POST", f"{path}/refund", five)
    assert (await paypal.request("GET", f"/v2/payments/refunds/{refund['id']}"))["amount"]["value"] == "5.00"
    assert (await paypal.request("GET", path))["status"] == "PARTIALLY_REFUNDED"
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["active"]
    eleven = {"amount": {"currency_code": "EUR", "value": "11.00"}}
    assert await paypal.refusal("POST", f"{path}/refund", eleven) == (422, "REFUND_AMOUNT_EXCEEDED")
    assert (await paypal.request("POST", f"{path}/refund", {}))["amount"]["value"] == "10.00"
    assert await paypal.refusal("POST", f"{path}/refund", {}) == (422, "CAPTURE_FULLY_REFUNDED")
    assert [entry["state"] for entry in await sandbox.ledger("paypal")] == ["undone"]


async def test_a_token_needs_credentials_and_the_right_grant(sandbox: EmbeddedSandbox) -> None:
    http = sandbox.http("paypal")
    for headers in ({}, {"Authorization": "Basic %%%"}, {"Authorization": "Basic Og=="}):
        with pytest.raises(NotAuthorized):
            await http.request("POST", "/v1/oauth2/token", form=[("grant_type", "client_credentials")], headers=headers)
    with pytest.raises(VendorRejected):
        await http.request("POST", "/v1/oauth2/token", form=[("grant_type", "password")], auth=("id", "secret"))
