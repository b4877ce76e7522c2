"""Probe a vendor's health by its health check, through the same pool as every call."""

from __future__ import annotations

import asyncio
import time

import structlog

from wedsync.domain.errors import InvalidInput, VendorError, WedsyncError
from wedsync.domain.health.status import ProbeResult
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.vendor_config import HealthCheck, ServiceConfig
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db import alive
from wedsync.vendors.registry import vendor_probe

log = structlog.get_logger(__name__)

_NOT_EXPECTED = "an answer that is not expected"


async def probe(gateway: VendorGateway, config: ServiceConfig, endpoint: Endpoint) -> ProbeResult:
    """Probe an endpoint once, within the check's timeout. Never raises: the result says what went wrong."""
    seconds, started = config.health.timeout_seconds, time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            detail = await _probe_by_kind(gateway, config, endpoint)
    except WedsyncError as error:
        detail = error.detail or error.code
    except TimeoutError:
        detail = f"no answer within {seconds:g} s"
    except Exception as error:
        # A vendor's own probe may have any fault: that is no reason to stop watching the others.
        log.exception("probe.broken", service=config.service)
        detail = f"the probe is broken ({type(error).__name__})"
    return ProbeResult(ok=not detail, response_ms=round((time.perf_counter() - started) * 1000, 3), detail=detail[:300])


async def _probe_by_kind(gateway: VendorGateway, config: ServiceConfig, endpoint: Endpoint) -> str:
    """Return what is wrong; empty: nothing. Raises WedsyncError, which says the same."""
    check = config.health
    if check.kind == "database":
        return await _probe_database(gateway, check)
    http = gateway.transport_to(config.service, endpoint, check.timeout_seconds)
    if check.kind == "http":
        return await _probe_http(http, check)
    account = gateway.account(config.service, PLATFORM_ACCOUNT)
    if check.kind == "oauth":
        return await _probe_oauth(http, check, account)
    probe_vendor = vendor_probe(config.service)
    if probe_vendor is None:
        raise InvalidInput(f"{config.service} has no probe of its own", reason="no_probe")
    await probe_vendor(http, account.model_copy(update={"base_url": http.base_url}))
    return ""


async def _probe_http(http: VendorHttp, check: HealthCheck, headers: dict[str, str] | None = None) -> str:
    try:
        status = (await http.request("GET", check.url, headers=headers)).status
    except VendorError as error:
        if error.status is None:
            raise
        is_refused = headers is not None and not check.expected_statuses and error.status in (401, 403)
        return error.detail if is_refused or not check.accepts(error.status) else ""
    return "" if check.accepts(status) else _NOT_EXPECTED


async def _probe_oauth(http: VendorHttp, check: HealthCheck, account: Account) -> str:
    """Get a token by client credentials (RFC 6749, sections 2.3.1 and 4.4), and make one request that it authorizes."""
    form = [("grant_type", "client_credentials"), *([("scope", check.scope)] if check.scope else [])]
    answer = await http.request(
        "POST", check.token_url, write=False, form=form, auth=(account.client_id, account.client_secret)
    )
    document = answer.json()
    token = document.get("access_token") if isinstance(document, dict) else None
    if not isinstance(token, str) or not token:
        return "the token endpoint gave no token"
    return await _probe_http(http, check, {"Authorization": f"Bearer {token}"})


async def _probe_database(gateway: VendorGateway, check: HealthCheck) -> str:
    if check.database:
        await alive.probe(gateway.probe_database_url(check.database), check.timeout_seconds)
    elif gateway.admission_controller is not None:
        async with gateway.admission_controller.breakers.db.system() as conn:
            await alive.probe_within(conn)
    return ""
