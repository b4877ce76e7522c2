"""Serves health, readiness, metrics, and the codec of Temporal's UI and CLI, outside `/api/v1`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from temporalio.service import RPCError

from wedsync.domain.access.principal import Permission
from wedsync.domain.errors import InvalidInput, StoreUnavailable, TemporalUnreachable, WedsyncError
from wedsync.http.deps import require
from wedsync.http.middleware import principal_of
from wedsync.http.problems import problem, request_id_of
from wedsync.kit import telemetry
from wedsync.kit.codec import decode_payloads_json
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import payload_codec
from wedsync.store.db import migrate
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_wedding import View

router = APIRouter()
_PROBE_SECONDS = 2.0


class Health(View):
    """Says that the process answers."""

    status: Literal["ok"] = "ok"


class Readiness(View):
    """Tells whether requests can be taken. They can while Temporal is away: they are dispatched to it later."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = "ok"
    temporal: Literal["ok", "unreachable"]


class Payload(View):
    """One value as Temporal holds it; its data in base64."""

    metadata: dict[str, str] = {}
    data: str = ""


class Payloads(View):
    """Decoded payloads, in the order in which they came."""

    payloads: tuple[Payload, ...]


@router.get("/healthz", tags=["operations"], summary="Whether the process answers")
async def check_liveness() -> Health:
    """Answer 200 while the process runs."""
    return Health()


@router.get("/readyz", tags=["operations"], response_model=Readiness, summary="Whether requests can be taken")
async def check_readiness(request: Request) -> Response:
    """Answer 200 when the database is there and migrated; report Temporal's state too."""
    why, temporal = await asyncio.gather(_database_fault(request), _temporal_state(request))
    if why is not None:
        detail = f"database: {why}; temporal: {temporal}"
        return problem("not_ready", detail, request_id=request_id_of(request))
    return JSONResponse(Readiness(temporal=temporal).model_dump())


async def _database_fault(request: Request) -> str | None:
    try:
        async with asyncio.timeout(_PROBE_SECONDS), request.app.state.database.system() as conn:
            revision = await store.read_revision(conn)
    except (StoreUnavailable, TimeoutError):
        return "unreachable"
    except Exception:  # noqa: BLE001 - a database that is not migrated has neither our roles nor our tables
        return "not migrated"
    newest = migrate.newest()
    return None if revision == newest else f"at migration {revision}, not {newest}"


async def _temporal_state(request: Request) -> Literal["ok", "unreachable"]:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            client = await request.app.state.temporal()
            await client.service_client.check_health(timeout=timedelta(seconds=_PROBE_SECONDS))
    except (RPCError, RuntimeError, TimeoutError, TemporalUnreachable):
        return "unreachable"
    return "ok"


@router.get("/metrics", tags=["operations"], response_class=Response, summary="Metrics in Prometheus' text format")
async def get_metrics() -> Response:
    """Show this process's metrics."""
    return Response(telemetry.metrics_text(), headers={"Content-Type": telemetry.METRICS_CONTENT_TYPE})


def allowed_origins(settings: Settings) -> set[str]:
    """Return the browser origins that may ask the codec."""
    named = [*settings.codec_origins.split(","), settings.temporal_ui_url]
    return {origin.strip().rstrip("/") for origin in named if origin.strip()}


async def cors_headers(request: Request) -> dict[str, str]:
    """Return the headers that let the Temporal UI, and no other page, read the answer."""
    origin = request.headers.get("origin", "")
    if origin not in allowed_origins(request.app.state.settings):
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "POST, OPTIONS",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Namespace",
        "Access-Control-Max-Age": "600",
    }


Cors = Annotated[dict[str, str], Depends(cors_headers)]


@router.options("/codec/decode", include_in_schema=False)
async def preflight(cors: Cors) -> Response:
    """Answer the browser's preflight request."""
    return Response(status_code=204, headers=cors)


@router.post(
    "/codec/decode",
    tags=["operations"],
    response_model=Payloads,
    summary="Decode Temporal's payloads",
)
async def decode_payloads(request: Request, cors: Cors) -> Response:
    """Decode payloads by Temporal's remote codec protocol (https://docs.temporal.io/codec-server), for operators.

    One key seals every organization's payloads, so an operator's API key is needed; in the local environment the
    Temporal UI's own pages need none.
    """
    state = request.app.state
    is_own_page = state.settings.is_local and "Access-Control-Allow-Origin" in cors
    try:
        if not is_own_page:
            principal = await principal_of(request)
            require(state.settings, principal, Permission.OPERATE_PLATFORM)
        body = await decode_payloads_json(payload_codec(state.settings), await request.body())
    except WedsyncError as error:
        from wedsync.http.problems import of_error

        error = InvalidInput("the payloads can't be decoded", field="payloads") if error.reason == "tampered" else error
        refusal = of_error(error, request_id_of(request))
        refusal.headers.update(cors)
        return refusal
    return Response(body, headers={**cors, "Content-Type": "application/json", "Cache-Control": "no-store"})
