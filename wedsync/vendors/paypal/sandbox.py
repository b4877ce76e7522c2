"""A stand-in for PayPal: tokens, orders, captures, refunds and webhooks, by the published API (v2)."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn
from wedsync.vendors.paypal.sandbox_signing import CERTIFICATES_PATH, signer
from wedsync.vendors.paypal.sandbox_state import (
    CURRENCIES,
    DECLINED_TOKEN,
    NO_DECIMALS,
    Json,
    Till,
    captures,
    encode,
    error,
    shown,
)

#: https://developer.paypal.com/docs/api/orders/v2/#orders_capture, `PayPal-Request-Id`.
KEY_LIFE = timedelta(hours=6)
TOKEN_LIFE = timedelta(seconds=32_400)

_VALUE = re.compile(r"[0-9]{1,29}(\.[0-9]{1,2})?")

Answer = Callable[[Json], Response]


def build(context: FakeContext) -> StandIn:
    """Build the stand-in; the desk's webhook secret is the webhook id that its messages are signed for."""
    counter = _Counter(Till(context))
    routes = [
        Route("/v1/oauth2/token", counter.token, methods=["POST"], name="token"),
        Route("/v2/checkout/orders", counter.create, methods=["POST"], name="create_order"),
        Route("/v2/checkout/orders/{order}", counter.get_order, methods=["GET"], name="get_order"),
        Route("/v2/checkout/orders/{order}/capture", counter.capture, methods=["POST"], name="capture_order"),
        Route("/v2/payments/captures/{capture}", counter.get_capture, methods=["GET"], name="get_capture"),
        Route("/v2/payments/captures/{capture}/refund", counter.refund, methods=["POST"], name="release_payment"),
        Route("/v2/payments/refunds/{refund}", counter.get_refund, methods=["GET"], name="get_refund"),
        Route("/v1/notifications/webhooks-events", counter.events, methods=["GET"], name="list_events"),
        Route(f"{CERTIFICATES_PATH}/{{certificate}}", counter.certificate, methods=["GET"], name="certificate"),
    ]
    return StandIn(routes=routes, refuse=counter.refuse, emit=counter.emit)


class _Counter:
    """HTTP side of the stand-in: credentials, JSON, idempotency."""

    def __init__(self, till: Till) -> None:
        self._till = till
        #: Access token → when it expires.
        self._tokens: dict[str, datetime] = {}

    async def token(self, request: Request) -> Response:
        client_id, secret = _basic(request.headers.get("authorization", ""))
        if not (client_id and secret):
            body = {"error": "invalid_client", "error_description": "Client Authentication failed"}
            return JSONResponse(body, 401)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        if form.get("grant_type") != ["client_credentials"]:
            body = {"error": "unsupported_grant_type", "error_description": "Grant Type is NULL"}
            return JSONResponse(body, 400)
        token = f"A21AA{secrets.token_urlsafe(48)}"
        self._tokens[token] = self._till.context.now() + TOKEN_LIFE
        return JSONResponse(
            {
                "scope": "https://uri.paypal.com/services/payments/payment",
                "access_token": token,
                "token_type": "Bearer",
                "app_id": "APP-80W284485P519543T",
                "expires_in": int(TOKEN_LIFE.total_seconds()),
                "nonce": f"{self._till.now()}{secrets.token_urlsafe(16)}",
            }
        )

    async def create(self, request: Request) -> Response:
        return await self._write(request, self._create)

    async def capture(self, request: Request) -> Response:
        return await self._write(request, lambda body: self._capture(request, body))

    async def refund(self, request: Request) -> Response:
        return await self._write(request, lambda body: self._refund(request, body))

    def _create(self, body: Json) -> Response:
        units = body.get("purchase_units")
        if body.get("intent") not in ("CAPTURE", "AUTHORIZE"):
            return error(400, "MISSING_REQUIRED_PARAMETER", "A required parameter is missing.", "/intent")
        if not isinstance(units, list) or len(units) != 1 or not isinstance(units[0], dict):
            return error(400, "MISSING_REQUIRED_PARAMETER", "A required parameter is missing.", "/purchase_units")
        fault = _amount_fault(units[0].get("amount"))
        if fault is not None:
            return fault
        for name in ("description", "custom_id", "invoice_id"):
            if name in units[0] and not 1 <= len(str(units[0][name])) <= 127:
                issue, text = "INVALID_STRING_LENGTH", "The value of a field is either too short or too long."
                return error(400, issue, text, f"/purchase_units/@reference_id=='default'/{name}")
        return JSONResponse(shown(self._till.create(body["intent"], units)), 201)

    def _capture(self, request: Request, body: Json) -> Response:
        order = self._till.find("order", request.path_params["order"])
        if order is None:
            return error(404, "INVALID_RESOURCE_ID")
        token, source = _token(body.get("payment_source"))
        if not token and not captures(order):
            return error(422, "ORDER_NOT_APPROVED")
        return self._till.capture(order, token, source, request, request.headers.get("paypal-request-id"))

    def _refund(self, request: Request, body: Json) -> Response:
        capture = self._till.find("capture", request.path_params["capture"])
        if capture is None:
            return error(404, "INVALID_RESOURCE_ID")
        return self._till.refund(capture, body.get("amount"))

    async def get_order(self, request: Request) -> Response:
        return self._show(request, "order")

    async def get_capture(self, request: Request) -> Response:
        return self._show(request, "capture")

    async def get_refund(self, request: Request) -> Response:
        return self._show(request, "refund")

    def _show(self, request: Request, kind: str) -> Response:
        fault = self._stranger(request)
        if fault is not None:
            return fault
        found = self._till.find(kind, request.path_params[kind])
        return error(404, "INVALID_RESOURCE_ID") if found is None else JSONResponse(shown(found))

    async def events(self, request: Request) -> Response:
        """List what was announced between `start_time` and `end_time`, the newest first, in pages."""
        fault = self._stranger(request)
        if fault is not None:
            return fault
        query = request.query_params
        first, last = query.get("start_time", ""), query.get("end_time", "9999")
        sent = [one for one in self._till.events() if first <= one["create_time"] <= last]
        size = int(query.get("page_size", "10"))
        begin = int(query.get("offset", "0"))
        links = []
        if begin + size < len(sent):
            query_key = urlencode({**query, "offset": str(begin + size)})
            links = [{"rel": "next", "method": "GET", "href": f"{request.url.replace(query=query_key)}"}]
        shown = sent[begin : begin + size]
        return JSONResponse({"events": shown, "count": len(shown), "links": links})

    async def certificate(self, request: Request) -> Response:
        """Serve the signing certificate and the root of this stand-in, which only a local installation trusts."""
        wanted = request.path_params["certificate"]
        if wanted == "root":
            return PlainTextResponse(signer().root_pem)
        if wanted == signer().certificate_id:
            return PlainTextResponse(signer().certificate_pem)
        return error(404, "INVALID_RESOURCE_ID")

    async def _write(self, request: Request, answer: Answer) -> Response:
        fault = self._stranger(request)
        if fault is not None:
            return fault
        self._till.base_url = str(request.base_url).rstrip("/")
        raw = await request.body()
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return error(400, "MALFORMED_REQUEST_JSON", "The request JSON is not well formed.")

        async def once() -> Response:
            return answer(body)

        # PayPal gives the first request's state for the same id, and does not compare what came with it.
        request_id = request.headers.get("paypal-request-id")
        key = f"{request.url.path} {request_id}" if request_id else None
        return await self._till.context.idempotent(key, b"", KEY_LIFE, once, _never)

    def _stranger(self, request: Request) -> Response | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        expires = self._tokens.get(token.strip())
        if scheme.lower() != "bearer" or expires is None or self._till.context.now() >= expires:
            return error(401)
        return None

    def refuse(self, operation: str, request: Request) -> Response | None:
        """Refuse an instrument declined at the capture; PayPal refuses nothing else of ours that is well-formed."""
        if operation != "capture_order" or self._stranger(request) is not None:
            return None
        order = self._till.find("order", request.path_params["order"])
        if order is None or captures(order):
            return None
        return self._till.capture(order, DECLINED_TOKEN, {}, request, None)

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Return the signed event `event` about an order or capture; an event made before is returned as it was."""
        if object_id is None:
            raise KeyError("object_id")
        body = encode(self._till.resend(event, object_id))
        return self._till.context.webhook_url, self._till.headers(body, bad=bad_signature), body


def _never() -> Response:
    raise AssertionError("all bodies count as one")


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password


def _token(source: Any) -> tuple[str, Json]:
    """Return the vault token of a payment source, and the source as an answer shows it."""
    if not isinstance(source, dict):
        return "", {}
    for kind, name in (("paypal", "vault_id"), ("card", "vault_id"), ("token", "id")):
        received = source.get(kind)
        if isinstance(received, dict) and received.get(name):
            return str(received[name]), {} if kind == "token" else {kind: {}}
    return "", {}


def _amount_fault(amount: Any) -> Response | None:
    field = "/purchase_units/@reference_id=='default'/amount"
    if not isinstance(amount, dict) or not isinstance(amount.get("value"), str):
        return error(400, "MISSING_REQUIRED_PARAMETER", "A required parameter is missing.", field)
    if amount.get("currency_code") not in CURRENCIES:
        text = (
            "Currency code is invalid or is not currently supported. Please refer "
            "https://developer.paypal.com/api/rest/reference/currency-codes/ for list of supported currency codes."
        )
        return error(422, "INVALID_CURRENCY_CODE", text, f"{field}/currency_code")
    if not _VALUE.fullmatch(amount["value"]):
        text = "If the currency supports decimals, only two decimal place precision is supported."
        return error(422, "DECIMAL_PRECISION", text, f"{field}/value")
    if amount["currency_code"] in NO_DECIMALS and "." in amount["value"]:
        return error(422, "DECIMALS_NOT_SUPPORTED", "Currency does not support decimals.", f"{field}/value")
    if float(amount["value"]) <= 0:
        text = (
            "Must be greater than zero. "
            "If the currency supports decimals, only two decimal place precision is supported."
        )
        return error(422, "CANNOT_BE_ZERO_OR_NEGATIVE", text, f"{field}/value")
    return None
