"""Passes a vendor's request through the sandbox: recognizes it, applies faults, answers, logs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from wedsync.domain.errors import NotFound
from wedsync.kit.standin import STEP_HEADER, WEDDING_HEADER
from wedsync.sandbox.faults import Hit, Sign
from wedsync.sandbox.record import Exchange
from wedsync.sandbox.stand import Market, Stand

_MAX_BODY_BYTES = 8 * 1024 * 1024
_DOWN_PAGE = "<html><head><title>503 Service Temporarily Unavailable</title></head><body>Try later.</body></html>"
#: Sent in an answer that breaks off, so that the client waits for what never comes.
_PROMISED_BYTES = 65_536


@dataclass
class _Answer:
    """A response caught before it is sent."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


class FaultMiddleware:
    """ASGI application that serves `/{vendor}/...`, and at `/{vendor}@{region}/...` the same stand-in."""

    def __init__(self, market: Market) -> None:
        self._market = market

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = scope["path"].split("/", 2)[1]
        vendor, _, region = place.partition("@")
        try:
            stand = self._market.stand(vendor)
        except NotFound as error:
            await JSONResponse({"error": {"code": error.code, "detail": error.detail}}, 404)(scope, receive, send)
            return
        body = await _read(receive)
        root = f"/{place}"
        route, inner = _route(stand, {**scope, "root_path": root, "app_root_path": root})
        request = _with_body(inner, body)
        sign = _sign(route, request, region)
        exchange = Exchange(request.method, str(request.url), dict(request.headers), body, sign)
        stand.log.add(exchange)
        hit = self._market.faults.strike(vendor, sign)
        if hit.delay_ms:
            await asyncio.sleep(hit.delay_ms / 1000)
        response = _instead(hit, stand, sign, request)
        answer = _Answer()
        if response is not None:
            await response(inner, request.receive, answer.take)
        else:
            await _handle(route, request, answer)
        if hit.fault is not None and hit.fault.mode == "commit_then_drop":
            await _drop(send)
            return
        exchange.status = answer.status
        exchange.response_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        exchange.response_body = bytes(answer.body)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": bytes(answer.body)})


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body") or len(body) > _MAX_BODY_BYTES:
            return bytes(body)


def _route(stand: Stand, scope: Scope) -> tuple[Route | None, Scope]:
    for route in stand.standin.routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            return route, {**scope, **child}
    return None, scope


def _with_body(scope: Scope, body: bytes) -> Request:
    """Make a request whose body is at hand already, also for `await request.body()` and `request.form()`."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


def _sign(route: Route | None, request: Request, region: str) -> Sign:
    return Sign(
        operation=route.name if route is not None else "",
        account=str(request.path_params.get("account", "default")),
        wedding_id=request.headers.get(WEDDING_HEADER),
        step_id=request.headers.get(STEP_HEADER),
        region=region,
    )


def _instead(hit: Hit, stand: Stand, sign: Sign, request: Request) -> Response | None:
    """Return the answer that the fault gives instead of the stand-in's; None: the stand-in answers."""
    fault = hit.fault
    if fault is None or fault.mode == "commit_then_drop":
        return None
    if fault.mode in ("down", "flap"):
        return HTMLResponse(_DOWN_PAGE, 503)
    if fault.mode == "throttle":
        wait = str(fault.retry_after_seconds)
        return JSONResponse({"error": {"message": "Too many requests"}}, 429, {"Retry-After": wait})
    refusal = stand.standin.refuse(sign.operation, request)
    if refusal is None:
        hit.spare()
    return refusal


async def _handle(route: Route | None, request: Request, answer: _Answer) -> None:
    if route is None:
        response: Response = JSONResponse({"error": {"message": "Unrecognized request URL"}}, 404)
        await response(request.scope, request.receive, answer.take)
        return
    try:
        await route.handle(request.scope, request.receive, answer.take)
    except HTTPException as error:
        response = JSONResponse({"error": {"message": error.detail}}, error.status_code, error.headers)
        await response(request.scope, request.receive, answer.take)


async def _drop(send: Send) -> None:
    """Begin an answer and stop there: the server then closes the connection, and the client has nothing usable."""
    headers = [(b"content-length", str(_PROMISED_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
