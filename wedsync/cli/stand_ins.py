"""Speaks to the vendors' stand-ins for the command line: faults, clock and ledgers over `/_sandbox`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from wedsync.cli.client import unreachable
from wedsync.cli.output import INTERNAL, CliError

_TIMEOUT_SECONDS = 10.0


class StandIns:
    """One running sandbox. Raises CliError only."""

    def __init__(self, url: str) -> None:
        from wedsync.kit.http import TransportError, new_pool

        self._url = url.rstrip("/")
        self._pool = new_pool()
        self._no_answer = TransportError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def break_down(self, vendor: str, wedding_id: str) -> None:
        """Make `vendor` answer nothing but 503 for this wedding."""
        await self._request("PUT", f"/faults/{vendor}", {"mode": "down", "wedding_id": wedding_id})

    async def mend(self, vendor: str) -> None:
        """Take the vendor's faults away."""
        await self._request("DELETE", f"/faults/{vendor}")

    async def move_clock(self, now: datetime) -> None:
        """Make `now` the stand-ins' present."""
        await self._request("PUT", "/clock", {"now": now.isoformat()})

    async def active(self, wedding_id: str) -> list[dict[str, Any]]:
        """List what all vendors together still hold for this wedding: ledger entries, each with its `vendor`."""
        vendors = (await self._request("GET", "/health"))["vendors"]
        ledgers = await asyncio.gather(*(self._request("GET", f"/ledger/{vendor}") for vendor in vendors))
        return [
            {**entry, "vendor": vendor}
            for vendor, ledger in zip(vendors, ledgers, strict=True)
            for entry in ledger["entries"]
            if entry["wedding_id"] == wedding_id and entry["state"] == "active"
        ]

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self._url}/_sandbox{path}"
        try:
            answer = await self._pool.request(method, url, json=body, timeout=_TIMEOUT_SECONDS)
        except self._no_answer as error:
            raise unreachable(self._url, error) from error
        if not answer.is_success:
            raise CliError("sandbox", f"{method} {url} answered {answer.status_code}", INTERNAL)
        return answer.json() if answer.content else None
