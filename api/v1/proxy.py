"""`/api/v1/gateway/{service}/{path}`: a partner's requests to a vendor, by the platform's account."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from api.v1.routing import ServiceName
from wedsync.domain.errors import (
    Conflict,
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    ThrottledUntil,
    VendorError,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.health.messages import AT_CAPACITY, CIRCUIT_OPEN
from wedsync.domain.proxy.pass_through import Method
from wedsync.http.deps import Context, RequestContext
from wedsync.http.problems import of_error, problem, request_id_of
from wedsync.kit import logs
from wedsync.kit.http import TIMED_OUT
from wedsync.kit.standin import WEDDING_HEADER
from wedsync.usecases.proxy.forward import PartnerRequest, Passed

router = APIRouter(prefix="/gateway", tags=["gateway"])
_log = logs.get(__name__)
_PREFIX = "/api/v1/gateway/"
#: Whose answer it is: a problem of ours has no such header.
ANSWERED_BY = b"x-wedsync-service"
#: Vendors' pages are never run as ours.
_HARMLESS = (b"content-security-policy", b"default-src 'none'; sandbox")
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The vendor's answer, whatever its status, with `X-Wedsync-Service`.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    400: {"description": "The path can't be passed on."},
    403: {"description": "No rule of the service lets this through, or not by this key."},
    408: {"description": "The body did not come in time."},
    409: {"description": "The version that the service is pinned to may not be used."},
    413: {"description": "The body is longer than the service's limit."},
    429: {"description": "Nothing is left of the vendor's quota; `Retry-After` says until when."},
    502: {"description": "The vendor can't be reached, broke off, or answered more than the limit."},
    503: {"description": "The vendor is cut off for now; `Retry-After` says until when."},
    504: {"description": "The vendor did not answer in time; whether it did what was asked is not known."},
}
_BODY = {
    "requestBody": {
        "description": "Passed on as it comes.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class _PassedOn(StreamingResponse):
    """A vendor's answer, sent on as it comes."""

    def __init__(self, passed: Passed, service: str) -> None:
        super().__init__(passed.chunks(), passed.status)
        self._passed = passed
        self._service = service
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in passed.headers]
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        self.raw_headers = [*headers, (ANSWERED_BY, service.encode()), _HARMLESS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._passed.seconds_left()):
                    await send(message)
            except TimeoutError:
                # A partner who does not read: the vendor's connection is not kept for them.
                raise Conflict("the answer was not taken in time", reason=TIMED_OUT) from None

        try:
            await super().__call__(scope, receive, in_time)
        except (VendorError, Conflict) as error:
            # The server then closes the connection before the answer's end, so that nobody takes it for whole.
            _log.warning("gateway.cut_off", vendor=self._service, outcome=error.code, reason=error.reason)
        finally:
            await self._passed.close()


async def pass_on(
    service: ServiceName,
    path: Annotated[str, Path(max_length=2048, description="The vendor's own path.", examples=["v1/products"])],
    context: Context,
    wedding: Annotated[
        str, Header(alias=WEDDING_HEADER, max_length=128, description="The wedding that it is for, by either id.")
    ] = "",
) -> Response:
    """Send the request to the vendor by the platform's account, and pass its answer back; both are streamed.

    Each service lists the requests that are let through; by default there are none. See `docs/gateway.md`.
    """
    del path  # Read from the wire, where its escapes still stand.
    try:
        return await _passed_on(context, service, wedding)
    except (VendorError, InvalidInput) as error:
        return _refusal(context, service, error)


for _method in get_args(Method):
    router.add_api_route(
        "/{service}/{path:path}",
        pass_on,
        methods=[_method],
        name=f"forward_{_method.lower()}",
        response_class=StreamingResponse,
        responses=_RESPONSES,
        summary=f"Send a {_method} request to a vendor",
        openapi_extra=None if _method in ("GET", "HEAD") else _BODY,
    )


async def _passed_on(context: RequestContext, service: str, wedding: str) -> Response:
    request = context.request
    partner_request = PartnerRequest(
        organization_id=context.organization_id,
        is_operator=context.state.settings.is_operator(context.organization_id),
        service=service,
        method=cast("Method", request.method),
        path=_path_on_the_wire(request, service),
        query=request.scope["query_string"].decode("latin-1"),
        headers=tuple(request.headers.items()),
        wedding=wedding,
        has_body=request.method not in ("GET", "HEAD")
        and (request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers),
    )
    return _PassedOn(await context.state.gateway.pass_on(partner_request, _body(request)), service)


def _path_on_the_wire(request: Request, service: str) -> str:
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    before, slash, path = raw.decode("latin-1").partition(f"{_PREFIX}{service}/")
    if before or not slash:
        raise InvalidInput("the service's name is written without escapes", field="path", reason="gateway_path_invalid")
    return f"/{path}"


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise InvalidInput("the body ended too early", field="body", reason="malformed_body") from None


def _refusal(context: RequestContext, service: str, error: VendorError | InvalidInput) -> Response:
    """Build the problem for a call that has no answer; an error with a code of its own (a version, a path) keeps it."""
    request_id = request_id_of(context.request)
    code, seconds = _code_of(error), 0.0
    if code is None:
        return of_error(error, request_id)
    if isinstance(error, VendorThrottled | ThrottledUntil):
        seconds = error.retry_after_seconds
    elif code == CIRCUIT_OPEN:
        seconds = context.state.gateway.retry_after_seconds(
            service, context.state.admission_controller.routing_table.now()
        )
    headers = {"Retry-After": str(max(1, math.ceil(seconds)))} if seconds else {}
    return problem(code, error.detail, request_id=request_id, headers=headers)


def _code_of(error: VendorError | InvalidInput) -> str | None:
    if isinstance(error, ThrottledUntil):
        return "throttled_until"
    if isinstance(error, NotAuthorized):
        return "vendor_not_authorized"
    if isinstance(error, VendorThrottled):
        return AT_CAPACITY if error.reason == AT_CAPACITY else "throttled_until"
    if isinstance(error, VendorUnavailable | OutcomeUnknown):
        return error.reason if error.reason in (CIRCUIT_OPEN, TIMED_OUT, "unreachable") else "no_answer"
    return None
