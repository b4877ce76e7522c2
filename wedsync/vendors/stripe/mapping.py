"""Translates between our values and Stripe's: amounts, instruments, the form of a payment intent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.action_inputs import Payment
from wedsync.domain.vendors.call import Call

#: https://docs.stripe.com/api/payment_intents/create, `description`.
MAX_DESCRIPTION = 1000

# https://docs.stripe.com/currencies#special-cases and #zero-decimal, against ISO 4217's exponents.
#: No decimals by ISO 4217, two (always 00) at Stripe.
_TWO_DECIMALS_AT_STRIPE = frozenset({"ISK", "UGX"})
#: Two decimals by ISO 4217, none at Stripe.
_NO_DECIMALS_AT_STRIPE = frozenset({"MGA"})
#: Three decimals, of which Stripe wants the last to be 0.
_THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})


def to_stripe_amount(amount_minor: int, currency: str) -> int:
    """Return Stripe's integer for an amount in ISO 4217 minor units.

    Raises InvalidInput for an amount that Stripe cannot take: not above zero, or finer than Stripe's unit. Nothing is
    rounded.
    """
    if amount_minor <= 0:
        raise InvalidInput("the amount must be above zero", field="amount", reason="amount_not_positive")
    if currency in _TWO_DECIMALS_AT_STRIPE:
        return amount_minor * 100
    step = 100 if currency in _NO_DECIMALS_AT_STRIPE else 10 if currency in _THREE_DECIMALS else 1
    if amount_minor % step:
        raise InvalidInput(f"Stripe takes no such fine amount of {currency}", field="amount", reason="amount_too_fine")
    return amount_minor // 100 if currency in _NO_DECIMALS_AT_STRIPE else amount_minor


def from_stripe_amount(amount: int, currency: str) -> int:
    """Return ISO 4217 minor units for Stripe's integer; the currency in either case."""
    code = currency.upper()
    if code in _TWO_DECIMALS_AT_STRIPE:
        return amount // 100
    return amount * 100 if code in _NO_DECIMALS_AT_STRIPE else amount


def split_instrument(instrument: str | None) -> tuple[str, str]:
    """Return `(customer, payment method)` of an instrument: `pm_...`, or `cus_...:pm_...` for a customer's saved one.

    The customer is empty when none is given. Raises InvalidInput when there is no payment method.
    """
    customer, _, method = (instrument or "").rpartition(":")
    if not method:
        raise InvalidInput(
            "the payer has no instrument for stripe", field="payer.instrument", reason="instrument_missing"
        )
    return customer, method


def intent_form(call: Call, payment: Payment) -> list[tuple[str, str]]:
    """Build the form of `POST /v1/payment_intents`: unconfirmed, redirects ruled out, ours by its metadata."""
    customer, method = split_instrument(payment.payer.instrument)
    form = [
        ("amount", str(to_stripe_amount(payment.amount_minor, payment.currency))),
        ("currency", payment.currency.lower()),
        ("payment_method", method),
        ("automatic_payment_methods[enabled]", "true"),
        ("automatic_payment_methods[allow_redirects]", "never"),
    ]
    if customer:
        form.append(("customer", customer))
    if payment.description:
        form.append(("description", payment.description[:MAX_DESCRIPTION]))
    marks = {
        "wedding_id": call.wedding_id,
        "step_id": call.step_id,
        "transaction_id": call.transaction_id,
        "reference": call.reference,
    }
    return form + [(f"metadata[{name}]", value) for name, value in marks.items()]


def payment_facts(payment: Payment, intent: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return what later steps and the undo need of an intent; never its client secret."""
    facts: dict[str, JsonValue] = {
        "payment_id": intent["id"],
        "amount": payment.amount,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
    }
    charge = intent.get("latest_charge")
    if isinstance(charge, str):
        facts["charge_id"] = charge
    return facts


def refunds_of(intent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the refunds of an intent that was read with them, the newest first."""
    charge = intent.get("latest_charge")
    refunds = charge.get("refunds") if isinstance(charge, dict) else None
    return list(refunds["data"]) if isinstance(refunds, dict) else []


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of Stripe's error: the decline code before the code before the type; no message, which may
    quote what was sent."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return f"http_{status}", f"answered {status}"
    words = [error.get(name) for name in ("decline_code", "code", "type")]
    code = next((word for word in words if isinstance(word, str) and word), f"http_{status}")
    param = error.get("param")
    where = f" ({param})" if isinstance(param, str) and param else ""
    return code, f"answered {status} {code}{where}"
