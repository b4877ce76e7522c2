"""Holds the vendors' stand-ins, each built when first asked for, with its desk and its log."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field

from wedsync.domain.errors import NotFound
from wedsync.kit.settings import Settings, local_webhook_secret
from wedsync.kit.standin import FakeContext, StandIn
from wedsync.sandbox.clock import MovableClock
from wedsync.sandbox.faults import FaultStore
from wedsync.sandbox.hooks import HookSender
from wedsync.sandbox.record import RequestLog
from wedsync.vendors.registry import Registry


@dataclass
class Stand:
    """One vendor in the sandbox."""

    vendor: str
    context: FakeContext
    standin: StandIn
    log: RequestLog = field(default_factory=RequestLog)


class Market:
    """Everything that the sandbox holds, apart from HTTP."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.clock = MovableClock()
        self.faults = FaultStore()
        self.hooks = HookSender()
        self.vendors = tuple(
            name
            for name in registry.manifests
            if importlib.util.find_spec(f"wedsync.vendors.{name}.sandbox") is not None
        )
        self._stands: dict[str, Stand] = {}

    def stand(self, vendor: str) -> Stand:
        """Return the stand of `vendor`; raises NotFound."""
        stand = self._stands.get(vendor)
        if stand is None:
            if vendor not in self.vendors:
                raise NotFound(f"the sandbox has no vendor {vendor!r}")
            stand = self._stands[vendor] = self._build(vendor)
        return stand

    def build_all(self) -> None:
        """Build every stand now, so that a broken one is noticed at the start."""
        for vendor in self.vendors:
            self.stand(vendor)

    def _build(self, vendor: str) -> Stand:
        def send(url: str, headers: dict[str, str], body: bytes, delay_seconds: float) -> None:
            self.hooks.send(vendor, url, headers, body, delay_seconds)

        secrets = self.settings.vendor_webhook_secrets(vendor)
        context = FakeContext(
            vendor=vendor,
            now=self.clock.now,
            send=send,
            webhook_url=f"{self.settings.api_url.rstrip('/')}/api/integrations/webhooks/{vendor}",
            webhook_secret=secrets[0] if secrets else local_webhook_secret(vendor),
            webhook_delay_seconds=self.settings.sandbox_webhook_delay_ms / 1000,
        )
        module = importlib.import_module(f"wedsync.vendors.{vendor}.sandbox")
        standin: StandIn = module.build(context)
        return Stand(vendor, context, standin)

    async def reset(self) -> None:
        """Put everything back to the start: no faults, no state, no webhooks to come, no log, the wall clock's time."""
        self.faults.clear()
        self.clock.reset()
        await self.hooks.reset()
        self._stands.clear()
