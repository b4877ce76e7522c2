"""Runs a vendor that answers what its test wants, byte by byte, and an application that partners reach by HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from tests.support.routing import eventually, rows
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.sandbox.embedded import EmbeddedSandbox

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
        """Read the next chunk of a chunked body; empty: its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """Read all of the body."""
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
    """Vendor that answers every request by `play`; without one, 200."""

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
        """Serve one connection, one request."""
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
    """Open a raw vendor that listens."""
    vendor = RawVendor()
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    vendor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield vendor
    finally:
        server.close()


@asynccontextmanager
async def served(app: Any, headers: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application on a real server; yield a client of it with these headers."""
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


GIVEN = {
    "api_key": "platform-key",
    "account_id": "platform-account",
    "client_id": "platform-client",
    "client_secret": "platform-secret",
}
WHOLE = {"allow": ["GET /**", "POST /**", "PUT /**", "PATCH /**", "DELETE /**"]}


@pytest.fixture(scope="module")
async def gateway_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSandbox]:
    with EmbeddedSandbox(Settings(state_dir=tmp_path_factory.mktemp("sandbox"))) as running:
        yield running
        await running.close()


@dataclass
class Gate:
    """Runs the application between a partner and its vendors: stripe and others by the sandbox, vsco raw."""

    api: Any
    http: httpx.AsyncClient
    sandbox: EmbeddedSandbox
    raw: RawVendor

    async def open(self, service: str, policy: dict[str, Any] | None = None, **config: Any) -> None:
        """Configure what may pass."""
        body = {"gateway": WHOLE if policy is None else policy, **config}
        response = await self.api.http.put(f"/api/v1/services/{service}", json=body)
        assert response.status_code == 200, response.text

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await self.http.request(method, f"/api/v1/gateway{path}", **request)

    async def wire(self, request: str) -> bytes:
        """Return the answer to a request that is sent as it stands but for the headers that all have."""
        url = self.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        line, _, rest = request.partition("\r\n")
        key = self.http.headers["authorization"]
        writer.write(f"{line}\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n{rest}".encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def calls(self, number: int = 1) -> list[Any]:
        """Return the records of what was passed on, in order, once there are so many."""
        controller = self.api.app.state.admission_controller

        async def found() -> list[Any]:
            await controller.call_recorder.flush()
            made = await rows(controller, "SELECT * FROM vendor_calls ORDER BY id")
            return made if len(made) >= number else []

        made: list[Any] = await eventually(found)
        return made


@pytest.fixture
async def gate(new_api: Any, fresh_database_urls: Any, gateway_sandbox: EmbeddedSandbox) -> AsyncIterator[Gate]:
    sandbox = gateway_sandbox
    async with raw_vendor() as raw:
        await sandbox.reset()
        vendors = {
            name: VendorSettings.model_validate({"base_url": sandbox.vendor_url(name), **GIVEN})
            for name in ("stripe", "paypal", "twilio")
        }
        vendors |= {
            name: VendorSettings.model_validate({"base_url": f"{raw.url}/api", **GIVEN}) for name in ("vsco", "vonage")
        }
        vendors["sendgrid"] = VendorSettings(base_url=raw.url)
        api = await new_api(fresh_database_urls, vendors=vendors)
        async with served(api.app, api.http.headers) as http:
            yield Gate(api, http, sandbox, raw)


def problem_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["code"]


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert "x-wedsync-service" not in response.headers
    return response.status_code, response.json()["code"]
