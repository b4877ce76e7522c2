"""Builds the REST API's application from its parts, and opens and closes what it uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import State
from temporalio.client import Client

from api import operations, v1, webhooks
from api.document import describe, operation_id
from api.v1.events import HEARTBEAT_SECONDS
from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.dispatch.weddings import TransactionDispatcher
from wedsync.http import problems
from wedsync.http.middleware import Authentication, BodyLimit, RequestIds
from wedsync.kit import telemetry, temporal
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import ClientProvider
from wedsync.runtime import open_runtime
from wedsync.store.db.listener import Notices
from wedsync.store.weddings.projection import EVENTS_CHANNEL
from wedsync.usecases.access.authenticate import KeyCache
from wedsync.usecases.proxy.forward import Gateway
from wedsync.usecases.weddings.read_transaction import temporal_links
from wedsync.vendors.registry import load_registry


def lazy_client(settings: Settings) -> ClientProvider:
    """Return the process's one Temporal client, which connects at its first call and again when it must."""
    lock = asyncio.Lock()
    made: list[Client] = []

    async def provide() -> Client:
        async with lock:
            if not made:
                made.append(await temporal.connect(settings, lazy=True, plugins=telemetry.temporal_plugins()))
        return made[0]

    return provide


@asynccontextmanager
async def _opened(state: State, settings: Settings, provide: ClientProvider) -> AsyncIterator[None]:
    """All that requests use, for as long as the block lasts."""
    calls = settings.api_calls_per_vendor
    async with open_runtime(settings, provide, most_in_flight=calls, registry=state.registry) as runtime:
        state.database, state.temporal, state.admission_controller = (
            runtime.database,
            provide,
            runtime.admission_controller,
        )
        state.outbox_dispatcher = runtime.outbox_dispatcher
        state.dispatcher, state.inbox_dispatcher = (
            TransactionDispatcher(runtime.database, provide),
            InboxDispatcher(provide),
        )
        state.notices = Notices(runtime.database, EVENTS_CHANNEL)
        state.notices.start()
        state.gateway = Gateway(runtime.gateway, runtime.admission_controller, runtime.database)
        try:
            yield
        finally:
            await state.notices.close()
            await state.dispatcher.close()
            await state.inbox_dispatcher.close()


def create_app(settings: Settings, client_provider: ClientProvider | None = None) -> FastAPI:
    """Build the application; it takes requests while Temporal is away, but not without its database."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _opened(app.state, settings, client_provider or lazy_client(settings)):
            yield

    app = FastAPI(
        title="wedsync",
        version="1",
        summary="Runs the third-party side of weddings durably.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        servers=[{"url": settings.api_url}],
        # Ours counts for less, and traces only what is pushed somewhere.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    state = app.state
    state.settings, state.registry, state.key_cache = settings, load_registry(), KeyCache()
    state.temporal_url = temporal_links(settings.temporal_ui_url, temporal.address_and_namespace()[1])
    state.heartbeat = HEARTBEAT_SECONDS
    # Routes are tried in this order; a source's events come in bursts.
    for router in (webhooks.router, operations.router, v1.router, v1.health_router):
        app.include_router(router)
    problems.install(app)
    describe(app)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, most_bytes=settings.request_max_bytes)
    app.add_middleware(Authentication)
    app.add_middleware(webhooks.WebhookFastPath)
    app.add_middleware(RequestIds)
    telemetry.instrument_app(app)
    return app
