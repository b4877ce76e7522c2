"""`/api/v1/webhook-sources`: registers the sources that post to us."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.ranges import read_range
from wedsync.domain.access.principal import Answer
from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.inbox.source import SourceAccount, SourceConfig
from wedsync.http.deps import Context, MustBeOnce, respond
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.store.inbox import sources as store
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.inbox import register
from wedsync.usecases.inbox.register import Clerk, SourceList, SourceView
from wedsync.usecases.inbox.sources import SERVICES
from wedsync.usecases.inbox.statistics import Statistics, read_statistics

router = APIRouter(prefix="/webhook-sources", tags=["webhooks"])

#: A registered source by its id or name, or a vendor's name.
SourceName = Annotated[str, Path(max_length=100, pattern=r"^[^\x00]+$")]
_SECRET = Field(default=None, min_length=8, max_length=4096, pattern=r"^[^\x00]+$")

_CREATED = {
    "weather": {
        "summary": "A weather service that signs with HMAC-SHA256",
        "value": {
            "name": "weather",
            "config": {
                "scheme": "hmac_sha256",
                "hmac": {"header": "X-Weather-Signature", "encoding": "base64"},
                "paths": {"id": "alert.id", "type": "alert.kind", "wedding": "alert.reference"},
                "priority": "high",
            },
        },
    }
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewSource(_Strict):
    """A source to register; without a secret it is given one."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    config: SourceConfig
    secret: Annotated[str | None, _SECRET] = None
    #: For `config.reconcile_every_minutes`: the organization's own account with the vendor. It is never shown.
    account: SourceAccount | None = None


class SourceChanges(_Strict):
    """Changes to a source: its state, fields of its configuration."""

    state: Literal["active", "paused"] | None = None
    config: dict[str, Any] = {}
    account: SourceAccount | None = None


class SourceSecretRotation(_Strict):
    """A new secret, given or made; older secrets stay valid for the overlap."""

    secret: Annotated[str | None, _SECRET] = None
    overlap_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


def _clerk(context: Context) -> Clerk:
    settings = context.state.settings
    return Clerk(
        principal=context.principal,
        now=utc_now(),
        api_url=settings.api_url,
        keyring=Keyring.parse(settings.codec_keys.get_secret_value()),
        registry=context.state.registry,
    )


def _without_secret(view: SourceView) -> Any:
    # What is remembered for a repeated request must not hold the secret in plain.
    return view.model_copy(update={"secret": None}).model_dump(mode="json")


@router.post("", status_code=201, response_model=SourceView, summary="Register a webhook source")
async def create_webhook_source(
    body: Annotated[NewSource, Body(openapi_examples=_CREATED)], context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Register a source; only this answer shows its secret, and a repeated request's answer does not."""
    clerk, made = _clerk(context), []

    async def action(conn: AsyncConnection) -> Answer:
        view = await register.register(
            conn,
            clerk,
            source_id=context.new_id(idempotency),
            name=body.name,
            config=body.config,
            secret=body.secret,
            account=body.account,
        )
        made.append(view)
        location = {"Location": f"/api/v1/webhook-sources/{view.id}"}
        return Answer(status=201, headers=location, body=_without_secret(view))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    shown = answer if is_replay else answer.model_copy(update={"body": made[-1].model_dump(mode="json")})
    return respond(shown, is_replay=is_replay)


@router.get("", summary="List webhook sources")
async def list_webhook_sources(context: Context) -> SourceList:
    """List the organization's sources by name."""
    async with context.db.tenant(context.organization_id) as conn:
        return await register.list_sources(conn, _clerk(context))


@router.get("/{source}", summary="Show a webhook source")
async def get_webhook_source(source: SourceName, context: Context) -> SourceView:
    """Show the source by its id or name."""
    async with context.db.tenant(context.organization_id) as conn:
        return await register.show_source(conn, _clerk(context), source)


@router.patch("/{source}", summary="Change, pause or resume a webhook source")
async def update_webhook_source(source: SourceName, body: SourceChanges, context: Context) -> SourceView:
    """Overwrite the named fields of the configuration; a paused source's messages are refused with 404."""
    try:
        async with context.db.tenant(context.organization_id) as conn:
            return await register.change(
                conn, _clerk(context), source, state=body.state, changes=body.config, account=body.account
            )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(("config", *(str(part) for part in first["loc"])))
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from None


@router.post("/{source}/rotate", status_code=201, response_model=SourceView, summary="Rotate a source's secret")
async def rotate_webhook_source_secret(
    source: SourceName, body: SourceSecretRotation, context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Add a secret; the older secrets stay valid for `overlap_seconds` more."""
    clerk, made = _clerk(context), []

    async def action(conn: AsyncConnection) -> Answer:
        overlap = timedelta(seconds=body.overlap_seconds)
        view = await register.rotate(conn, clerk, source, secret=body.secret, overlap=overlap)
        made.append(view)
        return Answer(status=201, body=_without_secret(view))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    shown = answer if is_replay else answer.model_copy(update={"body": made[-1].model_dump(mode="json")})
    return respond(shown, is_replay=is_replay)


@router.delete("/{source}", status_code=204, summary="Delete a webhook source")
async def delete_webhook_source(source: SourceName, context: Context) -> Response:
    """Forget the source and its secrets; the events that it sent stay."""
    async with context.db.tenant(context.organization_id) as conn:
        await register.delete(conn, _clerk(context), source)
    return Response(status_code=204)


@router.get("/{source}/statistics", summary="Show a source's statistics")
async def get_webhook_source_statistics(
    source: SourceName,
    context: Context,
    since: Annotated[AwareDatetime | None, Query(description="24 hours ago unless said otherwise.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Now unless said otherwise.")] = None,
    kind: Annotated[str | None, Query(alias="type", max_length=200, pattern=r"^[^\x00]*$")] = None,
) -> Statistics:
    """Count what was received, refused by reason, processed, retried and dead, and show seconds to processed.

    `source` is a registered source or a vendor's name. For a vendor the counts cover what it sent about the
    organization's weddings, and for the platform's operators everything that it sent.
    """
    begin, end = read_range(since, until, default=timedelta(days=1))
    async with context.db.tenant(context.organization_id) as conn:
        row = await store.find_source(conn, source)
        if row is not None:
            return await read_statistics(conn, row.id, row.name, begin, end, kind)
        if context.state.registry.webhook(source) is None and source not in SERVICES:
            raise NotFound("no such webhook source")
        if not context.state.settings.is_operator(context.organization_id):
            return await read_statistics(conn, source, source, begin, end, kind)
    async with context.db.system() as conn:
        return await read_statistics(conn, source, source, begin, end, kind)
