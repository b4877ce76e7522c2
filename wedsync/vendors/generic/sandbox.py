"""Businesses with a simple REST API: each comes into being when first called, under `/{business}/bookings`.

A venue takes 300 guests at the most. A business whose name begins with `exclusive-` takes one confirmed wedding at a
time. A booking asked for with `answer: webhook` is confirmed by a signed webhook a moment later.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import WEDDING_HEADER, FakeContext, StandIn

CAPACITY_GUESTS = 300
KEY_LIFE = timedelta(hours=24)
_DECIMALS = {"JPY": 0, "KRW": 0, "VND": 0, "CLP": 0, "ISK": 0, "XOF": 0, "KWD": 3, "BHD": 3, "TND": 3, "JOD": 3}
_DESCRIPTION = ("title", "starts_at", "ends_at", "timezone", "guests", "contact", "price", "notes")

Handler = Callable[[Request, dict[str, Any]], Response]


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def _minor(price: dict[str, Any] | None) -> tuple[int | None, str | None]:
    if not price:
        return None, None
    whole, _, fraction = str(price["amount"]).partition(".")
    decimals = _DECIMALS.get(price["currency"], 2)
    return int(whole + fraction[:decimals].ljust(decimals, "0")), str(price["currency"])


class _Businesses:
    def __init__(self, context: FakeContext) -> None:
        self.context = context

    # ---- reading

    def shown(self, booking: dict[str, Any]) -> dict[str, Any]:
        names = ("id", "reference", "status", "starts_at", "ends_at", "timezone", "guests")
        shown = {name: booking[name] for name in names if name in booking}
        if booking["status"] == "pending" and self.context.now() >= booking["answers_at"]:
            shown["status"] = "confirmed"
        return {**shown, "etag": f'"{booking["version"]}"'}

    def booking(self, request: Request) -> dict[str, Any] | None:
        booking = self.context.objects.get(request.path_params["booking_id"])
        return booking if booking and booking["account"] == request.path_params["account"] else None

    def taken(self, account: str, own: dict[str, Any], starts_at: str, ends_at: str) -> bool:
        """Tell whether another wedding's confirmed booking overlaps."""
        if not account.startswith("exclusive-"):
            return False
        starts, ends = datetime.fromisoformat(starts_at), datetime.fromisoformat(ends_at)
        return any(
            other["account"] == account
            and other.get("id") != own.get("id")
            and (other["wedding"] or other["reference"]) != (own["wedding"] or own["reference"])
            and self.shown(other)["status"] == "confirmed"
            and datetime.fromisoformat(other["starts_at"]) < ends
            and starts < datetime.fromisoformat(other["ends_at"])
            for other in self.context.objects.values()
        )

    # ---- the five operations

    def request(self, request: Request, body: dict[str, Any]) -> Response:
        account = request.path_params["account"]
        needed = ("reference", "title", "starts_at", "ends_at", "timezone", "contact", "guests")
        missing = next((name for name in needed if name not in body), None)
        if missing or not self._times_fit(body):
            return _error(400, "invalid", f"{missing or 'starts_at and ends_at'}: missing or malformed")
        for booking in self.context.objects.values():
            if (booking["account"], booking["reference"]) == (account, body["reference"]) and booking["status"] not in (
                "cancelled",
                "declined",
            ):
                return JSONResponse(self.shown(booking))
        new = {name: body[name] for name in _DESCRIPTION if name in body} | {
            "account": account,
            "reference": body["reference"],
            "answer": body.get("answer", "now"),
            "wedding": request.headers.get(WEDDING_HEADER),
            "status": "held",
            "version": 1,
        }
        if refusal := self._unfit(account, new):
            return refusal
        booking_id = f"bk_{uuid4().hex[:24]}"
        new["id"] = booking_id
        self.context.objects[booking_id] = new
        amount_minor, currency = _minor(body.get("price"))
        self.context.record(
            request,
            booking_id,
            "request",
            idempotency_key=request.headers.get("idempotency-key"),
            amount_minor=amount_minor,
            currency=currency,
            account=account,
        )
        return JSONResponse(self.shown(new), 201)

    def confirm(self, request: Request, body: dict[str, Any]) -> Response:
        booking = self.booking(request)
        if booking is None:
            return _error(404, "not_found", "no such booking")
        if booking["status"] in ("cancelled", "declined"):
            return _error(409, f"already_{booking['status']}", "the booking stands no more")
        if booking["status"] == "held":
            if self.taken(booking["account"], booking, booking["starts_at"], booking["ends_at"]):
                return _error(409, "date_taken", "another wedding is confirmed for that time")
            booking["version"] += 1
            booking["status"] = "confirmed"
            if booking["answer"] == "webhook":
                booking["status"] = "pending"
                booking["answers_at"] = self.context.now() + timedelta(seconds=self.context.webhook_delay_seconds)
                url, headers, event = self.event("booking.confirmed", booking, bad_signature=False)
                self.context.send(url, headers, event, self.context.webhook_delay_seconds)
        return JSONResponse(self.shown(booking))

    def change(self, request: Request, body: dict[str, Any]) -> Response:
        booking = self.booking(request)
        if booking is None:
            return _error(404, "not_found", "no such booking")
        if booking["status"] in ("cancelled", "declined"):
            return _error(409, f"already_{booking['status']}", "the booking stands no more")
        wanted = booking | {name: body[name] for name in _DESCRIPTION if name in body}
        if not self._times_fit(wanted):
            return _error(400, "invalid", "starts_at and ends_at: missing or malformed")
        if refusal := self._unfit(booking["account"], wanted):
            return refusal
        booking.update(wanted, version=booking["version"] + 1)
        return JSONResponse(self.shown(booking))

    def cancel(self, request: Request, body: dict[str, Any]) -> Response:
        booking = self.booking(request)
        if booking is None:
            return _error(404, "not_found", "no such booking")
        if booking["status"] == "cancelled":
            return _error(409, "already_cancelled", "the booking is cancelled already")
        booking.update(status="cancelled", version=booking["version"] + 1)
        self.context.undo(booking["id"])
        return JSONResponse(self.shown(booking))

    def find(self, request: Request) -> Response:
        account, reference = request.path_params["account"], request.query_params.get("reference")
        if not reference:
            return _error(400, "invalid", "reference: missing")
        found = [
            self.shown(booking)
            for booking in self.context.objects.values()
            if (booking["account"], booking["reference"]) == (account, reference)
        ]
        return JSONResponse({"data": found})

    def inspect(self, request: Request) -> Response:
        booking = self.booking(request)
        return JSONResponse(self.shown(booking)) if booking else _error(404, "not_found", "no such booking")

    # ---- rules

    @staticmethod
    def _times_fit(body: dict[str, Any]) -> bool:
        try:
            starts = datetime.fromisoformat(body["starts_at"])
            return starts.tzinfo is not None and starts < datetime.fromisoformat(body["ends_at"])
        except (TypeError, ValueError):
            return False

    def _unfit(self, account: str, wanted: dict[str, Any]) -> Response | None:
        if not isinstance(wanted["guests"], int):
            return _error(400, "invalid", "guests: not an integer")
        if wanted["guests"] > CAPACITY_GUESTS:
            return _error(422, "capacity_exceeded", f"at most {CAPACITY_GUESTS} guests")
        if self.taken(account, wanted, wanted["starts_at"], wanted["ends_at"]):
            return _error(409, "date_taken", "another wedding is confirmed for that time")
        return None

    # ---- webhooks

    def event(self, event: str, booking: dict[str, Any], *, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        now = self.context.now()
        data = {"booking_id": booking["id"], "reference": booking["reference"]}
        if booking["wedding"]:
            data["wedding"] = booking["wedding"]
        body = json.dumps(
            {"id": f"evt_{uuid4().hex[:24]}", "type": event, "created_at": now.isoformat(), "data": data}
        ).encode()
        stamp = int(now.timestamp())
        secret = "not the secret" if bad_signature else self.context.webhook_secret
        signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Signature": f"t={stamp},v1={signature}"}
        return self.context.webhook_url, headers, body

    def emit(self, event: str, object_id: str | None, bad_signature: bool) -> tuple[str, dict[str, str], bytes]:
        """Build a webhook on demand; the booking takes the state that the event reports."""
        booking = self.context.objects[object_id or next(reversed(self.context.objects), "")]
        if not bad_signature and booking["status"] in ("held", "pending"):
            statuses = {"booking.confirmed": "confirmed", "booking.declined": "declined"}
            booking["status"] = statuses.get(event, booking["status"])
        return self.event(event, booking, bad_signature=bad_signature)


def _authorized(request: Request) -> bool:
    # The document lets a business do without a credential, but not with a wrong one.
    header = request.headers.get("authorization")
    if header is None:
        return True
    scheme, _, token = header.partition(" ")
    return scheme.lower() == "bearer" and bool(token.strip()) and not token.startswith("revoked")


def _read(handler: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return handler(request) if _authorized(request) else _error(401, "unauthorized", "wrong credential")

    return endpoint


def _write(context: FakeContext, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if not _authorized(request):
            return _error(401, "unauthorized", "wrong credential")
        raw = await request.body()
        key = request.headers.get("idempotency-key")
        if not key:
            return _error(400, "invalid", "Idempotency-Key: missing")

        async def answer() -> Response:
            try:
                body = json.loads(raw) if raw else {}
            except ValueError:
                body = None
            return handler(request, body) if isinstance(body, dict) else _error(400, "invalid", "the body is no object")

        return await context.idempotent(
            f"{request.url.path}:{key}",
            name.encode() + b"\n" + raw,
            KEY_LIFE,
            answer,
            lambda: _error(422, "idempotency_key_reused", "this key came with another body"),
        )

    return endpoint


def build(context: FakeContext) -> StandIn:
    """Build the stand-in for every business of the generic vendor."""
    businesses = _Businesses(context)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "open"})

    def refuse(operation: str, request: Request) -> Response | None:
        refusals = {
            "request": _error(409, "unavailable", "the business can't take this date"),
            "confirm": _error(409, "declined", "the business declined"),
        }
        return refusals.get(operation)

    one = "/{account}/bookings/{booking_id}"
    routes = [
        Route("/health", health, name="health"),
        Route("/{account}/bookings", _write(context, "request", businesses.request), methods=["POST"], name="request"),
        Route("/{account}/bookings", _read(businesses.find), methods=["GET"], name="find"),
        Route(one, _read(businesses.inspect), methods=["GET"], name="look"),
        Route(one, _write(context, "change", businesses.change), methods=["PATCH"], name="change"),
        Route(f"{one}/confirm", _write(context, "confirm", businesses.confirm), methods=["POST"], name="confirm"),
        Route(f"{one}/cancel", _write(context, "cancel", businesses.cancel), methods=["POST"], name="cancel"),
    ]
    return StandIn(routes=routes, refuse=refuse, emit=businesses.emit)
