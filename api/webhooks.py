"""`POST /api/integrations/webhooks/{source}`: sources post their events here. No API key: the signature is the key."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.domain.errors import InvalidInput, NotFound, StoreUnavailable, WedsyncError
from wedsync.http.problems import problem, request_id_of
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.usecases.inbox.receive import (
    AddressRefused,
    InboundMessage,
    Received,
    SignatureRefused,
    SourceThrottled,
    WebhookReceiver,
)

PATH = "/api/integrations/webhooks/{source}"
_PREFIX = PATH.partition("{")[0]
CONNECTION_PATH = PATH + "/{connection}"
#: The codes of `wedsync.http.problems.KINDS` by what went wrong.
_CODES: dict[type[WedsyncError], str] = {
    SignatureRefused: "webhook_signature",
    AddressRefused: "webhook_address",
    NotFound: "not_found",
    InvalidInput: "malformed_body",
    SourceThrottled: "rate_limited",
    StoreUnavailable: "store_unavailable",
}


class _TooLarge(Exception):
    """Raised when the body is longer than allowed."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    receiver: WebhookReceiver | None = getattr(app.state, "webhook_receiver", None)
    if receiver is not None:
        await receiver.close()
    pool = getattr(app.state, "webhook_pool", None)
    if pool is not None:
        await pool.aclose()


router = APIRouter(tags=["webhooks"], lifespan=_lifespan)


async def get_receiver(request: Request) -> WebhookReceiver:
    """Return the application's desk for webhooks, made at first use of `app.state`'s parts; async asks no thread."""
    state = request.app.state
    receiver: WebhookReceiver | None = getattr(state, "webhook_receiver", None)
    if receiver is None:
        state.webhook_pool = new_pool(max_connections=20)
        gateway = VendorGateway(
            state.settings, state.registry, state.webhook_pool, getattr(state, "admission_controller", None)
        )
        dispatcher = InboxDispatcher(state.temporal)
        receiver = WebhookReceiver(state.settings, state.database, state.registry, dispatcher, gateway=gateway)
        state.webhook_receiver = receiver
    return receiver


Receiver = Annotated[WebhookReceiver, Depends(get_receiver)]
_PROBLEM = {"content": {"application/problem+json": {"schema": {"type": "object"}}}}
_RESPONSES: dict[int | str, dict[str, object]] = {
    400: {"description": "Signed, but not what the source documents", **_PROBLEM},
    401: {"description": "The signature is not valid, or too old", **_PROBLEM},
    403: {"description": "The source takes messages from other addresses only", **_PROBLEM},
    404: {"description": "No such source", **_PROBLEM},
    413: {"description": "The body is too large", **_PROBLEM},
    429: {"description": "Too many messages from this source; `Retry-After` says when", **_PROBLEM},
    503: {"description": "Nothing was recorded; send again after `Retry-After`", **_PROBLEM},
}


@router.post(PATH, response_model=Received, responses=_RESPONSES, summary="Take in a source's event")
async def receive_webhook(source: str, request: Request, receiver: Receiver) -> Response:
    """Verify, record and acknowledge an event; it is processed afterwards, durably.

    Answers a source's handshake where it has one. Acknowledges an event that was recorded before as a duplicate.
    """
    return await _receive(source, "", request, receiver)


@router.post(
    CONNECTION_PATH, response_model=Received, responses=_RESPONSES, summary="Take in an event of a source's connection"
)
async def receive_connection_webhook(source: str, connection: str, request: Request, receiver: Receiver) -> Response:
    """Receive an event for one of a source's connections, named by its id."""
    return await _receive(source, connection, request, receiver)


class WebhookFastPath:
    """Takes webhooks in before routing: they come in bursts, and FastAPI's routing costs as much as the rest.

    The endpoints above describe the same for readers of the API. They also answer what is no POST to one or two plain
    names.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(_PREFIX):
            names = scope["path"][len(_PREFIX) :].split("/")
            if len(names) <= 2 and all(names):
                request = Request(scope, receive)
                receiver = await get_receiver(request)
                response = await _receive(names[0], names[1] if len(names) == 2 else "", request, receiver)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _receive(source: str, connection: str, request: Request, receiver: Receiver) -> Response:
    settings: Settings = request.app.state.settings
    try:
        body = await _read_body(request, settings.request_max_bytes)
        message = _message(source, connection, request, body, settings)
        handshake = await receiver.handshake(message, dict(request.query_params))
        if handshake is not None:
            return _answer(*handshake)
        received = await receiver.receive(message)
    except _TooLarge:
        with contextlib.suppress(WedsyncError):
            await receiver.count_too_large(source, connection)
        detail = f"a webhook's body is at most {settings.request_max_bytes} bytes"
        return problem("content_too_large", detail, request_id=request_id_of(request))
    except ClientDisconnect:
        return problem("malformed_body", "the body ended too early", request_id=request_id_of(request))
    except tuple(_CODES) as error:
        return _refusal(request, error)
    return JSONResponse(received.model_dump())


@router.get(PATH, include_in_schema=False)
async def answer_challenge(source: str, request: Request, receiver: Receiver) -> Response:
    """Answer a source that proves our address by a GET; 405 for all others."""
    return await _challenge(source, "", request, receiver)


@router.get(CONNECTION_PATH, include_in_schema=False)
async def answer_connections_challenge(source: str, connection: str, request: Request, receiver: Receiver) -> Response:
    """Answer the challenge of one of a source's connections."""
    return await _challenge(source, connection, request, receiver)


async def _challenge(source: str, connection: str, request: Request, receiver: Receiver) -> Response:
    settings: Settings = request.app.state.settings
    try:
        message = _message(source, connection, request, b"", settings)
        handshake = await receiver.handshake(message, dict(request.query_params))
    except (NotFound, StoreUnavailable) as error:
        return _refusal(request, error)
    if handshake is None:
        detail = "this source sends events by POST only"
        return problem("method_not_allowed", detail, request_id=request_id_of(request), headers={"Allow": "POST"})
    return _answer(*handshake)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _TooLarge
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > max_bytes:
            raise _TooLarge
        chunks.append(chunk)
    return b"".join(chunks)


def _message(source: str, connection: str, request: Request, body: bytes, settings: Settings) -> InboundMessage:
    # Sources sign the address that they know: the public one, not the one behind a proxy.
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    query = request.scope["query_string"]
    url = settings.api_url.rstrip("/") + path.decode("latin-1") + ("?" + query.decode("latin-1") if query else "")
    client = request.client.host if request.client else ""
    headers = dict(request.headers)
    return InboundMessage(source=source, connection=connection, body=body, headers=headers, url=url, client=client)


def _answer(status: int, content_type: str, body: bytes) -> Response:
    return Response(
        body, status_code=status, headers={"Content-Type": content_type, "X-Content-Type-Options": "nosniff"}
    )


def _refusal(request: Request, error: WedsyncError) -> Response:
    code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
    headers = {}
    if isinstance(error, SourceThrottled):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return problem(code, error.detail, request_id=request_id_of(request), headers=headers)
