"""Ask a service whether it is well: its health check, through the same pool as every call."""

from __future__ import annotations

import time

from wedsync.domain.errors import VendorError, WedsyncError
from wedsync.domain.health.status import Look
from wedsync.domain.routing.services import ServiceConfig
from wedsync.domain.routing.strategy import Endpoint
from wedsync.usecases.routing.call_vendor import VendorGateway


async def probe(gateway: VendorGateway, config: ServiceConfig, endpoint: Endpoint) -> Look:
    """One look at an endpoint. Never raises: what went wrong is what the look says."""
    http = gateway.transport_to(config.service, endpoint, config.health.timeout_seconds)
    started = time.perf_counter()
    detail = ""
    try:
        ok = config.health.accepts((await http.request("GET", config.health.url)).status)
        detail = "" if ok else "an answer that is not expected"
    except VendorError as error:
        ok = error.status is not None and config.health.accepts(error.status)
        detail = "" if ok else error.detail
    except WedsyncError as error:
        ok, detail = False, error.detail
    return Look(ok=ok, response_ms=round((time.perf_counter() - started) * 1000, 3), detail=detail[:300])
