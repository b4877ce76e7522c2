"""Orders, captures, refunds and events of the stand-in, and how they change."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from wedsync.kit.standin import FakeContext
from wedsync.vendors.paypal.sandbox_signing import webhook_headers

Json = dict[str, Any]

_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
#: https://developer.paypal.com/api/rest/reference/currency-codes/
CURRENCIES = frozenset(
    "AUD BRL CAD CNY CZK DKK EUR HKD HUF ILS JPY MYR MXN TWD NZD NOK PHP PLN GBP SGD SEK CHF THB USD".split(" ")  # noqa: SIM905
)
NO_DECIMALS = frozenset({"HUF", "JPY", "TWD"})
#: Vault tokens that the stand-in knows to end badly or late.
DECLINED_TOKEN = "declined"  # noqa: S105
PENDING_TOKEN = "pending"  # noqa: S105
PENDING_THEN_DENIED_TOKEN = "pending-denied"  # noqa: S105
PENDING_REFUND_TOKEN = "pending-refund"  # noqa: S105
PENDING_THEN_FAILED_REFUND_TOKEN = "pending-refund-failed"  # noqa: S105
UNKNOWN_TOKEN = "unknown"  # noqa: S105

_MESSAGES = {
    400: ("INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    401: (
        "AUTHENTICATION_FAILURE",
        "Authentication failed due to missing authorization header, or invalid authentication credentials.",
    ),
    404: ("RESOURCE_NOT_FOUND", "The specified resource does not exist."),
    422: (
        "UNPROCESSABLE_ENTITY",
        "The requested action could not be performed, semantically incorrect, or failed business validation.",
    ),
}
_ISSUES = {
    "INVALID_RESOURCE_ID": "Specified resource ID does not exist. Please check the resource ID and try again.",
    "INSTRUMENT_DECLINED": (
        "The instrument presented  was either declined by the processor or bank, or it can't be used for this payment."
    ),
    "TOKEN_ID_NOT_FOUND": "Specified token was not found. Verify the token and try the request again.",
    "ORDER_ALREADY_CAPTURED": "Order already captured.If 'intent=CAPTURE' only one capture per order is allowed.",
    "ORDER_NOT_APPROVED": (
        "Payer has not yet approved the Order for payment. Please redirect the payer to the 'rel':'approve' url "
        "returned as part of the HATEOAS links within the Create Order call or provide a valid payment_source in the "
        "request."
    ),
    "DUPLICATE_INVOICE_ID": (
        "Duplicate Invoice ID detected. To avoid a potential duplicate transaction your account setting requires that "
        "Invoice Id be unique for each transaction."
    ),
    "CAPTURE_FULLY_REFUNDED": "The capture has already been fully refunded",
    "REFUND_AMOUNT_EXCEEDED": (
        "The refund amount must be less than or equal to the capture amount that has not yet been refunded."
    ),
    "PENDING_CAPTURE": (
        "Cannot initiate a refund as the capture is pending. Capture is typically pending when the payer has funded "
        "the transaction using e-check/bank funded."
    ),
    "REFUND_NOT_ALLOWED": "Capture cannot be refunded.",
}


def error(status: int, issue: str = "", description: str = "", field: str | None = None) -> JSONResponse:
    """Build PayPal's error body (https://developer.paypal.com/api/rest/responses/)."""
    name, message = _MESSAGES[status]
    body: Json = {"name": name, "message": message, "debug_id": secrets.token_hex(6), "links": []}
    if issue:
        detail = {"issue": issue, "description": description or _ISSUES.get(issue, issue)}
        body["details"] = [{**detail, "field": field} if field else detail]
    return JSONResponse(body, status)


def new_id() -> str:
    """Make 17 characters as PayPal's ids have them."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(17))


def stamp(moment: datetime) -> str:
    """Write `2026-11-20T12:00:00Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Till:
    """Objects of one PayPal merchant."""

    def __init__(self, context: FakeContext) -> None:
        self.context = context
        #: Where the stand-in is reached, by the newest request; its certificates' addresses begin with it.
        self.base_url = ""
        #: Invoice number → the order that was paid under it.
        self._invoices: dict[str, str] = {}
        #: Refunds that the bank has not decided yet.
        self._slow_refunds: list[Json] = []

    def now(self) -> str:
        """Return the time by the sandbox's clock."""
        return stamp(self.context.now())

    def create(self, intent: str, units: list[Json]) -> Json:
        """Make a new order, not paid."""
        order_id = new_id()
        kept = [{"reference_id": "default", **unit} for unit in units]
        order: Json = {
            "kind": "order",
            "id": order_id,
            "intent": intent,
            "status": "CREATED",
            "purchase_units": kept,
            "create_time": self.now(),
            "links": [
                {"href": f"{self.base_url}/v2/checkout/orders/{order_id}", "rel": "self", "method": "GET"},
                {"href": f"https://www.paypal.com/checkoutnow?token={order_id}", "rel": "approve", "method": "GET"},
                {"href": f"{self.base_url}/v2/checkout/orders/{order_id}/capture", "rel": "capture", "method": "POST"},
            ],
        }
        self.context.objects[order_id] = order
        return order

    def find(self, kind: str, object_id: str) -> Json | None:
        """Return an object as it is now; decide a pending capture first when its time has come."""
        self._decide_refunds()
        found = self.context.objects.get(object_id)
        if found is None or found["kind"] != kind:
            return None
        for capture in captures(found) if kind == "order" else [found]:
            if capture["kind"] == "capture" and capture.get("due") is not None and self.context.now() >= capture["due"]:
                self._decide(capture)
        return found

    def capture(self, order: Json, token: str, source: Json, request: Request, key: str | None) -> JSONResponse:
        """Take the money, or decline, or begin a bank payment."""
        if captures(order):
            return error(422, "ORDER_ALREADY_CAPTURED")
        if token == UNKNOWN_TOKEN:
            return error(422, "TOKEN_ID_NOT_FOUND")
        if token == DECLINED_TOKEN:
            return error(422, "INSTRUMENT_DECLINED")
        (unit,) = order["purchase_units"]
        invoice = unit.get("invoice_id")
        if invoice is not None and self._invoices.setdefault(invoice, order["id"]) != order["id"]:
            return error(422, "DUPLICATE_INVOICE_ID")
        amount = unit["amount"]
        self.context.record(
            request,
            order["id"],
            "capture_order",
            idempotency_key=key,
            amount_minor=_minor(amount),
            currency=amount["currency_code"],
        )
        capture = self._take(order, unit, amount)
        capture["token"] = token
        order.update(status="COMPLETED", payment_source=source, update_time=self.now())
        if token in (PENDING_TOKEN, PENDING_THEN_DENIED_TOKEN):
            self._begin(capture, denied=token == PENDING_THEN_DENIED_TOKEN)
        else:
            self.announce("PAYMENT.CAPTURE.COMPLETED", capture)
        return JSONResponse(shown(order), 201)

    def refund(self, capture: Json, amount: Json | None) -> JSONResponse:
        """Give money back: all that is left, or `amount` of it."""
        if capture["status"] == "PENDING":
            return error(422, "PENDING_CAPTURE")
        if capture["status"] == "REFUNDED":
            return error(422, "CAPTURE_FULLY_REFUNDED")
        if capture["status"] not in ("COMPLETED", "PARTIALLY_REFUNDED"):
            return error(422, "REFUND_NOT_ALLOWED")
        left = Decimal(capture["amount"]["value"]) - Decimal(capture["refunded"])
        wanted = Decimal(amount["value"]) if amount else left
        if wanted > left or wanted <= 0:
            return error(422, "REFUND_AMOUNT_EXCEEDED")
        capture["refunded"] = str(Decimal(capture["refunded"]) + wanted)
        whole = wanted == left
        capture["status"] = "REFUNDED" if whole else "PARTIALLY_REFUNDED"
        is_slow = capture["token"] in (PENDING_REFUND_TOKEN, PENDING_THEN_FAILED_REFUND_TOKEN)
        if whole and not is_slow:
            self.context.undo(capture["order_id"])
        refund: Json = {
            "kind": "refund",
            "id": new_id(),
            "amount": {"currency_code": capture["amount"]["currency_code"], "value": str(wanted)},
            "status": "COMPLETED",
            "create_time": self.now(),
            "update_time": self.now(),
            "links": [],
        }
        self.context.objects[refund["id"]] = refund
        (unit,) = self.context.objects[capture["order_id"]]["purchase_units"]
        unit["payments"].setdefault("refunds", []).append(refund)
        if is_slow:
            due = self.context.now() + timedelta(seconds=self.context.webhook_delay_seconds)
            refund.update(status="PENDING", status_details={"reason": "ECHECK"}, due=due, capture=capture)
            self._slow_refunds.append(refund)
        else:
            self.announce("PAYMENT.CAPTURE.REFUNDED", refund)
        return JSONResponse(shown(refund), 201)

    def _decide_refunds(self) -> None:
        for refund in [one for one in self._slow_refunds if self.context.now() >= one["due"]]:
            self._slow_refunds.remove(refund)
            capture = refund.pop("capture")
            del refund["due"], refund["status_details"]
            if capture["token"] == PENDING_THEN_FAILED_REFUND_TOKEN:
                refund["status"] = "FAILED"
                capture.update(status="COMPLETED", refunded="0")
            else:
                refund["status"] = "COMPLETED"
                self.context.undo(capture["order_id"])
                self.announce("PAYMENT.CAPTURE.REFUNDED", refund)

    def _take(self, order: Json, unit: Json, amount: Json) -> Json:
        capture: Json = {
            "kind": "capture",
            "order_id": order["id"],
            "refunded": "0",
            "id": new_id(),
            "status": "COMPLETED",
            "amount": dict(amount),
            "final_capture": True,
            "create_time": self.now(),
            "update_time": self.now(),
            "links": [],
        }
        for name in ("custom_id", "invoice_id"):
            if name in unit:
                capture[name] = unit[name]
        unit["payments"] = {"captures": [capture]}
        self.context.objects[capture["id"]] = capture
        return capture

    def _begin(self, capture: Json, *, denied: bool) -> None:
        due = self.context.now() + timedelta(seconds=self.context.webhook_delay_seconds)
        capture.update(status="PENDING", status_details={"reason": "ECHECK"}, due=due, denied=denied)
        to_come = {**capture, "status": "DECLINED" if denied else "COMPLETED"}
        del to_come["status_details"]
        self.announce("PAYMENT.CAPTURE.DENIED" if denied else "PAYMENT.CAPTURE.COMPLETED", to_come)

    def _decide(self, capture: Json) -> None:
        denied = capture.pop("denied")
        del capture["due"]
        del capture["status_details"]
        capture["status"] = "DECLINED" if denied else "COMPLETED"
        if denied:
            self.context.undo(capture["order_id"])

    def announce(self, kind: str, about: Json) -> None:
        """Make an event and send it soon."""
        event = self.event(kind, about)
        body = encode(event)
        self.context.send(self.context.webhook_url, self.headers(body), body, self.context.webhook_delay_seconds)

    def event(self, kind: str, about: Json) -> Json:
        """Make an event with a snapshot of `about`."""
        resource = shown(about)
        if about["kind"] == "capture":
            resource["supplementary_data"] = {"related_ids": {"order_id": about["order_id"]}}
        event: Json = {
            "id": f"WH-{new_id()}-{new_id()}",
            "event_version": "1.0",
            "create_time": self.now(),
            "resource_type": about["kind"],
            "resource_version": "2.0",
            "event_type": kind,
            "summary": f"Event {kind} occurred",
            "resource": json.loads(json.dumps(resource)),
            "links": [],
        }
        self.context.objects[event["id"]] = {"kind": "event", "event": event}
        return event

    def events(self) -> list[Json]:
        """List every event that was made, the newest first."""
        return [one["event"] for one in reversed(list(self.context.objects.values())) if one["kind"] == "event"]

    def resend(self, kind: str, object_id: str) -> Json:
        """Return the newest event of `kind` about an order or capture, made now when there is none; raises KeyError."""
        about = self.context.objects[object_id]
        if about["kind"] == "order" and kind.startswith("PAYMENT."):
            taken = captures(about)
            if not taken:
                raise KeyError(object_id)
            about = taken[-1]
        for event in self.events():
            if event["event_type"] == kind and event["resource"]["id"] == about["id"]:
                return event
        if about["kind"] == "capture" and about.get("due") is not None:
            about["denied"] = kind == "PAYMENT.CAPTURE.DENIED"
            self._decide(about)
        return self.event(kind, about)

    def headers(self, body: bytes, *, bad: bool = False) -> dict[str, str]:
        """Build the headers of a webhook; `bad`: signed for another webhook id."""
        webhook_id = self.context.webhook_secret + ("-other" if bad else "")
        return webhook_headers(body, webhook_id, self.base_url)


def captures(order: Json) -> list[Json]:
    """List the captures of an order."""
    return [one for unit in order["purchase_units"] for one in unit.get("payments", {}).get("captures", ())]


def shown(value: Any) -> Any:
    """Return an object as PayPal shows it, without what only the stand-in knows."""
    if isinstance(value, list):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        hidden = ("kind", "order_id", "refunded", "due", "denied", "token", "capture")
        return {name: shown(one) for name, one in value.items() if name not in hidden}
    return value


def encode(event: Json) -> bytes:
    """Encode an event as bytes."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def _minor(amount: Json) -> int:
    """Return ISO 4217 minor units, as the ledger counts: two decimals for all of PayPal's currencies but the yen."""
    value = Decimal(amount["value"])
    return int(value if amount["currency_code"] == "JPY" else value * 100)
