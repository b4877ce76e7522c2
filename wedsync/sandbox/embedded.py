"""Runs a sandbox inside this process, on a thread of its own: for tests and benchmarks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import JsonValue

from wedsync.domain.errors import Conflict
from wedsync.kit.http import VendorHttp, new_pool
from wedsync.kit.settings import Settings
from wedsync.kit.standin import STEP_HEADER, WEDDING_HEADER
from wedsync.kit.vendor import Account, VendorClient
from wedsync.sandbox.app import create_app, listen, new_server
from wedsync.vendors.registry import Registry, load_registry

_START_SECONDS = 20.0


class EmbeddedSandbox:
    """A running sandbox; `with EmbeddedSandbox(settings) as sandbox: sandbox.base_url`.

    The asynchronous helpers speak its HTTP interface and belong to the event loop that first uses them.
    """

    def __init__(self, settings: Settings | None = None, registry: Registry | None = None) -> None:
        self.settings = settings or Settings()
        self.registry = registry or load_registry()
        self._bound = listen(0)
        self._server = new_server(create_app(self.settings, self.registry))
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self.pool = new_pool()
        self._http = VendorHttp(self.pool, vendor="sandbox", base_url=self.base_url, timeout_seconds=10)

    @property
    def base_url(self) -> str:
        """Return `http://127.0.0.1:{port}`."""
        host, port = self._bound.getsockname()
        return f"http://{host}:{port}"

    def vendor_url(self, vendor: str, region: str = "") -> str:
        """Return the base URL of `vendor`'s stand-in, in one of its regions."""
        return f"{self.base_url}/{vendor}" + (f"@{region}" if region else "")

    def __enter__(self) -> Self:
        self._bound.listen(2048)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_SECONDS * 100)):
            if self._server.started:
                return self
            if not self._thread.is_alive():
                break
            waited.wait(0.01)
        raise Conflict("the sandbox did not start")

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        self._bound.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._bound]))

    def http(
        self, vendor: str, *, wedding_id: str = "wedding-1", step_id: str = "step-1", timeout_seconds: float = 0
    ) -> VendorHttp:
        """Make the transport to `vendor`'s stand-in, with the headers by which the sandbox knows weddings and steps."""
        manifest = self.registry.manifest(vendor)
        return VendorHttp(
            self.pool,
            vendor=vendor,
            base_url=self.vendor_url(vendor),
            timeout_seconds=timeout_seconds or manifest.timeout_seconds,
            headers={WEDDING_HEADER: wedding_id, STEP_HEADER: step_id},
            unavailable_means_not_processed=manifest.unavailable_means_not_processed,
        )

    def client(
        self,
        vendor: str,
        *,
        wedding_id: str = "wedding-1",
        step_id: str = "step-1",
        timeout_seconds: float = 0,
        **account: Any,
    ) -> VendorClient:
        """Make the client of `vendor`, pointed at its stand-in; `account` overrides fields of `Account`."""
        fields: dict[str, Any] = {
            "vendor": vendor,
            "base_url": self.vendor_url(vendor),
            "api_key": "local-api-key",
            "account_id": "local-account",
            "client_id": "local-client",
            "client_secret": "local-client-secret",
            "webhook_secrets": self.settings.vendor_webhook_secrets(vendor),
            "webhook_url": f"{self.settings.api_url}/api/integrations/webhooks/{vendor}",
            **account,
        }
        http = self.http(vendor, wedding_id=wedding_id, step_id=step_id, timeout_seconds=timeout_seconds)
        return self.registry.client_class(vendor)(http, Account(**fields))

    async def faults(self, vendor: str, *, mode: str, **fault: JsonValue) -> None:
        """Set a fault: `PUT /_sandbox/faults/{vendor}`."""
        await self._request("PUT", f"/faults/{vendor}", {"mode": mode, **fault})

    async def clear_faults(self, vendor: str | None = None) -> None:
        """Take away the faults of `vendor`, or all."""
        await self._request("DELETE", "/faults" if vendor is None else f"/faults/{vendor}")

    async def ledger(self, vendor: str) -> list[dict[str, Any]]:
        """List what `vendor` holds, oldest first."""
        entries: list[dict[str, Any]] = (await self._request("GET", f"/ledger/{vendor}"))["entries"]
        return entries

    async def requests(self, vendor: str, operation: str | None = None) -> list[dict[str, Any]]:
        """List the requests that `vendor` got, oldest first."""
        query = "" if operation is None else f"?operation={operation}"
        requests: list[dict[str, Any]] = (await self._request("GET", f"/requests/{vendor}{query}"))["requests"]
        return requests

    def real_url(self, vendor: str, url: str) -> str:
        """Return a logged URL as it would be at the vendor itself, by the manifest's base URL."""
        parts = urlsplit(url)
        # The first segment names the vendor, and perhaps a region.
        path = "/" + parts.path.split("/", 2)[2] + (f"?{parts.query}" if parts.query else "")
        return self.registry.manifest(vendor).base_url.rstrip("/") + path

    async def set_clock(self, now: str) -> None:
        """Move the clock to `now` (ISO 8601 with offset)."""
        await self._request("PUT", "/clock", {"now": now})

    async def webhook(self, vendor: str, event: str, object_id: str | None = None, **more: JsonValue) -> None:
        """Make `vendor` send a webhook: `POST /_sandbox/webhooks/{vendor}`."""
        await self._request("POST", f"/webhooks/{vendor}", {"event": event, "object_id": object_id, **more})

    async def webhook_policy(self, vendor: str, *, muted: bool = False, delay_ms: int | None = None) -> None:
        """Mute or delay the webhooks that `vendor` sends by itself."""
        await self._request("PUT", f"/webhooks/{vendor}", {"muted": muted, "delay_ms": delay_ms})

    async def reset(self) -> None:
        """Put everything back to the start."""
        await self._request("POST", "/reset")

    async def close(self) -> None:
        """Close the helpers' connections."""
        await self.pool.aclose()

    async def _request(
        self, method: Literal["GET", "PUT", "POST", "DELETE"], path: str, body: Mapping[str, JsonValue] | None = None
    ) -> Any:
        json_body: JsonValue = None if body is None else dict(body)
        answer = await self._http.request(method, f"/_sandbox{path}", json_body=json_body)
        return answer.json() if answer.body else None
