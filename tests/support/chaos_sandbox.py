"""A sandbox that calls back at chosen requests: before they are handled, before they are answered, or after."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from tests.support import chaos_points
from tests.support.chaos_points import ActivityPoints
from wedsync.kit.settings import Settings
from wedsync.kit.standin import LedgerEntry
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.sandbox.stand import Market

#: lost: the vendor never saw the request. committed: it acted, and the answer got lost. answered: the answer was sent.
Phase = Literal["lost", "committed", "answered"]
PHASES: tuple[Phase, ...] = ("lost", "committed", "answered")
_PROMISED_BYTES = 65_536


@dataclass(frozen=True)
class Point:
    """One moment in a wedding's life at which something is to happen."""

    step_id: str
    vendor: str
    operation: str
    phase: Phase
    #: After an answer: so many milliseconds later.
    delay_ms: int = 0

    def __str__(self) -> str:
        return f"{self.step_id}: {self.vendor} {self.operation}, {self.phase}"


class WatchedSandbox(EmbeddedSandbox):
    """An embedded sandbox whose points, once armed for a wedding, strike once."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        config = self._server.config
        self.market: Market = config.app.state.market  # type: ignore[union-attr]
        self._app: Any = config.app
        config.app, config.interface = self._watched, "asgi3"
        self._armed: dict[str, Point] = {}
        self._lock = threading.Lock()
        #: What happens at a point; called in the sandbox's thread.
        self.strike: Callable[[], None] = lambda: None
        #: The points that struck, by wedding.
        self.struck: list[tuple[str, Point]] = []
        #: The points within our own activities, where the worker asks.
        self.points = ActivityPoints(lambda: self.strike())

    def arm(self, wedding_id: str, point: Point) -> None:
        """Strike at the wedding's next request that fits `point`."""
        with self._lock:
            self._armed[wedding_id] = point

    def disarm(self, wedding_id: str) -> bool:
        """Take an armed point away; True when it had not struck."""
        with self._lock:
            return self._armed.pop(wedding_id, None) is not None

    def ledgers(self) -> dict[str, list[tuple[str, LedgerEntry]]]:
        """Return every effect that any vendor holds or held, with the vendor's name, by wedding."""
        found: dict[str, list[tuple[str, LedgerEntry]]] = {}
        for vendor in self.market.vendors:
            for entry in list(self.market.stand(vendor).context.ledger):
                found.setdefault(entry.wedding_id or "", []).append((vendor, entry))
        return found

    def committed(self) -> Counter[tuple[str, str, str, str]]:
        """Count how often each write took effect, replays left out, by (wedding, step, vendor, operation)."""
        found: Counter[tuple[str, str, str, str]] = Counter()
        for vendor in self.market.vendors:
            for exchange in self.market.stand(vendor).log.all():
                is_new = "idempotent-replayed" not in (exchange.response_headers or {})
                if exchange.method != "GET" and exchange.status is not None and exchange.status < 300 and is_new:
                    sign = exchange.sign
                    found[(sign.wedding_id or "", sign.step_id or "", vendor, sign.operation)] += 1
        return found

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == chaos_points.PATH:
            await self.points.serve(scope, receive, send)
            return
        point = self._take(scope) if scope["type"] == "http" else None
        if point is None:
            await self._app(scope, receive, send)
            return
        if point.phase == "answered":
            await self._app(scope, receive, send)
            asyncio.get_running_loop().call_later(point.delay_ms / 1000, self.strike)
            return
        if point.phase == "committed":
            await self._app(scope, receive, _nowhere)
        self.strike()
        await _break_off(send)

    def _take(self, scope: Scope) -> Point | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        wedding_id = headers.get(b"x-wedsync-wedding", "")
        with self._lock:
            point = self._armed.get(wedding_id)
            if point is None or headers.get(b"x-wedsync-step") != point.step_id:
                return None
            if self._operation(scope) != (point.vendor, point.operation):
                return None
            del self._armed[wedding_id]
            self.struck.append((wedding_id, point))
            return point

    def _operation(self, scope: Scope) -> tuple[str, str]:
        vendor = scope["path"].split("/", 2)[1]
        inner = {**scope, "root_path": f"/{vendor}", "app_root_path": f"/{vendor}"}
        for route in self.market.stand(vendor).standin.routes:
            if route.matches(inner)[0] is Match.FULL:
                return vendor, route.name
        return vendor, ""


async def _nowhere(_: Message) -> None:
    """Drop an answer."""


async def _break_off(send: Send) -> None:
    """Begin an answer and stop there: the server then closes the connection."""
    headers = [(b"content-length", str(_PROMISED_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
