"""A stand-in for Stripe: payment intents, refunds and events, by the published API (2026-10-28.endive)."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn
from wedsync.vendors.stripe.sandbox_state import Json, Till, encode, error, invalid, missing, new_id

#: https://docs.stripe.com/api/idempotent_requests
KEY_LIFE = timedelta(hours=24)

_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")
_THREE_DECIMALS = frozenset({"bhd", "iqd", "jod", "kwd", "lyd", "omr", "tnd"})
_CREATE = frozenset(
    {
        "amount",
        "amount_details",
        "application_fee_amount",
        "automatic_payment_methods",
        "capture_method",
        "confirm",
        "confirmation_method",
        "confirmation_token",
        "currency",
        "customer",
        "description",
        "error_on_requires_action",
        "expand",
        "mandate",
        "mandate_data",
        "metadata",
        "off_session",
        "on_behalf_of",
        "payment_method",
        "payment_method_configuration",
        "payment_method_data",
        "payment_method_options",
        "receipt_email",
        "return_url",
        "setup_future_usage",
        "shipping",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_data",
        "transfer_group",
        "use_stripe_sdk",
    }
)
_CONFIRM = frozenset(
    {
        "capture_method",
        "error_on_requires_action",
        "expand",
        "mandate",
        "mandate_data",
        "off_session",
        "payment_method",
        "return_url",
        "receipt_email",
        "setup_future_usage",
        "shipping",
        "use_stripe_sdk",
        "payment_method_options",
        "payment_method_data",
    }
)
_CANCEL = frozenset({"cancellation_reason", "expand"})
_REFUND = frozenset({"amount", "charge", "currency", "expand", "metadata", "payment_intent", "reason"})
_CANCEL_REASONS = frozenset({"abandoned", "duplicate", "fraudulent", "requested_by_customer"})

Answer = Callable[[Json], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def build(context: FakeContext) -> StandIn:
    """Build the stand-in; its events are signed with the desk's webhook secret."""
    counter = _Counter(Till(context))
    routes = [
        Route("/v1/payment_intents", counter.create, methods=["POST"], name="create_intent"),
        Route("/v1/payment_intents/{intent}", counter.get_intent, methods=["GET"], name="get_intent"),
        Route("/v1/payment_intents/{intent}/confirm", counter.confirm, methods=["POST"], name="confirm_intent"),
        # Both undo, by the manifest's one name: which of them it is depends on whether money was taken.
        Route("/v1/payment_intents/{intent}/cancel", counter.cancel, methods=["POST"], name="release_payment"),
        Route("/v1/refunds", counter.refund, methods=["POST"], name="release_payment"),
        Route("/v1/refunds/{refund}", counter.get_refund, methods=["GET"], name="get_refund"),
        Route("/v1/events", counter.list_events, methods=["GET"], name="list_events"),
        Route("/v1/events/{event}", counter.get_event, methods=["GET"], name="get_event"),
        Route("/v1/balance", counter.balance, methods=["GET"], name="health"),
    ]
    return StandIn(routes=routes, refuse=counter.refuse, emit=counter.emit)


class _Counter:
    """HTTP side of the stand-in: credentials, versions, forms, idempotency."""

    def __init__(self, till: Till) -> None:
        self._till = till

    async def create(self, request: Request) -> Response:
        return await self._write(request, _CREATE, self._create)

    async def confirm(self, request: Request) -> Response:
        return await self._write(request, _CONFIRM, lambda form: self._confirm(request, form))

    async def cancel(self, request: Request) -> Response:
        return await self._write(request, _CANCEL, lambda form: self._cancel(request, form))

    async def refund(self, request: Request) -> Response:
        return await self._write(request, _REFUND, self._refund)

    def _create(self, form: Json) -> Response:
        fault = _amount_fault(form.get("amount"), form.get("currency"))
        if fault is not None:
            return fault
        method = form.get("payment_method")
        if method is not None and not method.startswith("pm_"):
            message = f"No such PaymentMethod: '{method}'"
            return invalid(message, code="resource_missing", param="payment_method")
        if len(form.get("description", "")) > 1000:
            return invalid("Invalid string: must be at most 1000 characters", param="description")
        return JSONResponse(self._till.create(form, _metadata(form)))

    def _confirm(self, request: Request, form: Json) -> Response:
        intent = self._till.intent(request.path_params["intent"])
        if intent is None:
            return missing("payment_intent", request.path_params["intent"], "intent")
        if intent["status"] in ("requires_confirmation", "requires_payment_method") and "payment_method" in form:
            intent["payment_method"] = form["payment_method"]
        return self._till.confirm(intent, request, request.headers.get("idempotency-key"))

    def _cancel(self, request: Request, form: Json) -> Response:
        intent = self._till.intent(request.path_params["intent"])
        if intent is None:
            return missing("payment_intent", request.path_params["intent"], "intent")
        reason = form.get("cancellation_reason")
        if reason is not None and reason not in _CANCEL_REASONS:
            return invalid("Invalid cancellation_reason", param="cancellation_reason")
        return self._till.cancel(intent, reason)

    def _refund(self, form: Json) -> Response:
        intent_id = form.get("payment_intent")
        if not intent_id:
            charge = self._till.context.objects.get(form.get("charge", ""))
            if charge is None or charge["object"] != "charge":
                return missing("charge", form.get("charge", ""), "charge")
            intent_id = charge["payment_intent"]
        intent = self._till.intent(intent_id)
        if intent is None:
            return missing("payment_intent", intent_id, "payment_intent")
        if not str(form.get("amount", "1")).isdigit():
            return invalid("Invalid integer: amount", code="parameter_invalid_integer", param="amount")
        return self._till.refund(intent, form, _metadata(form))

    async def get_intent(self, request: Request) -> Response:
        intent = self._till.intent(request.path_params["intent"])
        if intent is None:
            return self._read(request, missing("payment_intent", request.path_params["intent"], "intent"))
        shown = dict(intent)
        expanded = request.query_params.getlist("expand[]")
        if shown["latest_charge"] and {"latest_charge", "latest_charge.refunds"} & set(expanded):
            charge = self._till.context.objects[shown["latest_charge"]]
            refunds = self._till.refunds(charge)
            shown["latest_charge"] = dict(charge)
            if "latest_charge.refunds" in expanded:
                url = f"/v1/charges/{charge['id']}/refunds"
                shown["latest_charge"]["refunds"] = {
                    "object": "list",
                    "data": refunds,
                    "has_more": False,
                    "url": url,
                }
        return self._read(request, JSONResponse(shown))

    async def get_refund(self, request: Request) -> Response:
        return self._find(request, "refund")

    async def get_event(self, request: Request) -> Response:
        return self._find(request, "event")

    def _find(self, request: Request, kind: str) -> Response:
        found = self._till.context.objects.get(request.path_params[kind])
        if found is None or found["object"] != kind:
            return self._read(request, missing(kind, request.path_params[kind], "id"))
        return self._read(request, JSONResponse(found))

    async def list_events(self, request: Request) -> Response:
        """List events, newest first, by `type`, `created[gte]`, `created[lt]`, `starting_after` and `limit`."""
        query = request.query_params
        since, until = int(query.get("created[gte]", "0")), int(query.get("created[lt]", str(10**12)))
        limit = min(int(query.get("limit", "10")), 100)
        events = [
            one
            for one in reversed(list(self._till.context.objects.values()))
            if one["object"] == "event" and since <= one["created"] < until and query.get("type") in (None, one["type"])
        ]
        ids = [one["id"] for one in events]
        if query.get("starting_after") in ids:
            events = events[ids.index(query["starting_after"]) + 1 :]
        body = {"object": "list", "data": events[:limit], "has_more": len(events) > limit, "url": "/v1/events"}
        return self._read(request, JSONResponse(body))

    async def balance(self, request: Request) -> Response:
        body = {"object": "balance", "available": [], "pending": [], "livemode": False}
        return self._read(request, JSONResponse(body))

    def _read(self, request: Request, response: Response) -> Response:
        return _greet(request, _stranger(request) or response)

    async def _write(self, request: Request, known: frozenset[str], answer: Answer) -> Response:
        body = await request.body()
        fault = _stranger(request)
        if fault is not None:
            return _greet(request, fault)
        form = read_form(body)
        unknown = sorted(set(form) - known)
        if unknown:
            message = f"Received unknown parameter: {unknown[0]}"
            return _greet(request, invalid(message, code="parameter_unknown", param=unknown[0]))
        # A key belongs to one endpoint and one set of parameters.
        fingerprint = f"{request.method} {request.url.path}\n".encode() + body
        key = request.headers.get("idempotency-key")

        async def once() -> Response:
            return answer(form)

        return _greet(request, await self._till.context.idempotent(key, fingerprint, KEY_LIFE, once, _other_parameters))

    def refuse(self, operation: str, request: Request) -> Response | None:
        """Refuse a card that is declined on confirmation; Stripe refuses nothing else of ours that is well-formed."""
        if operation != "confirm_intent" or _stranger(request) is not None:
            return None
        intent = self._till.intent(request.path_params["intent"])
        if intent is None or intent["status"] not in ("requires_confirmation", "requires_payment_method"):
            return None
        return _greet(request, self._till.decline(intent, "card_declined", "generic_decline"))

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Return the signed event of type `event` about an object; an event made before is returned as it was."""
        if object_id is None:
            raise KeyError("object_id")
        body = encode(self._till.resend(event, object_id))
        return self._till.context.webhook_url, self._till.headers(body, bad=bad_signature), body


def read_form(body: bytes) -> Json:
    """Read a bracketed form: `metadata[a]=b` → {"metadata": {"a": "b"}}; one level, as deep as is needed here."""
    form: Json = {}
    for name, value in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
        outer, _, inner = name.partition("[")
        if not inner:
            form[outer] = value
        elif isinstance(form.setdefault(outer, {}), dict):
            form[outer][inner.rstrip("]")] = value
    return form


def _metadata(form: Json) -> dict[str, str]:
    metadata = form.get("metadata") or {}
    return {str(name)[:40]: str(value)[:500] for name, value in metadata.items()} if isinstance(metadata, dict) else {}


def _stranger(request: Request) -> Response | None:
    """Refuse a request without a key, or with a version that never was."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return error(401, "invalid_request_error", "You did not provide an API key.")
    version = request.headers.get("stripe-version")
    if version is not None and not _VERSION.fullmatch(version):
        return invalid(f"Invalid Stripe API version: {version}")
    return None


def as_of(version: str, intent: Json) -> Json:
    """Return a payment intent as a version shows it.

    Before 2022-11-15 it had `charges` and no `latest_charge` (https://docs.stripe.com/upgrades#2022-11-15).
    A `.preview` version stands for changes to come that break clients: here money that was taken is `paid`.
    """
    if version.endswith(".preview"):
        return {**intent, "status": "paid" if intent["status"] == "succeeded" else intent["status"]}
    if version[:10] >= "2022-11-15":
        return intent
    charge = intent.get("latest_charge")
    charges = {"object": "list", "data": [charge] if charge else [], "has_more": False}
    return {**{name: value for name, value in intent.items() if name != "latest_charge"}, "charges": charges}


def _translated(request: Request, response: Response) -> Response:
    version = request.headers.get("stripe-version", "")
    if response.status_code != 200 or not (version.endswith(".preview") or "" < version[:10] < "2022-11-15"):
        return response
    body = json.loads(bytes(response.body))
    return JSONResponse(as_of(version, body)) if body.get("object") == "payment_intent" else response


def _greet(request: Request, response: Response) -> Response:
    response = _translated(request, response)
    response.headers["Request-Id"] = new_id("req")
    for name in ("stripe-version", "idempotency-key"):
        if name in request.headers:
            response.headers[name] = request.headers[name]
    return response


def _other_parameters() -> Response:
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        "Try using a key other than the one given if you meant to execute a different request."
    )
    return error(400, "idempotency_error", message)


def _amount_fault(amount: Any, currency: Any) -> Response | None:
    if amount is None or currency is None:
        name = "amount" if amount is None else "currency"
        return invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    if not str(amount).isdigit():
        return invalid(f"Invalid integer: {amount}", code="parameter_invalid_integer", param="amount")
    code = str(currency).lower()
    if not re.fullmatch(r"[a-z]{3}", code):
        return invalid(f"Invalid currency: {currency}", param="currency")
    step = 10 if code in _THREE_DECIMALS else 100 if code in ("isk", "ugx") else 1
    if int(amount) < 1 or int(amount) % step:
        return invalid("Invalid amount for this currency", code="amount_too_small", param="amount")
    if int(amount) > 99_999_999_999:
        return invalid("Amount must be no more than 999,999.99", code="amount_too_large", param="amount")
    return None
