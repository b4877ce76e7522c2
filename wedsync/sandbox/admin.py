"""Serves the sandbox's own interface, `/_sandbox/...`: faults, clock, ledgers, logs, webhooks on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.domain.errors import NotFound, WedsyncError
from wedsync.kit.standin import LedgerEntry
from wedsync.sandbox.faults import Fault, without_nulls
from wedsync.sandbox.hooks import HookPolicy
from wedsync.sandbox.stand import Market

Endpoint = Callable[[Request], Awaitable[Response]]
BodyT = TypeVar("BodyT", bound=BaseModel)


class ClockBody(BaseModel):
    """Body of `PUT /_sandbox/clock`."""

    model_config = ConfigDict(extra="forbid")
    now: AwareDatetime


class WebhookBody(BaseModel):
    """Body of `POST /_sandbox/webhooks/{vendor}`."""

    model_config = ConfigDict(extra="forbid")
    #: The vendor's own type of event.
    event: str
    object_id: str | None = None
    copies: Annotated[int, Field(ge=1, le=100)] = 1
    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0
    bad_signature: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        return without_nulls(document)


class PolicyBody(BaseModel):
    """Body of `PUT /_sandbox/webhooks/{vendor}`: what becomes of the webhooks that the stand-in sends by itself."""

    model_config = ConfigDict(extra="forbid")
    muted: bool = False
    delay_ms: Annotated[int, Field(ge=0, le=600_000)] | None = None


def routes(market: Market) -> list[Route]:
    """Build the routes of the interface."""
    admin = _Admin(market)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/_sandbox/faults", admin.list_faults),
        ("DELETE", "/_sandbox/faults", admin.clear_faults),
        ("PUT", "/_sandbox/faults/{vendor}", admin.put_fault),
        ("DELETE", "/_sandbox/faults/{vendor}", admin.clear_faults),
        ("POST", "/_sandbox/reset", admin.reset),
        ("GET", "/_sandbox/clock", admin.read_clock),
        ("PUT", "/_sandbox/clock", admin.move_clock),
        ("GET", "/_sandbox/ledger/{vendor}", admin.ledger),
        ("GET", "/_sandbox/requests/{vendor}", admin.requests),
        ("POST", "/_sandbox/webhooks/{vendor}", admin.send_webhook),
        ("PUT", "/_sandbox/webhooks/{vendor}", admin.put_policy),
        ("GET", "/_sandbox/health", admin.health),
    ]
    return [Route(path, _translating_errors(endpoint), methods=[method]) for method, path, endpoint in table]


class _Bad(Exception):
    """Raised when the body is wrong."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("bad body")
        self.errors = errors


def _translating_errors(endpoint: Endpoint) -> Endpoint:
    async def translating_errors(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _Bad as bad:
            detail = "; ".join(f"{error['field']}: {error['detail']}" for error in bad.errors)
            return _error(422, "invalid_input", detail, bad.errors)
        except NotFound as error:
            return _error(404, error.code, error.detail)
        except WedsyncError as error:
            return _error(409, error.code, error.detail)

    return translating_errors


def _error(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "detail": detail, "errors": errors or []}}, status)


async def _body(request: Request, model: type[BodyT]) -> BodyT:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise _Bad(
            [
                {"field": ".".join(str(part) for part in one["loc"]) or "body", "detail": one["msg"]}
                for one in error.errors()
            ]
        ) from None


class _Admin:
    def __init__(self, market: Market) -> None:
        self._market = market

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "vendors": list(self._market.vendors)})

    async def list_faults(self, request: Request) -> Response:
        active = self._market.faults.all()
        return JSONResponse({vendor: [fault.model_dump() for fault in faults] for vendor, faults in active.items()})

    async def put_fault(self, request: Request) -> Response:
        vendor = self._market.stand(request.path_params["vendor"]).vendor
        fault = await _body(request, Fault)
        self._market.faults.put(vendor, fault)
        return JSONResponse(fault.model_dump())

    async def clear_faults(self, request: Request) -> Response:
        vendor = request.path_params.get("vendor")
        if vendor is not None:
            self._market.stand(vendor)
        self._market.faults.clear(vendor)
        return Response(status_code=204)

    async def reset(self, request: Request) -> Response:
        await self._market.reset()
        return Response(status_code=204)

    async def read_clock(self, request: Request) -> Response:
        return JSONResponse({"now": self._market.clock.now().isoformat()})

    async def move_clock(self, request: Request) -> Response:
        self._market.clock.move_to((await _body(request, ClockBody)).now)
        return await self.read_clock(request)

    async def ledger(self, request: Request) -> Response:
        stand = self._market.stand(request.path_params["vendor"])
        wedding_id = request.query_params.get("wedding_id")
        entries = [_entry(one) for one in stand.context.ledger if wedding_id in (None, one.wedding_id)]
        return JSONResponse({"entries": entries})

    async def requests(self, request: Request) -> Response:
        stand = self._market.stand(request.path_params["vendor"])
        wanted = {name: request.query_params.get(name) for name in ("operation", "wedding_id", "step_id", "account")}
        found = [
            one.as_json()
            for one in stand.log.all()
            if all(value in (None, getattr(one.sign, name)) for name, value in wanted.items())
        ]
        return JSONResponse({"requests": found})

    async def send_webhook(self, request: Request) -> Response:
        stand = self._market.stand(request.path_params["vendor"])
        wanted = await _body(request, WebhookBody)
        if stand.standin.emit is None:
            raise NotFound(f"{stand.vendor} sends no webhooks")
        try:
            url, headers, body = stand.standin.emit(wanted.event, wanted.object_id, wanted.bad_signature)
        except KeyError as error:
            raise NotFound(f"{stand.vendor} has no object or event {error}") from None
        for _ in range(wanted.copies):
            self._market.hooks.send(stand.vendor, url, headers, body, wanted.delay_ms / 1000, is_requested=True)
        return JSONResponse({"sent": wanted.copies, "url": url}, 202)

    async def put_policy(self, request: Request) -> Response:
        vendor = self._market.stand(request.path_params["vendor"]).vendor
        wanted = await _body(request, PolicyBody)
        self._market.hooks.policies[vendor] = HookPolicy(wanted.muted, wanted.delay_ms)
        return JSONResponse(wanted.model_dump())


def _entry(entry: LedgerEntry) -> dict[str, str | int | None]:
    created: datetime = entry.created_at
    return {
        "object_id": entry.object_id,
        "operation": entry.operation,
        "idempotency_key": entry.idempotency_key,
        "wedding_id": entry.wedding_id,
        "step_id": entry.step_id,
        "amount_minor": entry.amount_minor,
        "currency": entry.currency,
        "state": entry.state,
        "created_at": created.isoformat(),
        "account": entry.account,
    }
