"""Payment intents, refunds and events of the stand-in, and how they change."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from wedsync.kit.clock import utc_now
from wedsync.kit.standin import FakeContext

Json = dict[str, Any]

#: Stripe's test payment methods that are declined (https://docs.stripe.com/testing#declined-payments).
DECLINES = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", None),
    "pm_card_authenticationRequired": ("authentication_required", "authentication_required"),
}
#: Bank debits: `processing` first, the bank's answer comes later (https://docs.stripe.com/testing#ach-direct-debit).
SLOW_METHODS = "pm_usBankAccount"
SLOW_FAILURE = "pm_usBankAccount_debitNotAuthorized"

#: Refunds that are `pending` first (https://docs.stripe.com/testing#refunds); the second one fails, which Stripe has no
#: test method for.
PENDING_REFUND = "pm_card_pendingRefund"
PENDING_THEN_FAILED_REFUND = "pm_card_pendingRefund_fails"

_CHARGED_TWICE = "The PaymentIntent could not be confirmed in its present status."


def new_id(prefix: str) -> str:
    """Make `pi_` and 24 characters."""
    return f"{prefix}_{secrets.token_hex(12)}"


def error(status: int, kind: str, message: str, **more: Any) -> JSONResponse:
    """Build Stripe's error body (https://docs.stripe.com/api/errors)."""
    return JSONResponse({"error": {"type": kind, "message": message, **more}}, status)


def invalid(message: str, **more: Any) -> JSONResponse:
    """Answer 400 `invalid_request_error`."""
    return error(400, "invalid_request_error", message, **more)


def missing(what: str, object_id: str, param: str) -> JSONResponse:
    """Answer 404 `resource_missing`."""
    message = f"No such {what}: '{object_id}'"
    return error(404, "invalid_request_error", message, code="resource_missing", param=param)


def sign(body: bytes, secret: str, stamp: int) -> str:
    """Write the header `Stripe-Signature` (https://docs.stripe.com/webhooks#verify-manually)."""
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


class Till:
    """Objects of one Stripe account."""

    def __init__(self, context: FakeContext) -> None:
        self.context = context

    def now(self) -> int:
        """Return unix time by the sandbox's clock."""
        return int(self.context.now().timestamp())

    def create(self, form: Mapping[str, Any], metadata: dict[str, str]) -> Json:
        """Make a new intent, unconfirmed."""
        intent_id = new_id("pi")
        method = form.get("payment_method")
        automatic = form.get("automatic_payment_methods") or {}
        intent: Json = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": int(form["amount"]),
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": 0,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": {
                "enabled": automatic.get("enabled", "true") == "true",
                "allow_redirects": automatic.get("allow_redirects", "always"),
            },
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": form.get("capture_method", "automatic_async"),
            "client_secret": f"{intent_id}_secret_{secrets.token_hex(12)}",
            "confirmation_method": "automatic",
            "created": self.now(),
            "currency": form["currency"].lower(),
            "customer": form.get("customer"),
            "description": form.get("description"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": metadata,
            "next_action": None,
            "on_behalf_of": None,
            "payment_method": method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "processing": None,
            "receipt_email": None,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": "requires_confirmation" if method else "requires_payment_method",
            "transfer_data": None,
            "transfer_group": None,
        }
        self.context.objects[intent_id] = intent
        return intent

    def intent(self, intent_id: str) -> Json | None:
        """Return an intent as it is now; settle a bank debit first when its time has come."""
        intent = self.context.objects.get(intent_id)
        if intent is None or intent["object"] != "payment_intent":
            return None
        due = self.context.objects.get(f"due:{intent_id}")
        if due is not None and self.context.now() >= due["at"]:
            del self.context.objects[f"due:{intent_id}"]
            self._settle(intent, due["fails"])
        return intent

    def confirm(self, intent: Json, request: Request, key: str | None) -> JSONResponse:
        """Take the money, or decline, or begin a bank debit."""
        if intent["status"] not in ("requires_confirmation", "requires_payment_method"):
            return invalid(_CHARGED_TWICE, code="payment_intent_unexpected_state", payment_intent=intent)
        method = intent["payment_method"]
        if method is None:
            return invalid(
                "You cannot confirm this PaymentIntent: it's missing a payment method.", payment_intent=intent
            )
        if method in DECLINES:
            return self.decline(intent, *DECLINES[method])
        self.context.record(
            request,
            intent["id"],
            "confirm_intent",
            idempotency_key=key,
            amount_minor=_iso_minor(intent["amount"], intent["currency"]),
            currency=intent["currency"].upper(),
        )
        intent["latest_charge"] = self._charge(intent)["id"]
        if method.startswith(SLOW_METHODS):
            self._begin_debit(intent, fails=method == SLOW_FAILURE)
        else:
            self._settle(intent, fails=False)
            self.announce("payment_intent.succeeded", intent)
        return JSONResponse(intent)

    def decline(self, intent: Json, code: str, decline_code: str | None) -> JSONResponse:
        """Answer 402; the intent then wants another payment method."""
        details: Json = {
            "code": code,
            "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
            "message": "Your card was declined.",
            "type": "card_error",
        }
        if decline_code:
            details["decline_code"] = decline_code
        intent.update(status="requires_payment_method", last_payment_error=details, payment_method=None)
        self.announce("payment_intent.payment_failed", intent)
        return JSONResponse({"error": {**details, "payment_intent": intent}}, 402)

    def cancel(self, intent: Json, reason: str | None) -> JSONResponse:
        """Cancel an intent that took no money."""
        if intent["status"] in ("succeeded", "canceled", "processing"):
            message = f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
            return invalid(message, code="payment_intent_unexpected_state", payment_intent=intent)
        intent.update(status="canceled", canceled_at=self.now(), cancellation_reason=reason)
        self.announce("payment_intent.canceled", intent)
        return JSONResponse(intent)

    def refund(self, intent: Json, form: Mapping[str, Any], metadata: dict[str, str]) -> JSONResponse:
        """Give money back: all that is left, or `amount` of it."""
        charge = self.context.objects.get(intent["latest_charge"] or "")
        if charge is None or intent["status"] != "succeeded":
            message = f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
            return invalid(message, code="payment_intent_unexpected_state", param="payment_intent")
        left = charge["amount"] - charge["amount_refunded"]
        if left == 0:
            return invalid(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
        amount = int(form.get("amount", left))
        if amount > left or amount <= 0:
            return invalid(
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount"
            )
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        is_slow = intent["payment_method"] in (PENDING_REFUND, PENDING_THEN_FAILED_REFUND)
        if charge["refunded"] and not is_slow:
            self.context.undo(intent["id"])
        refund: Json = {
            "id": new_id("re"),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": charge["id"],
            "created": self.now(),
            "currency": intent["currency"],
            "metadata": metadata,
            "payment_intent": intent["id"],
            "reason": form.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "pending" if is_slow else "succeeded",
            "transfer_reversal": None,
        }
        self.context.objects[refund["id"]] = refund
        if is_slow:
            at = self.context.now() + timedelta(seconds=self.context.webhook_delay_seconds)
            fails = intent["payment_method"] == PENDING_THEN_FAILED_REFUND
            self.context.objects[f"due:{refund['id']}"] = {"object": "due", "at": at, "fails": fails}
        self.announce("charge.refunded", charge)
        return JSONResponse(refund)

    def refunds(self, charge: Json) -> list[Json]:
        """List a charge's refunds as they are now, the newest first; settle those first whose time has come."""
        made = [r for r in self.context.objects.values() if r["object"] == "refund" and r["charge"] == charge["id"]]
        for refund in made:
            due = self.context.objects.get(f"due:{refund['id']}")
            if due is not None and self.context.now() >= due["at"]:
                del self.context.objects[f"due:{refund['id']}"]
                self._settle_refund(refund, charge, due["fails"])
        return made[::-1]

    def _settle_refund(self, refund: Json, charge: Json, fails: bool) -> None:
        refund["status"] = "failed" if fails else "succeeded"
        if fails:
            refund["failure_reason"] = "expired_or_canceled_card"
            charge.update(amount_refunded=charge["amount_refunded"] - refund["amount"], refunded=False)
        elif charge["refunded"]:
            self.context.undo(charge["payment_intent"])
        self.announce("refund.failed" if fails else "refund.updated", refund)

    def _charge(self, intent: Json) -> Json:
        charge: Json = {
            "id": new_id("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_refunded": 0,
            "captured": True,
            "created": self.now(),
            "currency": intent["currency"],
            "livemode": False,
            "metadata": dict(intent["metadata"]),
            "paid": True,
            "payment_intent": intent["id"],
            "refunded": False,
            "status": "succeeded",
        }
        self.context.objects[charge["id"]] = charge
        return charge

    def _begin_debit(self, intent: Json, *, fails: bool) -> None:
        delay = self.context.webhook_delay_seconds
        intent.update(status="processing", processing={"type": "card"}, last_payment_error=None)
        due = {"object": "due", "at": self.context.now() + timedelta(seconds=delay), "fails": fails}
        self.context.objects[f"due:{intent['id']}"] = due
        to_come = dict(intent)
        self._change(to_come, fails)
        self.announce("payment_intent.payment_failed" if fails else "payment_intent.succeeded", to_come)

    def _settle(self, intent: Json, fails: bool) -> None:
        self._change(intent, fails)
        if fails:
            self.context.undo(intent["id"])

    def _change(self, intent: Json, fails: bool) -> None:
        intent["processing"] = None
        if fails:
            details = {"code": "debit_not_authorized", "type": "invalid_request_error", "message": "Not authorized."}
            intent.update(status="requires_payment_method", last_payment_error=details, payment_method=None)
        else:
            intent.update(status="succeeded", amount_received=intent["amount"], last_payment_error=None)

    def announce(self, kind: str, about: Json) -> None:
        """Make an event and send it soon."""
        event = self.event(kind, about)
        body = encode(event)
        self.context.send(self.context.webhook_url, self.headers(body), body, self.context.webhook_delay_seconds)

    def event(self, kind: str, about: Json) -> Json:
        """Make an event with a snapshot of `about`."""
        event: Json = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": self.now(),
            "data": {"object": json.loads(json.dumps(about))},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.context.objects[event["id"]] = event
        return event

    def resend(self, kind: str, object_id: str) -> Json:
        """Return the newest event of `kind` about `object_id`, made now if there is none; raises KeyError."""
        event: Json
        for event in reversed(list(self.context.objects.values())):
            if event["object"] == "event" and event["type"] == kind and event["data"]["object"]["id"] == object_id:
                return event
        about = self.intent(object_id) or self.context.objects[object_id]
        if kind in ("payment_intent.succeeded", "payment_intent.payment_failed") and about["status"] == "processing":
            self.context.objects.pop(f"due:{object_id}", None)
            self._settle(about, fails=kind == "payment_intent.payment_failed")
        return self.event(kind, about)

    def headers(self, body: bytes, *, bad: bool = False) -> dict[str, str]:
        """Build a webhook's headers; `bad`: signed with another secret. Signed by the wall clock, as the receiver's."""
        secret = self.context.webhook_secret + ("-other" if bad else "")
        signature = sign(body, secret, int(utc_now().timestamp()))
        return {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}


def encode(event: Json) -> bytes:
    """Encode an event as Stripe sends it: indented."""
    return json.dumps(event, indent=2, ensure_ascii=False).encode()


def _iso_minor(amount: int, currency: str) -> int:
    """Return ISO 4217 minor units, in which the ledger counts."""
    if currency in ("isk", "ugx"):
        return amount // 100
    return amount * 100 if currency == "mga" else amount
