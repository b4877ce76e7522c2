"""A vendor that says what its test wants, byte by byte, and an application that partners reach by HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass
class Taken:
    """A request as it came over the wire."""

    line: str
    #: Names in lower case; a name that came twice has its values joined.
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty: its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """All of the body."""
        if "transfer-encoding" not in self.headers:
            return await self.reader.readexactly(int(self.headers.get("content-length", "0")))
        found = b""
        while chunk := await self.chunk():
            found += chunk
        return found

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()


Play = Callable[[Taken], Awaitable[None]]


@dataclass
class RawVendor:
    """Answers every request by `play`; without one, 200."""

    url: str = ""
    play: Play | None = None
    taken: list[Taken] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def answers(self, data: bytes) -> None:
        """Answer every request by these bytes, once its body was read."""

        async def play(taken: Taken) -> None:
            self.bodies.append(await taken.body())
            await taken.say(data)

        self.play = play

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers: dict[str, str] = {}
            for name, _, value in (line.partition(":") for line in lines):
                known = headers.get(name.lower())
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
            taken = Taken(first, headers, reader, writer)
            self.taken.append(taken)
            if self.play is None:
                self.answers(_OK)
            assert self.play is not None
            await self.play(taken)
        except (asyncio.IncompleteReadError, ConnectionError):
            # The other side went away; the test says whether it should have.
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw_vendor() -> AsyncIterator[RawVendor]:
    """A raw vendor that listens."""
    vendor = RawVendor()
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    vendor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield vendor
    finally:
        server.close()


@asynccontextmanager
async def served(app: Any, headers: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A real server of the application, and a client of it with these headers."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False) as client:
        yield client
    server.should_exit = True
    await task
    listener.close()
