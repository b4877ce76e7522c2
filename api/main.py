"""Runs the API as a program."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import uvicorn

from api.app import create_app
from wedsync.kit.memory import freeze_memory
from wedsync.kit.settings import Settings


class _Server(uvicorn.Server):
    """Server that ends the streams and the waiting requests first, so that the others can be finished."""

    #: Called with the URL once requests are taken.
    ready: Callable[[str], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        freeze_memory()
        if self.started and self.ready is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.loaded_app
        while not hasattr(app, "state") and hasattr(app, "app"):
            app = app.app
        app.state.notices.release()
        await super().shutdown(sockets)


async def serve(settings: Settings, ready: Callable[[str], None] | None = None) -> None:
    """Serve on `settings.api_host` and `settings.api_port` until SIGINT or SIGTERM; finish what was begun.

    `ready` is called with the URL once requests are taken. Raises SystemExit when it can't start; its log says why.
    """
    config = uvicorn.Config(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.graceful_shutdown_seconds),
    )
    server = _Server(config)
    server.ready = ready
    await server.serve()
