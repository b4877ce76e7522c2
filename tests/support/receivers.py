"""HTTP receivers of webhooks on loopback, which answer as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

#: A status, with headers; None: no answer ever.
Answer = tuple[int, dict[str, str]] | None


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """Return the body's JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """Server whose `answer(request)` decides; every request is kept."""

    port: int = 0
    answer: Callable[[Received], Answer] = lambda request: (200, {})
    requests: list[Received] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _hanging: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/hook") -> str:
        """Return the URL of a path on it."""
        return f"http://127.0.0.1:{self.port}{path}"

    def types(self, path: str | None = None) -> list[str]:
        """List the types of the events received, in order."""
        return [request.event["type"] for request in self.requests if path in (None, request.path)]

    async def until(self, count: int, seconds: float = 20.0) -> list[Received]:
        """Wait for so many requests."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Received(head[0].split(" ")[1], headers, body)
        answer = self.answer(request)
        async with self.news:
            self.requests.append(request)
            self.news.notify_all()
        if answer is None:
            await self._hanging.wait()
            return False
        status, extra = answer
        text = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in extra.items()) + "\r\nok"
        writer.write(text.encode())
        await writer.drain()
        return True

    def let_go(self) -> None:
        """Close the hanging connections."""
        self._hanging.set()


@contextlib.asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """Open a receiver on a free port."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.let_go()
        server.close()
        await asyncio.sleep(0)
