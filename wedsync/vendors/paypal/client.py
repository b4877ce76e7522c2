"""PayPal's client: payments by orders, in two steps (https://developer.paypal.com/docs/api/orders/v2/).

An order created *with* a vaulted payment source is captured by that very call ("single-step create order" in the
reference of `PayPal-Request-Id`). So the order is made without one, takes no money, and the source comes with the
capture: "the buyer must first approve the order or a valid payment_source must be provided in the request"
(https://developer.paypal.com/docs/api/orders/v2/#orders_capture).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, NotAuthorized, OutcomeUnknown, VendorRejected
from wedsync.domain.vendors.action_inputs import Payment
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.effects import identified, not_in_this_account, refunded, still_processing
from wedsync.domain.vendors.read_inputs import fact_of, payment_of
from wedsync.kit.http import VendorHttp, VendorResponse
from wedsync.kit.vendor import Account
from wedsync.vendors.paypal.mapping import capture_of, order_body, payment_source, read_error, refund_of
from wedsync.vendors.paypal.tokens import Tokens

_VENDOR = "paypal"
#: The money is with us, in whole or in part.
_TAKEN = ("COMPLETED", "PARTIALLY_REFUNDED")
_LOST = ("DECLINED", "FAILED")
#: An earlier request with this key is still at work, or an earlier payment bears our invoice number: something of
#: ours is there that this answer does not show.
_UNCLEAR = frozenset({"PREVIOUS_REQUEST_IN_PROGRESS", "DUPLICATE_REQUEST_ID", "DUPLICATE_INVOICE_ID"})


class Client:
    """Takes and gives back payments."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = read_error
        self._http = http
        self._tokens = Tokens(http, account)

    async def send(self, call: Call) -> Effect:
        """Carry out `create_order`, `capture_order` or `release_payment`."""
        if call.operation == "create_order":
            return await self._create(call)
        if call.operation == "capture_order":
            return await self._capture(call)
        if call.operation == "release_payment":
            return await self._release(call)
        raise InvalidInput(f"paypal has no operation {call.operation!r}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find nothing: every write is resolved by replaying its request id, none by searching."""
        return None

    async def inspect(self, call: Call) -> Effect:
        """Read whether the money is there: `absent` when it was never captured or was given back whole."""
        order_id = _order_id(call)
        capture = await self._captured(call)
        if order_id is None or capture is None:
            return Effect(state="absent", external_id=order_id, detail="nothing was captured")
        if capture["status"] == "REFUNDED":
            return Effect(state="absent", external_id=order_id, detail=f"capture {capture['id']} was refunded")
        return _captured(order_id, capture, {})

    async def _create(self, call: Call) -> Effect:
        payment = payment_of(call)
        # Refused here rather than at the capture: a fallback is then still free.
        payment_source(payment.payer.instrument)
        order = await self._post(call, "/v2/checkout/orders", order_body(call, payment))
        order_id = order["id"]
        facts: dict[str, JsonValue] = {"order_id": order_id, **_amount(payment)}
        return Effect(state="done", external_id=order_id, facts=facts, detail=f"order {order_id} created")

    async def _capture(self, call: Call) -> Effect:
        payment = payment_of(call)
        order_id = _order_id(call)
        if order_id is None:
            raise InvalidInput("there is no order to capture", field="facts.order_id")
        body: dict[str, JsonValue] = {"payment_source": payment_source(payment.payer.instrument)}
        order: dict[str, Any] | None
        try:
            order = await self._post(call, f"/v2/checkout/orders/{order_id}/capture", body)
        except VendorRejected as error:
            if error.status == 404:
                raise not_in_this_account(_VENDOR, f"order {order_id}") from error
            # Captured before, and the request id has since been forgotten.
            if error.reason != "ORDER_ALREADY_CAPTURED":
                raise
            order = await self._order(order_id)
        capture = capture_of(order) if order is not None else None
        if capture is None:
            status = order.get("status") if order is not None else None
            if status == "PAYER_ACTION_REQUIRED":
                raise VendorRejected("paypal: the payer must approve the order", vendor=_VENDOR, reason=status)
            raise OutcomeUnknown(f"paypal: order {order_id} shows no capture", vendor=_VENDOR, reason="no_capture")
        return _captured(order_id, capture, _amount(payment))

    async def _release(self, call: Call) -> Effect:
        order_id = _order_id(call)
        capture = await self._captured(call)
        if capture is None or capture["status"] in _LOST:
            # An order cannot be cancelled; one that is not captured lapses by itself.
            return Effect(state="absent", external_id=order_id, detail="no payment to give back")
        capture_id = capture["id"]
        if capture["status"] == "PENDING":
            raise still_processing(_VENDOR, f"capture {capture_id}", "PENDING_CAPTURE")
        if capture["status"] == "REFUNDED":
            return await self._refunded_before(order_id, capture_id)
        try:
            refund = await self._post(call, f"/v2/payments/captures/{capture_id}/refund", {})
        except VendorRejected as error:
            if error.reason == "PENDING_CAPTURE":
                raise still_processing(_VENDOR, f"capture {capture_id}", "PENDING_CAPTURE") from error
            if error.reason == "CAPTURE_FULLY_REFUNDED":
                return await self._refunded_before(order_id, capture_id)
            raise
        if refund.get("status") == "PENDING":
            # A repeated request may be answered as the first one was.
            refund = await self._get(f"/v2/payments/refunds/{refund['id']}") or refund
        return refunded(_VENDOR, order_id, capture_id, refund)

    async def _refunded_before(self, order_id: str | None, capture_id: str) -> Effect:
        """Return `absent`, unless the order shows that the newest refund is not through."""
        order = await self._order(order_id) if order_id is not None else None
        refund = refund_of(order) if order is not None else None
        if refund is not None and refund.get("status") != "COMPLETED":
            return refunded(_VENDOR, order_id, capture_id, refund)
        return Effect(state="absent", external_id=order_id, detail=f"capture {capture_id} was refunded before")

    async def _captured(self, call: Call) -> dict[str, Any] | None:
        """Return the capture on record, else the order's; None when nothing was captured.

        Raises NotAuthorized when the account does not have the one on record.
        """
        capture_id, order_id = call.facts.get("payment_id"), _order_id(call)
        if isinstance(capture_id, str) and capture_id:
            capture = await self._get(f"/v2/payments/captures/{capture_id}")
            if capture is None:
                raise not_in_this_account(_VENDOR, f"capture {capture_id}")
            return capture
        order = await self._order(order_id) if order_id is not None else None
        return capture_of(order) if order is not None else None

    async def _order(self, order_id: str) -> dict[str, Any] | None:
        return await self._get(f"/v2/checkout/orders/{order_id}")

    async def _get(self, path: str) -> dict[str, Any] | None:
        """Return the object, or None when PayPal knows none by that id (an order that nobody paid lapses)."""
        try:
            answer = await self._request("GET", path)
        except VendorRejected as error:
            if error.status == 404:
                return None
            raise
        return identified(answer.json(), _VENDOR)

    async def _post(self, call: Call, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        try:
            answer = await self._request("POST", path, body, call.idempotency_key)
        except VendorRejected as error:
            if error.status == 409 or error.reason in _UNCLEAR:
                raise OutcomeUnknown(error.detail, vendor=_VENDOR, reason=error.reason, status=error.status) from error
            raise
        return identified(answer.json(), _VENDOR)

    async def _request(
        self, method: Literal["GET", "POST"], path: str, body: JsonValue = None, request_id: str = ""
    ) -> VendorResponse:
        """Send one request; send it once more with a new token when PayPal no longer takes the kept one, since a
        request that was not authorized did nothing."""
        headers = {"Accept": "application/json"}
        if request_id:
            headers.update({"PayPal-Request-Id": request_id, "Prefer": "return=representation"})
        token = await self._tokens.get()
        try:
            return await self._http.request(
                method, path, json_body=body, headers={**headers, "Authorization": f"Bearer {token}"}
            )
        except NotAuthorized:
            self._tokens.forget(token)
        token = await self._tokens.get()
        return await self._http.request(
            method, path, json_body=body, headers={**headers, "Authorization": f"Bearer {token}"}
        )


def _order_id(call: Call) -> str | None:
    return fact_of(call, "order_id", "external_id")


def _amount(payment: Payment) -> dict[str, JsonValue]:
    return {"amount": payment.amount, "amount_minor": payment.amount_minor, "currency": payment.currency}


def _captured(order_id: str, capture: dict[str, Any], facts: dict[str, JsonValue]) -> Effect:
    """Return the effect of a capture; raises VendorRejected when it was declined."""
    capture_id, status = capture["id"], capture["status"]
    if status in _LOST:
        reason = (capture.get("status_details") or {}).get("reason") or status
        raise VendorRejected(f"paypal: capture {capture_id} is {status}", vendor=_VENDOR, reason=reason)
    return Effect(
        state="done" if status in _TAKEN else "waiting",
        external_id=order_id,
        facts={"payment_id": capture_id, "order_id": order_id, **facts},
        detail=f"order {order_id}: capture {capture_id} is {status}",
    )
