"""Answers every refusal as problem details (RFC 9457), with a stable code; `docs/errors.md` lists them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from wedsync.domain.errors import WEDDING_OVER, InvalidInput, WedsyncError
from wedsync.usecases.plans.validate import InvalidPlan

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """Meaning of a code, to HTTP and to people."""

    status: int
    title: str


#: Every code that this API answers with.
KINDS: dict[str, Kind] = {
    "already_orchestrated": Kind(409, "The wedding is orchestrated already"),
    "already_undone": Kind(409, "The transaction is undone already"),
    "conflict": Kind(409, "The object's state does not allow it now"),
    "content_too_large": Kind(413, "The body is too large"),
    "answer_too_large": Kind(502, "The vendor's answer is too large"),
    "at_capacity": Kind(503, "Too many requests to the vendor are under way"),
    "circuit_open": Kind(503, "The vendor is cut off for now"),
    "forbidden": Kind(403, "The key does not allow that"),
    "gateway_forbidden": Kind(403, "The gateway does not let this through"),
    "gateway_path_invalid": Kind(400, "The path can't be passed on"),
    "idempotency_in_flight": Kind(409, "The same request is being answered"),
    "idempotency_key_invalid": Kind(400, "The Idempotency-Key is not valid"),
    "idempotency_key_missing": Kind(400, "An Idempotency-Key is needed"),
    "idempotency_key_reused": Kind(422, "The Idempotency-Key came before with another request"),
    "internal": Kind(500, "Something went wrong here"),
    "invalid_cursor": Kind(400, "The cursor is not one that a list gave"),
    "invalid_input": Kind(422, "The request is not valid"),
    "invalid_plan": Kind(422, "The plan can't be run"),
    "no_answer": Kind(502, "The vendor gave no answer"),
    "no_limits": Kind(409, "There is no limit to reserve of"),
    "quota_full": Kind(409, "Too much of the quota would be reserved"),
    "last_provider": Kind(409, "Nobody is left who could do its work"),
    "link_expired": Kind(410, "The link has expired"),
    "link_invalid": Kind(404, "The link is not valid"),
    "malformed_body": Kind(400, "The body can't be read"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "migration_ended": Kind(409, "The migration has ended"),
    "migration_running": Kind(409, "The service is being migrated already"),
    "not_failed_over": Kind(409, "The service is not failed over"),
    "not_found": Kind(404, "No such object"),
    "not_operator": Kind(403, "Only an operator of the platform may do that"),
    "not_ready": Kind(503, "The service is not ready"),
    "not_started": Kind(409, "Nothing was asked of the wedding yet"),
    "not_undoable": Kind(409, "The transaction can't be undone"),
    "nothing_asked": Kind(409, "This is not asked, or not any more"),
    "rate_limited": Kind(429, "Too many requests"),
    "reference_taken": Kind(409, "A wedding with this plan's id stands already"),
    "request_timeout": Kind(408, "The request did not come in time"),
    "result_needed": Kind(409, "A later step needs this step's result"),
    "step_not_held": Kind(409, "The step waits for no decision"),
    "store_unavailable": Kind(503, "The database cannot be reached"),
    "subscription_disabled": Kind(409, "The subscription is disabled"),
    "subscription_stopped": Kind(409, "The subscription is paused or disabled"),
    "temporal_unreachable": Kind(503, "Temporal cannot be reached"),
    "throttled_until": Kind(429, "Nothing is left of the vendor's quota"),
    "timed_out": Kind(504, "The vendor gave no answer in time"),
    "too_many_channels": Kind(409, "There are too many notification channels"),
    "too_many_subscriptions": Kind(409, "There are too many subscriptions"),
    "transaction_running": Kind(409, "A transaction is running that this would touch"),
    "unauthenticated": Kind(401, "An API key is needed"),
    "unknown_event_type": Kind(422, "There is no such type of event"),
    "unknown_version": Kind(422, "The service has no such version"),
    "unreachable": Kind(502, "The vendor can't be reached"),
    "unsupported_media_type": Kind(415, "The body's media type is not taken here"),
    "url_forbidden": Kind(422, "We do not send to that URL"),
    "url_unresolvable": Kind(422, "The URL's host has no address"),
    "webhook_address": Kind(403, "The webhook came from an address that its source does not name"),
    "webhook_name_taken": Kind(409, "A webhook source of this name is registered already"),
    "webhook_signature": Kind(401, "The webhook's signature is not valid"),
    "version_in_use": Kind(409, "The service is at that version already"),
    "version_not_for_weddings": Kind(409, "The version is not for weddings"),
    "version_sunset": Kind(409, "The version is past its sunset"),
    "vendor_not_authorized": Kind(502, "The vendor does not take the platform's credential"),
    WEDDING_OVER: Kind(409, "The wedding is over"),
}
#: What only requests that are passed on to vendors are answered with.
GATEWAY_ONLY = frozenset((
    "answer_too_large", "at_capacity", "circuit_open", "gateway_forbidden", "gateway_path_invalid", "no_answer",
    "request_timeout", "throttled_until", "timed_out", "unreachable", "vendor_not_authorized",
))  # fmt: skip
_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "content_too_large", 415: "unsupported_media_type"}
#: May be tried again after so long.
_RETRY_AFTER = {"idempotency_in_flight": "1", "store_unavailable": "5", "temporal_unreachable": "5"}


class Fault(BaseModel):
    """One thing that is wrong with the request, and where."""

    model_config = ConfigDict(frozen=True)
    #: Of a plan: the file it came from, if any.
    file: str = ""
    #: 1-based; 0: unknown.
    line: int = 0
    #: Dotted path.
    field: str
    code: str
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(frozen=True)
    #: `urn:wedsync:error:{code}`
    type: str
    title: str
    status: int
    detail: str
    code: str
    #: `urn:wedsync:request:{X-Request-Id}`
    instance: str
    errors: tuple[Fault, ...] = ()


def problem(
    code: str,
    detail: str,
    *,
    request_id: str,
    errors: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Build the response for one of KINDS."""
    kind = KINDS[code]
    content = Problem(
        type=f"urn:wedsync:error:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        instance=f"urn:wedsync:request:{request_id}",
        errors=tuple(errors),
    )
    sent = {"Cache-Control": "no-store", **(headers or {})}
    if code in _RETRY_AFTER:
        sent["Retry-After"] = _RETRY_AFTER[code]
    if kind.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content.model_dump(mode="json"), kind.status, sent, MEDIA_TYPE)


def of_error(error: WedsyncError, request_id: str) -> JSONResponse:
    """Build the response for an error of the family; an error without a code here is `internal` and says nothing."""
    code = error.reason if error.reason in KINDS else error.code
    if code not in KINDS:
        return problem("internal", "an unexpected error; it was logged", request_id=request_id)
    errors: list[Fault] = []
    if isinstance(error, InvalidPlan):
        errors = [Fault(**item.model_dump()) for item in error.errors]
    elif isinstance(error, InvalidInput):
        errors = [Fault(field=error.field, code=error.reason or error.code, detail=error.detail)]
    return problem(code or "internal", error.detail, request_id=request_id, errors=errors)


def request_id_of(request: Request) -> str:
    """Return the id of the request, as its middleware set it."""
    return str(getattr(request.state, "request_id", ""))


def install(app: FastAPI) -> None:
    """Answer every refusal of the app by problem details."""
    app.add_exception_handler(WedsyncError, _on_wedsync_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_wedsync_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WedsyncError)  # noqa: S101 - registered for these only
    return of_error(error, request_id_of(request))


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these only
    code = _BY_STATUS.get(error.status_code, "malformed_body" if error.status_code < 500 else "internal")
    return problem(
        code, KINDS[code].title, request_id=request_id_of(request), headers=dict(error.headers) if error.headers else {}
    )


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for these only
    errors = [_fault(item) for item in error.errors()]
    code = _code_of(error.errors())
    detail = "; ".join(f"{fault.field}: {fault.detail}" if fault.field else fault.detail for fault in errors[:3])
    return problem(code, detail, request_id=request_id_of(request), errors=errors)


def _code_of(items: Sequence[Mapping[str, Any]]) -> str:
    for item in items:
        if tuple(item["loc"])[:2] == ("header", "Idempotency-Key"):
            return "idempotency_key_missing" if item["type"] == "missing" else "idempotency_key_invalid"
    if any(item["type"] == "json_invalid" for item in items):
        return "malformed_body"
    return "invalid_input"


def _fault(item: Mapping[str, Any]) -> Fault:
    where, *path = item["loc"]
    if item["type"] == "json_invalid":
        return Fault(field="", code="syntax", detail="not JSON")
    field = ".".join(str(part) for part in path) or str(where)
    # Pydantic's message names the rule, never the value that was given.
    return Fault(field=field, code=str(item["type"]), detail=str(item["msg"]))
