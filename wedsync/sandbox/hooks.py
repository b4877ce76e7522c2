"""Sends the stand-ins' webhooks: later, in the background, and again until they are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from wedsync.domain.errors import VendorError
from wedsync.kit.http import VendorHttp, new_pool

#: Pauses between the eight attempts, in seconds: about a minute in all.
PAUSES_SECONDS = (0.25, 0.75, 2.0, 4.0, 8.0, 16.0, 32.0)
_TIMEOUT_SECONDS = 10.0

_log = structlog.get_logger(__name__)


@dataclass
class HookPolicy:
    """Behaviour of a vendor's own webhooks: `PUT /_sandbox/webhooks/{vendor}`."""

    muted: bool = False
    #: Instead of the delay that the stand-in asks for.
    delay_ms: int | None = None


class HookSender:
    """Sender of the stand-ins' webhooks; one per sandbox, lives in the sandbox's event loop."""

    def __init__(self) -> None:
        self._http: VendorHttp | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.policies: dict[str, HookPolicy] = {}

    def send(
        self,
        vendor: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        delay_seconds: float,
        *,
        is_requested: bool = False,
    ) -> None:
        """Post after `delay_seconds`; `is_requested` ones (by the admin interface) ignore the vendor's policy."""
        policy = self.policies.get(vendor, HookPolicy())
        if not is_requested:
            if policy.muted:
                return
            if policy.delay_ms is not None:
                delay_seconds = policy.delay_ms / 1000
        task = asyncio.get_running_loop().create_task(self._deliver(vendor, url, dict(headers), body, delay_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, vendor: str, url: str, headers: dict[str, str], body: bytes, delay: float) -> None:
        for pause in (delay, *PAUSES_SECONDS):
            await asyncio.sleep(pause)
            try:
                await self._client().request("POST", url, content=body, headers=headers)
            except VendorError as error:
                _log.debug("webhook not taken", vendor=vendor, reason=error.reason, status=error.status)
            else:
                return
        _log.warning("webhook given up", vendor=vendor)

    def _client(self) -> VendorHttp:
        if self._http is None:
            self._pool = new_pool()
            self._http = VendorHttp(self._pool, vendor="wedsync", base_url="", timeout_seconds=_TIMEOUT_SECONDS)
        return self._http

    async def reset(self) -> None:
        """Drop what is still to be sent, and the policies."""
        self.policies.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Drop what is still to be sent and close the connections."""
        await self.reset()
        if self._http is not None:
            self._http = None
            await self._pool.aclose()
