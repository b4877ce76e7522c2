from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.routing import eventually
from wedsync.domain.errors import InvalidInput, OutcomeUnknown, VendorThrottled, VendorUnavailable
from wedsync.domain.health.messages import AT_CAPACITY
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import classify_outcome
from wedsync.kit import http_transport
from wedsync.kit.http import MAX_RESPONSE_BYTES, VendorHttp, new_pool

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def vendor(gate: asyncio.Event | None = None) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that counts its connections, and answers once the gate is open."""
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if gate is not None:
                    await gate.wait()
                writer.write(_ANSWER)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", ports
    finally:
        server.close()


async def test_a_vendor_whose_connections_are_all_taken_holds_up_no_other() -> None:
    gate = asyncio.Event()
    pool = new_pool(max_connections=2)
    async with vendor(gate) as (stuck, taken), vendor() as (quick, _):
        waiting = [asyncio.create_task(pool.get(stuck, timeout=30)) for _ in range(4)]
        async with asyncio.timeout(10):
            assert [(await pool.get(quick)).text for _ in range(3)] == ["ok"] * 3
        assert not any(task.done() for task in waiting)
        gate.set()
        assert [(await task).text for task in waiting] == ["ok"] * 4
        assert len(taken) == 2
        await pool.aclose()


async def test_a_call_that_gets_no_connection_is_our_congestion_and_nothing_against_the_vendor() -> None:
    gate = asyncio.Event()
    pool = new_pool(max_connections=1)
    async with vendor(gate) as (url, taken):
        http = VendorHttp(pool, vendor="busy", base_url=url, timeout_seconds=20)
        first = asyncio.create_task(http.request("GET", "/"))
        await eventually(lambda: taken)
        for ask in (http.request("POST", "/", content=b"x"), http.stream("POST", "/", headers=[])):
            with pytest.raises(VendorThrottled) as refused:
                await ask
            assert (refused.value.reason, refused.value.status) == (AT_CAPACITY, None)
            assert classify_outcome(refused.value, 1.0, CircuitPolicy()) == "ignored"
        gate.set()
        assert (await first).body == b"ok"
        assert len(taken) == 1
        await pool.aclose()


async def test_what_was_never_sent_is_no_unknown_outcome() -> None:
    pool = new_pool()
    async with vendor() as (url, taken):
        http = VendorHttp(pool, vendor="v", base_url=url, timeout_seconds=2)
        with pytest.raises(InvalidInput):
            await http.request("POST", "/", content=b"x", headers={"X": "a\r\nb"})
        for base_url in ("http://[::1", "http://127.0.0.1:1", "http://nobody.invalid"):
            with pytest.raises(VendorUnavailable):
                await VendorHttp(pool, vendor="v", base_url=base_url, timeout_seconds=2).request("POST", "/")
        assert not taken
        await pool.aclose()


async def test_a_strangers_url_leads_to_public_addresses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    http = VendorHttp(pool, vendor="v", base_url="https://api.vendor.test", timeout_seconds=2)

    async def answers(_host: str, _port: int) -> tuple[str, ...]:
        return ("127.0.0.1",)

    monkeypatch.setattr(http_transport, "resolve", answers)
    async with vendor() as (url, taken):
        port = url.rstrip("/").rpartition(":")[2]
        for target in (url, "https://10.0.0.1:6443/", f"https://venue.test:{port}/", f"https://127.0.0.1:{port}/"):
            with pytest.raises(InvalidInput) as refused:
                await http.request("POST", target)
            assert refused.value.reason == "url_forbidden"
        assert not taken
        # Where our own account is on this machine, a stand-in may be, too.
        local = VendorHttp(pool, vendor="v", base_url="http://127.0.0.1:1", timeout_seconds=2)
        assert (await local.request("POST", url)).body == b"ok"
    await pool.aclose()


async def assert_unknown(answer: bytes) -> None:
    """After such an answer, and a hang-up, a write may have been done, and a read was not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url, pool = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", new_pool()
    http = VendorHttp(pool, vendor="v", base_url=url, timeout_seconds=5)
    with pytest.raises(OutcomeUnknown):
        await http.request("POST", "/")
    with pytest.raises(VendorUnavailable):
        await http.request("GET", "/")
    await pool.aclose()
    server.close()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_answer_without_end_is_not_read_to_it(encoding: str) -> None:
    packed = gzip.compress(bytes(MAX_RESPONSE_BYTES * 2)) if encoding == "gzip" else bytes(MAX_RESPONSE_BYTES * 2)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n\r\n"
    await assert_unknown(head.encode() + packed)


async def test_an_answer_that_breaks_off_leaves_the_outcome_of_a_write_unknown() -> None:
    await assert_unknown(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")


async def test_a_connection_is_used_again() -> None:
    pool = new_pool()
    async with vendor() as (url, taken):
        for _ in range(5):
            await pool.get(url)
        await pool.aclose()
    assert len(taken) == 1


async def test_no_vendors_cookies_are_kept() -> None:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = new_pool()
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for _ in range(2):
        assert (await pool.get(url)).status_code == 200
    await pool.aclose()
    server.close()
    assert len(asked) == 2
    assert "cookie" not in "".join(asked)
