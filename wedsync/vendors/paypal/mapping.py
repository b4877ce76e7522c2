"""Translates between our values and PayPal's: amounts, payment sources, orders, captures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.money import to_decimal
from wedsync.domain.vendors.action_inputs import Payment
from wedsync.domain.vendors.call import Call

#: https://developer.paypal.com/docs/api/orders/v2/#orders_create, `purchase_units[].description`, `custom_id`.
MAX_TEXT = 127

#: Two decimals by ISO 4217, none at PayPal: https://developer.paypal.com/api/rest/reference/currency-codes/
_NO_DECIMALS_AT_PAYPAL = frozenset({"HUF", "TWD"})
_MARK = ":"


def money(amount_minor: int, currency: str) -> dict[str, JsonValue]:
    """Write PayPal's amount: decimal text with as many decimals as PayPal takes.

    Raises InvalidInput for an amount that is not above zero, is finer than PayPal's unit, or of no known currency.
    """
    if amount_minor <= 0:
        raise InvalidInput("the amount must be above zero", field="amount", reason="amount_not_positive")
    if currency in _NO_DECIMALS_AT_PAYPAL:
        if amount_minor % 100:
            raise InvalidInput(f"PayPal takes no decimals of {currency}", field="amount", reason="amount_too_fine")
        return {"currency_code": currency, "value": str(amount_minor // 100)}
    return {"currency_code": currency, "value": to_decimal(amount_minor, currency)}


def payment_source(instrument: str | None) -> dict[str, JsonValue]:
    """Return the source for a payer's instrument: a vaulted PayPal wallet (`TOKEN` or `paypal:TOKEN`), a vaulted card
    (`card:TOKEN`) or a billing agreement (`agreement:ID`).

    A card is charged by us without the payer, so the capture says so (`stored_credential`). Raises InvalidInput.
    """
    kind, _, token = (instrument or "").rpartition(":")
    if not token:
        raise InvalidInput(
            "the payer has no instrument for paypal", field="payer.instrument", reason="instrument_missing"
        )
    if kind in ("", "paypal"):
        return {"paypal": {"vault_id": token}}
    if kind == "card":
        credential: JsonValue = {"payment_initiator": "MERCHANT", "payment_type": "UNSCHEDULED", "usage": "SUBSEQUENT"}
        return {"card": {"vault_id": token, "stored_credential": credential}}
    if kind == "agreement":
        return {"token": {"id": token, "type": "BILLING_AGREEMENT"}}
    raise InvalidInput(
        f"paypal knows no instrument of kind {kind!r}", field="payer.instrument", reason="bad_instrument"
    )


def order_body(call: Call, payment: Payment) -> dict[str, JsonValue]:
    """Build the body of `POST /v2/checkout/orders`: it has no payment source, so it takes no money.

    `invoice_id` is our reference: PayPal refuses a second payment under it, which outlives the idempotency key.
    """
    unit: dict[str, JsonValue] = {
        "amount": money(payment.amount_minor, payment.currency),
        "custom_id": mark(call),
        "invoice_id": call.reference,
    }
    if payment.description:
        unit["description"] = payment.description[:MAX_TEXT]
    return {"intent": "CAPTURE", "purchase_units": [unit]}


def mark(call: Call) -> str:
    """Write what webhooks bring back to us: `{wedding}:{step}`, or the reference where that is too long."""
    text = f"{call.wedding_id}{_MARK}{call.step_id}"
    return text if len(text) <= MAX_TEXT else call.reference


def read_mark(custom_id: Any) -> tuple[str | None, str | None]:
    """Read `(wedding, step)` of a mark; None twice for anything else."""
    if not isinstance(custom_id, str):
        return None, None
    wedding_id, found, step_id = custom_id.partition(_MARK)
    return (wedding_id, step_id) if found and wedding_id and step_id else (None, None)


def capture_of(order: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the newest capture in an order; None when nothing was captured."""
    return _newest(order, "captures")


def refund_of(order: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the newest refund in an order; None when nothing was refunded."""
    return _newest(order, "refunds")


def _newest(order: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = [
        one for unit in order.get("purchase_units") or () for one in (unit.get("payments") or {}).get(kind) or ()
    ]
    return found[-1] if found else None


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of PayPal's error: the issue before the name; no description, which may quote us."""
    if not isinstance(body, dict):
        return f"http_{status}", f"answered {status}"
    details = body.get("details")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    words = (first.get("issue"), body.get("name"), body.get("error"))
    code = next((word for word in words if isinstance(word, str) and word), f"http_{status}")
    field = first.get("field")
    where = f" ({field})" if isinstance(field, str) and field else ""
    return code, f"answered {status} {code}{where}"
