"""Dependencies of endpoints: who asks, the process's parts, the identity of a request."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer, Once, Permission, Principal, id_from_key, once
from wedsync.domain.errors import Forbidden
from wedsync.domain.vendors.manifest import Manifest
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.kit.settings import Settings
from wedsync.kit.telemetry import traceparent
from wedsync.store.db.session import Database
from wedsync.usecases.access.answer_once import answer_once, finish
from wedsync.usecases.weddings.follow_events import until_settled
from wedsync.usecases.weddings.read_transaction import TransactionView
from wedsync.usecases.weddings.request_transaction import RequestedBy

#: Seconds, 30 at the most.
_WAIT = r"^([0-9]|[12][0-9]|30)s?$"
#: A waiting request counts as in flight for so much longer, should its process die.
_WAIT_GRACE = timedelta(seconds=5)

_REFUSALS = {Permission.OPERATE_PLATFORM: ("only an operator of the platform may do that", "not_operator")}

RecordChange = Callable[[AsyncConnection, RequestedBy], Awaitable[TransactionView]]

# The guard has checked the key; this is only for readers of the OpenAPI file.
_bearer = HTTPBearer(auto_error=False, description="An API key of the organization.")


def require(settings: Settings, principal: Principal, permission: Permission) -> None:
    """Raise Forbidden unless the principal has the permission."""
    # There is one so far: its holders are named in the settings.
    if not settings.is_operator(principal.organization_id):
        detail, reason = _REFUSALS[permission]
        raise Forbidden(detail, reason=reason)


class RequestContext:
    """Context of one guarded request: gives it everything it needs."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.state: Any = request.app.state
        self.principal: Principal = request.state.principal
        self.db: Database = self.state.database

    @property
    def organization_id(self) -> str:
        """Return the organization whose data the request is about."""
        return self.principal.organization_id

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Return the manifests of the installed vendors."""
        found: dict[str, Manifest] = self.state.registry.manifests
        return found

    def require(self, permission: Permission) -> None:
        """Raise Forbidden unless the request's key has the permission."""
        require(self.state.settings, self.principal, permission)

    def new_id(self, idempotency: Once | None) -> str:
        """Return the id of what the request makes; its tail is the same whenever the same request comes."""
        return id_from_key(self.organization_id, idempotency.key, utc_now()) if idempotency else new_id()

    def requested_by(self, idempotency: Once | None) -> RequestedBy:
        """Return the request as use cases take it."""
        return RequestedBy(
            principal=self.principal,
            transaction_id=self.new_id(idempotency),
            now=utc_now(),
            manifests=self.manifests,
            temporal_url=self.state.temporal_url,
            traceparent=traceparent(self.request.headers.get("traceparent")),
        )


async def get_context(request: Request) -> RequestContext:
    """Return the request's desk; async like all of these, for FastAPI gives each plain function a thread."""
    return RequestContext(request)


async def get_once(
    request: Request,
    key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Makes a repeated request the same request: its first answer is replayed.",
            examples=["2f4c1c5e-orchestrate"],
        ),
    ],
) -> Once:
    """Return the identity of a request that must have one."""
    return once(key, request.method, request.url.path, await request.body())


async def get_once_or_none(
    request: Request,
    key: Annotated[
        str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")
    ] = None,
) -> Once | None:
    """Return the identity of a request that may have one."""
    return once(key, request.method, request.url.path, await request.body()) if key is not None else None


async def get_wait(
    wait: Annotated[
        str | None,
        Query(
            pattern=_WAIT, description="Answer once it has settled, or after so long, at most `30s`.", examples=["30s"]
        ),
    ] = None,
) -> timedelta:
    """Return how long the caller wants to wait for the outcome."""
    return timedelta(seconds=int(re.sub("s$", "", wait))) if wait else timedelta()


def Authorized(permission: Permission) -> Any:
    """Give an endpoint its desk if the request's key has the permission; else answer 403."""

    async def authorize(context: Annotated[RequestContext, Depends(get_context)]) -> RequestContext:
        context.require(permission)
        return context

    return Depends(authorize)


Context = Annotated[RequestContext, Depends(get_context)]
MustBeOnce = Annotated[Once, Depends(get_once)]
MayBeOnce = Annotated[Once | None, Depends(get_once_or_none)]
#: For what is the platform's own.
OnOperatorsDesk = Annotated[RequestContext, Authorized(Permission.OPERATE_PLATFORM)]
Wait = Annotated[timedelta, Depends(get_wait)]
authenticated = [Depends(_bearer)]


def respond(answer: Answer, *, is_replay: bool = False) -> JSONResponse:
    """Build the response of an answer."""
    headers = {**answer.headers, "Cache-Control": "no-store"}
    if is_replay:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(answer.body, answer.status, headers)


def accepted(view: TransactionView) -> Answer:
    """Answer 202 with the transaction as it stands."""
    location = f"/api/v1/weddings/{view.wedding_id}/transactions/{view.id}"
    return Answer(status=202, headers={"Location": location}, body=view.model_dump(mode="json"))


async def accept(
    context: RequestContext, idempotency: Once | None, record: RecordChange, wait: timedelta = timedelta()
) -> JSONResponse:
    """Record a change once, dispatch it to the wedding, and answer 202; with `wait` not before it has settled."""
    requested_by, found = context.requested_by(idempotency), []

    async def action(conn: AsyncConnection) -> Answer:
        found.append(await record(conn, requested_by))
        return accepted(found[-1])

    if idempotency is None:
        async with context.db.tenant(context.organization_id) as conn:
            answer, is_replay = await action(conn), False
    else:
        held = wait + _WAIT_GRACE if wait else wait
        answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action, wait=held)
    if is_replay:
        return respond(answer, is_replay=True)
    (view,) = found
    context.state.dispatcher.soon(context.organization_id, view.wedding_id, view.id)
    if wait:
        seconds = wait.total_seconds()
        url = requested_by.temporal_url
        view = await until_settled(
            context.db, context.state.notices, context.organization_id, view, url, seconds=seconds
        )
        answer = accepted(view)
        if idempotency is not None:
            await finish(context.db, context.organization_id, idempotency.key, answer)
    return respond(answer)
