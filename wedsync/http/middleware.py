"""Middleware that every request passes: its id, its API key, the limit of its body. Plain ASGI."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wedsync.domain.access.principal import Principal, Unauthenticated
from wedsync.domain.errors import WedsyncError
from wedsync.http.problems import of_error, problem
from wedsync.kit import logs, telemetry
from wedsync.kit.ids import new_id
from wedsync.usecases.access.authenticate import authenticate

REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: Everything here needs an API key ...
PROTECTED = ("/api/v1/", "/api/admin/", "/api/integrations/health-check")
#: ... but what is opened by a signed link.
LINKS = "/api/v1/vendor-links/"
#: What is passed on as it comes has limits of its own.
STREAMED = "/api/v1/gateway/"
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
#: Not counted: they are asked all the time, and the inbox counts webhooks.
_UNCOUNTED = ("/healthz", "/readyz", "/metrics", "/api/integrations/webhooks/")
_log = logs.get(__name__)


class RequestIds:
    """Takes the caller's X-Request-Id or makes one, sends it back, counts, and answers what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = _header(scope, b"x-request-id")
        request_id = received if _REQUEST_ID.fullmatch(received) else new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_ours(message.get("headers", ()), request_id)
            await send(message)

        with logs.bound(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                _log.exception("request_failed", method=scope["method"])
                if status:
                    raise
                response = problem("internal", "an unexpected error; it was logged", request_id=request_id)
                await response(scope, receive, send_with_id)
        _count(scope, status, time.perf_counter() - begun)


def _header(scope: Scope, name: bytes) -> str:
    """Return the first value of a header, which ASGI names in small letters; empty without one."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _with_ours(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    kept = [item for item in headers if item[0].lower() != b"x-request-id"]
    names = {name.lower() for name, _ in kept}
    added = [item for item in _HEADERS if item[0] not in names]
    return [*kept, (b"x-request-id", request_id.encode("latin-1")), *added]


def _count(scope: Scope, status: int, seconds: float) -> None:
    if not scope["path"].startswith(_UNCOUNTED):
        route = getattr(scope.get("route"), "path", "")
        telemetry.record_request(scope["method"], route, status, seconds)


class Authentication:
    """Lets nobody without a known API key pass to the API, before anything of the request is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED) and not scope["path"].startswith(LINKS):
            try:
                scope["state"]["principal"] = await principal_of(Request(scope))
            except WedsyncError as error:
                await of_error(error, scope["state"]["request_id"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def principal_of(request: Request) -> Principal:
    """Return whom the request's `Authorization: Bearer KEY` stands for; raises Unauthenticated, StoreUnavailable."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("send an API key: `Authorization: Bearer KEY`")
    state = request.app.state
    pepper = state.settings.api_key_pepper.get_secret_value()
    return await authenticate(state.database, key.strip(), pepper, state.key_cache)


class BodyLimit:
    """Reads the body before anything else does, and refuses it beyond the limit, declared or streamed."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(("/api/v1/", "/codec/")) or path.startswith(STREAMED):
            await self._app(scope, receive, send)
            return
        body = None if self._declares_too_much(scope) else await self._read(receive)
        if body is None:
            detail = f"a request's body is at most {self._most} bytes"
            response = problem("content_too_large", detail, request_id=scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _declares_too_much(self, scope: Scope) -> bool:
        declared = Headers(scope=scope).get("content-length", "")
        return declared.isdecimal() and (len(declared) > 18 or int(declared) > self._most)

    async def _read(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(chunks)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._most:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
