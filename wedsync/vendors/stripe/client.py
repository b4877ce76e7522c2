"""Stripe's client: payments by payment intents, in two steps (https://docs.stripe.com/api/payment_intents)."""

from __future__ import annotations

from typing import Any

from wedsync.domain.errors import InvalidInput, NotAuthorized, OutcomeUnknown, VendorRejected
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.effects import identified, is_refund_open, not_in_this_account, refunded, still_processing
from wedsync.domain.vendors.read_inputs import fact_of, payment_of
from wedsync.kit.http import Form, VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.stripe.mapping import intent_form, payment_facts, read_error, refunds_of

API_VERSION = "2026-10-28.endive"
_VENDOR = "stripe"
#: Money was taken, or is being taken.
_TAKEN = ("succeeded", "processing", "requires_capture")


class Client:
    """Takes and gives back payments. Only Stripe's signed event completes the deposit, so a confirmed intent is
    `waiting` here whatever its status."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = read_error
        self._http = http
        self._has_key = bool(account.api_key.strip())
        self._headers = {
            "Authorization": f"Bearer {account.api_key}",
            "Stripe-Version": account.api_version or API_VERSION,
        }

    async def send(self, call: Call) -> Effect:
        """Carry out `create_intent`, `confirm_intent` or `release_payment`."""
        if not self._has_key:
            raise NotAuthorized("stripe: the account has no API key", vendor=_VENDOR, reason="no_api_key")
        if call.operation == "create_intent":
            return await self._create(call)
        if call.operation == "confirm_intent":
            return await self._confirm(call)
        if call.operation == "release_payment":
            return await self._release(call)
        raise InvalidInput(f"stripe has no operation {call.operation!r}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find nothing: every write is resolved by replaying its idempotency key, none by searching."""
        return None

    async def inspect(self, call: Call) -> Effect:
        """Read whether the money is there: `done` when taken, `absent` when never taken, cancelled or refunded."""
        payment_id = _payment_id(call)
        if payment_id is None:
            return Effect(state="absent", detail="no payment intent is known")
        return _seen(await self._get(payment_id, [("expand[]", "latest_charge")]))

    async def _create(self, call: Call) -> Effect:
        payment = payment_of(call)
        intent = await self._post(call, "/v1/payment_intents", intent_form(call, payment))
        return Effect(
            state="done",
            external_id=intent["id"],
            facts=payment_facts(payment, intent),
            detail=f"payment intent {intent['id']} created",
        )

    async def _confirm(self, call: Call) -> Effect:
        payment = payment_of(call)
        payment_id = _payment_id(call)
        if payment_id is None:
            raise InvalidInput("there is no payment intent to confirm", field="facts.payment_id")
        try:
            intent = await self._post(call, f"/v1/payment_intents/{payment_id}/confirm", [("off_session", "true")])
        except VendorRejected as error:
            if error.status == 404:
                raise not_in_this_account(_VENDOR, payment_id) from error
            # Confirmed before, and the idempotency key has since been pruned.
            if error.reason != "payment_intent_unexpected_state":
                raise
            intent = await self._get(payment_id)
            if intent["status"] not in _TAKEN:
                raise
        _refuse_unpaid(intent)
        return Effect(
            state="waiting",
            external_id=payment_id,
            facts=payment_facts(payment, intent),
            detail=f"payment intent {payment_id} confirmed",
        )

    async def _release(self, call: Call) -> Effect:
        payment_id = _payment_id(call)
        if payment_id is None:
            return Effect(state="absent", detail="no payment to give back")
        intent = await self._get(payment_id, [("expand[]", "latest_charge.refunds")])
        status = intent["status"]
        if status == "canceled":
            return Effect(state="absent", external_id=payment_id, detail="no payment to give back")
        if status == "processing":
            raise still_processing(_VENDOR, payment_id, "still_processing")
        if status == "succeeded":
            return await self._refund(call, intent)
        await self._post(call, f"/v1/payment_intents/{payment_id}/cancel", [("cancellation_reason", "abandoned")])
        return Effect(state="done", external_id=payment_id, detail=f"payment intent {payment_id} cancelled")

    async def _refund(self, call: Call, intent: dict[str, Any]) -> Effect:
        payment_id, made = intent["id"], refunds_of(intent)
        form = [("payment_intent", payment_id), ("metadata[reference]", call.reference)]
        try:
            refund = await self._post(call, "/v1/refunds", form)
        except VendorRejected as error:
            if error.reason != "charge_already_refunded":
                raise
            open_ones = [one for one in made if is_refund_open(one)]
            if not open_ones:
                return Effect(state="absent", external_id=payment_id, detail=f"{payment_id} was refunded before")
            refund = open_ones[0]
        # A replayed answer says what the refund was when it was made.
        latest = next((one for one in made if one["id"] == refund["id"]), refund)
        return refunded(_VENDOR, payment_id, payment_id, latest)

    async def _get(self, payment_id: str, params: Form | None = None) -> dict[str, Any]:
        """Return the intent. Raises NotAuthorized when this account has none by that id."""
        path = f"/v1/payment_intents/{payment_id}"
        try:
            answer = await self._http.request("GET", path, params=params, headers=self._headers)
        except VendorRejected as error:
            if error.status == 404:
                raise not_in_this_account(_VENDOR, payment_id) from error
            raise
        return identified(answer.json(), _VENDOR)

    async def _post(self, call: Call, path: str, form: Form) -> dict[str, Any]:
        headers = {**self._headers, "Idempotency-Key": call.idempotency_key}
        try:
            answer = await self._http.request("POST", path, form=form, headers=headers)
        except VendorRejected as error:
            # https://docs.stripe.com/error-low-level#idempotency: an earlier request with this key is still at work.
            if error.status == 409:
                raise OutcomeUnknown(error.detail, vendor=_VENDOR, reason=error.reason, status=409) from error
            raise
        return identified(answer.json(), _VENDOR)


def _payment_id(call: Call) -> str | None:
    return fact_of(call, "payment_id", "external_id")


def _refuse_unpaid(intent: dict[str, Any]) -> None:
    """Raise VendorRejected when the payer's bank or card refused, or wants the payer present."""
    status = intent["status"]
    if status in _TAKEN:
        return
    error = intent.get("last_payment_error") or {}
    reason = error.get("decline_code") or error.get("code")
    if not reason:
        reason = "authentication_required" if status == "requires_action" else status
    raise VendorRejected(f"stripe: {intent['id']} is {status} ({reason})", vendor=_VENDOR, reason=reason)


def _seen(intent: dict[str, Any]) -> Effect:
    status, payment_id = intent["status"], intent["id"]
    charge = intent.get("latest_charge")
    if isinstance(charge, dict) and charge.get("refunded") is True:
        return Effect(state="absent", external_id=payment_id, detail=f"{payment_id} was refunded")
    if status in ("canceled", "requires_confirmation"):
        return Effect(state="absent", external_id=payment_id, detail=f"{payment_id} is {status}")
    _refuse_unpaid(intent)
    state = "done" if status == "succeeded" else "waiting"
    return Effect(
        state=state, external_id=payment_id, facts={"payment_id": payment_id}, detail=f"{payment_id}: {status}"
    )
