"""A sandbox, and something that takes its webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest_asyncio

from wedsync.kit.settings import Settings
from wedsync.sandbox.embedded import EmbeddedSandbox

Pay = Callable[..., Awaitable[str]]


@dataclass
class Receiver:
    """A bare HTTP server that answers each POST with the next of `answers` (then 200) and keeps what it got."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    taken: asyncio.Queue[tuple[str, dict[str, str], bytes]] = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status = self.answers.pop(0) if self.answers else 200
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        self.taken.put_nowait((first.split(" ")[1], headers, body))

    async def next(self) -> tuple[str, dict[str, str], bytes]:
        """The next webhook: its path, headers and body."""
        return await asyncio.wait_for(self.taken.get(), 10)


@pytest_asyncio.fixture(scope="session")
async def listening() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield receiver
    server.close()
    await server.wait_closed()


@pytest_asyncio.fixture(scope="session")
async def running(listening: Receiver) -> AsyncIterator[EmbeddedSandbox]:
    settings = Settings(environment="local", api_url=listening.url, sandbox_webhook_delay_ms=0, vendors={})
    with EmbeddedSandbox(settings) as sandbox:
        yield sandbox
        await sandbox.close()


@pytest_asyncio.fixture
async def sandbox(running: EmbeddedSandbox) -> AsyncIterator[EmbeddedSandbox]:
    await running.reset()
    yield running
    await running.reset()


@pytest_asyncio.fixture
async def receiver(listening: Receiver, sandbox: EmbeddedSandbox) -> Receiver:
    listening.answers.clear()
    while not listening.taken.empty():
        listening.taken.get_nowait()
    return listening


@pytest_asyncio.fixture
async def make_intent(sandbox: EmbeddedSandbox) -> Pay:
    """`await make_intent(wedding_id="w", method="pm_card_visa")` → the id of an unconfirmed Stripe intent."""

    async def make(wedding_id: str = "w-1", method: str = "pm_card_visa") -> str:
        http = sandbox.http("stripe", wedding_id=wedding_id)
        form = [("amount", "1500"), ("currency", "eur"), ("payment_method", method)]
        answer = await http.request("POST", "/v1/payment_intents", form=form, headers={"Authorization": "Bearer k"})
        return str(answer.json()["id"])

    return make
