"""Points within our own activities: the worker asks the sandbox at each, and is killed where one is armed."""

from __future__ import annotations

import asyncio
import os
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import Receive, Scope, Send
from temporalio import activity
from temporalio.plugin import SimplePlugin
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

#: begun: nothing of it is done. amid: so many milliseconds after it began. done: it has ended and nobody has heard of
#: that.
Moment = Literal["begun", "amid", "done"]
PATH = "/_points"
_URL = "CHAOS_POINTS_URL"
_SECONDS = 5.0


@dataclass(frozen=True)
class ActivityPoint:
    """One moment of the `nth` run of an activity, local ones too, since the point was armed for its wedding."""

    activity: str
    moment: Moment
    nth: int = 1
    delay_ms: int = 0

    def __str__(self) -> str:
        return f"{self.activity}, number {self.nth}, {self.moment}"

    @property
    def reached_at(self) -> str:
        """What the worker says when it comes there."""
        return "begun" if self.moment in ("begun", "amid") else "done"


class ActivityPoints:
    """The points that are armed, one for each wedding; each strikes once."""

    def __init__(self, strike: Callable[[], None]) -> None:
        self._strike = strike
        self._armed: dict[str, ActivityPoint] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        #: The points that struck, by wedding.
        self.struck: list[tuple[str, ActivityPoint]] = []
        #: How often each activity began, in all weddings.
        self.begun: Counter[str] = Counter()

    def arm(self, wedding_id: str, point: ActivityPoint) -> None:
        """Strike at this point of the wedding's life from now on."""
        for key in [key for key in self._counts if key[0] == wedding_id]:
            del self._counts[key]
        self._armed[wedding_id] = point

    def disarm(self, wedding_id: str) -> bool:
        """Take an armed point away; True when it had not struck."""
        return self._armed.pop(wedding_id, None) is not None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a worker's question: 204 lets it go on; at an armed point it is killed first, or a little later."""
        said = dict(urllib.parse.parse_qsl(scope["query_string"].decode()))
        self._reached(said["wedding"], said["activity"], said["at"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _reached(self, wedding_id: str, name: str, at: str) -> None:
        if at == "begun":
            self.begun[name] += 1
        point = self._armed.get(wedding_id)
        if point is None or (point.activity, point.reached_at) != (name, at):
            return
        key = (wedding_id, name, at)
        self._counts[key] += 1
        if self._counts[key] < point.nth:
            return
        del self._armed[wedding_id]
        self.struck.append((wedding_id, point))
        if point.moment in ("begun", "done"):
            self._strike()
        else:
            asyncio.get_running_loop().call_later(point.delay_ms / 1000, self._strike)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        self._say("begun")
        result = await super().execute_activity(input)
        self._say("done")
        return result

    @staticmethod
    def _say(at: str) -> None:
        # Nothing else of the process goes on meanwhile: what is killed here has not come further.
        info = activity.info()
        _, _, wedding_id = (info.workflow_id or "").partition(":")
        query = urllib.parse.urlencode({"wedding": wedding_id, "activity": info.activity_type, "at": at})
        with urllib.request.urlopen(f"{os.environ[_URL]}?{query}", timeout=_SECONDS):  # noqa: S310 - loopback
            pass


class _Asking(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next)


def environment(sandbox_url: str) -> dict[str, str]:
    """What a worker is told so that it asks."""
    return {_URL: f"{sandbox_url}{PATH}"}


def plugins() -> list[SimplePlugin]:
    """What makes this worker ask, where it is told to."""
    return [SimplePlugin("chaos-points", interceptors=[_Asking()])] if os.environ.get(_URL) else []
