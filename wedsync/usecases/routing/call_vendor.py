"""The one way out to vendors: credential, pool, classification, record.

Every third-party call of the product passes through `VendorGateway`. It decides nothing about who is called: that
stands in history before (see `bind_step`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

import structlog
from opentelemetry import trace

from wedsync.domain.errors import InvalidInput, VendorError
from wedsync.domain.routing.vendor import Call, Effect, Manifest
from wedsync.kit import telemetry
from wedsync.kit.http import VendorHttp
from wedsync.kit.settings import Settings
from wedsync.kit.standin import STEP_HEADER, WEDDING_HEADER
from wedsync.kit.vendor import Account, VendorClient
from wedsync.usecases.routing.registry import Registry

log = structlog.get_logger(__name__)

T = TypeVar("T")

Ask = Literal["send", "find", "look"]


class VendorGateway:
    """Sends calls to vendors through the process's shared pool."""

    def __init__(self, settings: Settings, registry: Registry, pool: Any) -> None:
        self._settings = settings
        self._registry = registry
        self._pool = pool

    def manifest(self, vendor: str) -> Manifest:
        """The vendor's manifest; raises InvalidInput for a vendor that is not installed."""
        try:
            return self._registry.manifests[vendor]
        except KeyError:
            raise InvalidInput(f"no vendor is called {vendor!r}", reason="unknown_vendor") from None

    def account(self, vendor: str, name: str) -> Account:
        """The credential and address of one of the platform's accounts."""
        manifest = self.manifest(vendor)
        given = self._settings.vendor(vendor)
        return Account(
            vendor=vendor,
            name=name,
            base_url=given.base_url or manifest.base_url,
            api_key=given.api_key.get_secret_value(),
            account_id=given.account_id,
            client_id=given.client_id,
            client_secret=given.client_secret.get_secret_value(),
            webhook_secrets=self._settings.vendor_webhook_secrets(vendor),
            webhook_url=f"{self._settings.api_url.rstrip('/')}/api/integrations/webhooks/{vendor}",
        )

    async def send(self, call: Call) -> Effect:
        """Carry out the call: at most one write. Raises the vendor errors of `wedsync.domain.errors`."""
        return await self._observed("send", call, lambda client: client.send(call))

    async def find(self, call: Call) -> Effect | None:
        """Whether an earlier attempt of the call took effect; None: it is not there."""
        return await self._observed("find", call, lambda client: client.find(call))

    async def look(self, call: Call) -> Effect:
        """The present state of what the step did."""
        return await self._observed("look", call, lambda client: client.look(call))

    def http(self, vendor: str, account: str = "default", headers: Mapping[str, str] | None = None) -> VendorHttp:
        """The transport to one account; raises InvalidInput for a vendor that is not installed."""
        manifest = self.manifest(vendor)
        return VendorHttp(
            self._pool,
            vendor=vendor,
            base_url=self.account(vendor, account).base_url,
            timeout_seconds=manifest.timeout_seconds,
            headers=headers,
            unavailable_means_not_processed=manifest.unavailable_means_not_processed,
        )

    def _client(self, call: Call) -> VendorClient:
        # Only the local stand-ins learn whom a call is for: a real vendor has no business knowing.
        told = {WEDDING_HEADER: call.wedding_id, STEP_HEADER: call.step_id} if self._settings.is_local else {}
        http = self.http(call.vendor, call.account, told)
        return self._registry.client_class(call.vendor)(http, self.account(call.vendor, call.account))

    async def _observed(self, ask: Ask, call: Call, deed: Callable[[VendorClient], Awaitable[T]]) -> T:
        started = time.perf_counter()
        outcome = "ok"
        name = f"{call.vendor} {call.operation}"
        with telemetry.tracer().start_as_current_span(name, kind=trace.SpanKind.CLIENT) as span:
            span.set_attributes(
                {"vendor": call.vendor, "operation": call.operation, "ask": ask, "wedding.id": call.wedding_id}
            )
            try:
                return await deed(self._client(call))
            except VendorError as error:
                outcome = error.code
                span.set_attribute("error.type", error.code)
                raise
            finally:
                seconds = time.perf_counter() - started
                telemetry.record_vendor_call(call.vendor, call.operation, outcome, seconds)
                log.info(
                    "vendor.call",
                    vendor=call.vendor,
                    operation=call.operation,
                    ask=ask,
                    outcome=outcome,
                    milliseconds=round(seconds * 1000, 1),
                    wedding_id=call.wedding_id,
                    transaction_id=call.transaction_id,
                    step_id=call.step_id,
                )
