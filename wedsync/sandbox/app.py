"""Runs the vendor sandbox: every vendor's stand-in behind one loopback server, with faults and a movable clock."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from wedsync.domain.errors import InvalidInput
from wedsync.kit.settings import Settings
from wedsync.sandbox import admin
from wedsync.sandbox.fault_middleware import FaultMiddleware
from wedsync.sandbox.stand import Market
from wedsync.vendors.registry import Registry, load_registry

HOST = "127.0.0.1"


def create_app(settings: Settings, registry: Registry | None = None) -> Starlette:
    """Build the sandbox as an ASGI application; `app.state.market` is what it holds.

    Raises InvalidInput outside WEDSYNC_ENVIRONMENT=local.
    """
    if not settings.is_local:
        raise InvalidInput("the sandbox runs only with WEDSYNC_ENVIRONMENT=local", field="WEDSYNC_ENVIRONMENT")
    market = Market(settings, registry or load_registry())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await market.hooks.close()

    app = Starlette(routes=[*admin.routes(market), Mount("/", app=FaultMiddleware(market))], lifespan=lifespan)
    app.state.market = market
    return app


def new_server(app: Starlette, *, backlog: int = 2048) -> uvicorn.Server:
    """Make a server for the sandbox, quiet but for faults of its own."""
    _hush_drops()
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=HOST,
            log_config=None,
            access_log=False,
            backlog=backlog,
            lifespan="on",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
        )
    )


def listen(port: int) -> socket.socket:
    """Bind a socket to `port` of the loopback interface; 0: any that is free. Raises OSError when it is taken."""
    # The protocol by name: the event loop sets TCP_NODELAY only then, and without it each answer waits 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        raise
    return bound


async def serve(settings: Settings, *, port: int, ready: Callable[[int], None]) -> None:
    """Serve until stopped (SIGINT, SIGTERM, cancellation); `ready(port)` is called once requests are taken.

    Raises InvalidInput outside the local environment, OSError when the port is taken.
    """
    app = create_app(settings)
    app.state.market.build_all()
    bound = listen(port)
    bound.listen(2048)
    server = new_server(app)
    # From here on the kernel queues connections, so a caller may connect at once.
    ready(bound.getsockname()[1])
    try:
        await server.serve(sockets=[bound])
    finally:
        bound.close()


class _DropFilter(logging.Filter):
    """Keeps the server from reporting the connections that faults drop on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()


def _hush_drops() -> None:
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(one, _DropFilter) for one in logger.filters):
        logger.addFilter(_DropFilter())
