"""The transport against servers that say, and don't say, what they like."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from wedsync.kit.http_transport import AiohttpTransport

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_TIMES = {"connect": 2.0, "read": 2.0, "write": 2.0, "pool": 2.0}

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """What came in, connection by connection."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[bytes] = []
        self.connections = 0


@asynccontextmanager
async def server(answer: bytes | Serve = _OK) -> AsyncIterator[Server]:
    """Answers each request with the same bytes, or lets `answer` do all the talking."""
    seen = Server()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            if callable(answer):
                await answer(reader, writer)
                return
            while head := await reader.readuntil(b"\r\n\r\n"):
                seen.heads.append(head)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        listening.close()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    made = AiohttpTransport(4)
    yield made
    await made.aclose()


async def send(
    transport: AiohttpTransport,
    url: str,
    method: str = "GET",
    *,
    content: bytes | AsyncIterator[bytes] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    **times: float,
) -> httpx.Response:
    """Send and read."""
    extensions = {"timeout": {**_TIMES, **times}}
    request = httpx.Request(method, url, headers=headers or [], content=content, extensions=extensions)
    response = await transport.handle_async_request(request)
    response.request = request
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


async def test_what_is_on_the_wire_is_what_was_given_and_nothing_else(transport: AiohttpTransport) -> None:
    async with server() as peer:
        url = peer.url.replace("//", "//user:secret@") + "/a%2Fb/%7Ec?b=%2F&a=1+2&a=#part"
        await send(transport, url, headers=[(b"X-A", b"1"), (b"X-A", "Zürich".encode()), (b"Host", b"given")])
        head = b"GET /a%2Fb/%7Ec?b=%2F&a=1+2&a= HTTP/1.1\r\nHost: given\r\nX-A: 1\r\nX-A: Z\xc3\xbcrich\r\n\r\n"
        assert peer.heads == [head]


async def test_a_connection_is_used_again_and_rooms_of_quiet_origins_are_forgotten(transport: AiohttpTransport) -> None:
    async with server() as one, server() as two:
        for url in (one.url, two.url) * 3:
            assert (await send(transport, url)).content == b"ok"
        assert (one.connections, two.connections) == (1, 1)
    gc.collect()
    assert not transport._room


async def test_a_connection_that_its_peer_has_closed_is_not_used(transport: AiohttpTransport) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_OK)

    async with server(once) as peer:
        for _ in range(50):
            await send(transport, peer.url, "POST")
        assert peer.connections == 50


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_write_that_got_no_answer_is_not_sent_again(transport: AiohttpTransport, method: str) -> None:
    taken: list[bytes] = []

    async def once_then_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_OK)
        taken.append(await reader.readuntil(b"\r\n\r\n"))

    async with server(once_then_hang_up) as peer:
        await send(transport, peer.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await send(transport, peer.url, method)
        assert (len(taken), peer.connections) == (2, 1)


async def test_nobody_there_is_a_connect_error(transport: AiohttpTransport) -> None:
    async with server() as peer:
        url = peer.url
    with pytest.raises(httpx.ConnectError):
        await send(transport, url, "POST", content=b"x")
    with pytest.raises(httpx.ConnectError):
        await send(transport, "http://nobody.invalid/", "POST", content=b"x")


async def test_a_peer_without_tls_is_a_connect_error(transport: AiohttpTransport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with server(serve) as peer:
        with pytest.raises(httpx.ConnectError):
            await send(transport, peer.url.replace("http:", "https:"), "POST", content=b"x")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http:///nowhere"])
async def test_an_address_that_is_none_is_never_sent(transport: AiohttpTransport, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await send(transport, url, "POST", content=b"x")


async def test_no_answer_in_time_is_a_read_timeout(transport: AiohttpTransport) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await reader.read()
        await reader.read()

    for serve in (silent, half):
        async with server(serve) as peer:
            with pytest.raises(httpx.ReadTimeout):
                await send(transport, peer.url, "POST", content=b"x", read=0.1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_may_have_been_a_deed(
    transport: AiohttpTransport, answer: bytes
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with server(serve) as peer:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await send(transport, peer.url, "POST", content=b"x")


@pytest.mark.parametrize(
    "header",
    [
        (b"X", b"a\r\nEvil: 1"),
        (b"X", b"\x00"),
        (b"X Y", b"1"),
        (b"", b"1"),
        (b"X", b"Z\xfcrich"),
        (b"Content-Length", b"no"),
    ],
)
async def test_what_http_cant_carry_is_refused_before_anything_is_sent(
    transport: AiohttpTransport, header: tuple[bytes, bytes]
) -> None:
    async with server() as peer:
        with pytest.raises(httpx.LocalProtocolError):
            await send(transport, peer.url, "POST", content=b"x", headers=[header])
        assert peer.connections == 0


async def slowly(parts: list[bytes], seconds: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(seconds)
        yield part


async def test_a_body_without_a_length_goes_in_chunks_and_one_with_it_as_it_is(transport: AiohttpTransport) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        got.append(await reader.readuntil(b"\r\n\r\n" if b"chunked" in got[-1] else b"de"))
        writer.write(_OK)

    async with server(serve) as peer:
        await send(transport, peer.url, "POST", content=slowly([b"abc", b"de"]))
        assert b"Transfer-Encoding: chunked\r\n" in got[0]
        assert got[1] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        await send(transport, peer.url, "POST", content=slowly([b"abc", b"de"]), headers=[(b"Content-Length", b"5")])
        assert b"chunked" not in got[2]
        assert got[3] == b"abcde"


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 3 * 1024 * 1024])
async def test_a_long_body_arrives_whole(transport: AiohttpTransport, size: int) -> None:
    body, got = bytes(range(256)) * (size // 256) + b"." * (size % 256), bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.extend(await reader.readexactly(size))
        writer.write(_OK)

    async with server(serve) as peer:
        await send(transport, peer.url, "POST", content=body)
    assert bytes(got) == body


async def test_a_peer_that_takes_no_more_is_a_write_timeout(transport: AiohttpTransport) -> None:
    gone = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        await gone.wait()

    async with server(serve) as peer:
        with pytest.raises(httpx.WriteTimeout):
            await send(transport, peer.url, "POST", content=bytes(32 * 1024 * 1024), write=0.3, read=20)
        gone.set()


async def test_a_source_may_take_its_time(transport: AiohttpTransport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(_OK)

    async with server(serve) as peer:
        answer = await send(transport, peer.url, "POST", content=slowly([b"a", b"b", b"c"], 0.2), write=0.1, read=0.1)
    assert answer.content == b"ok"


async def test_what_the_source_raises_comes_through_and_nothing_is_made_up(transport: AiohttpTransport) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError("the uploader left")

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(serve) as peer:
        with pytest.raises(LookupError, match="left"):
            await send(transport, peer.url, "POST", content=breaks())
        for length in (b"2", b"9"):
            with pytest.raises(httpx.LocalProtocolError, match="Content-Length"):
                await send(transport, peer.url, "POST", content=slowly([b"abc"]), headers=[(b"Content-Length", length)])


async def test_an_answer_before_the_bodys_end_is_heard(transport: AiohttpTransport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with server(serve) as peer:
        answer = await send(transport, peer.url, "POST", content=slowly([b"x" * 1000] * 200, 0.01))
        assert answer.status_code == 413


async def test_an_encoded_answer_is_read_and_its_own_bytes_can_be_had(transport: AiohttpTransport) -> None:
    packed = gzip.compress(b"hello")
    head = b"HTTP/1.1 200 Fine\r\nContent-Encoding: gzip\r\nX-Name: Z\xc3\xbcrich\r\nContent-Length: %d\r\n\r\n"
    async with server(head % len(packed) + packed) as peer:
        answer = await send(transport, peer.url)
        assert (answer.text, answer.reason_phrase) == ("hello", "Fine")
        assert (b"X-Name", "Zürich".encode()) in answer.headers.raw
        raw = await transport.handle_async_request(httpx.Request("GET", peer.url))
        assert b"".join([chunk async for chunk in raw.aiter_raw()]) == packed
        await raw.aclose()


async def test_an_answer_that_nobody_reads_gives_up_its_connection_and_its_room() -> None:
    transport = AiohttpTransport(1)
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf") as peer:
        for _ in range(3):
            answer = await transport.handle_async_request(httpx.Request("GET", peer.url))
            await answer.aclose()
            await answer.aclose()
        assert peer.connections == 3
    await transport.aclose()


async def test_those_beyond_the_room_wait_in_order_and_not_for_ever() -> None:
    transport, gate, done = AiohttpTransport(1), asyncio.Event(), list[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await gate.wait()
            writer.write(_OK)

    async def one(number: int, url: str) -> None:
        await send(transport, url, pool=5)
        done.append(number)

    async with server(serve) as peer, asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(one(number, peer.url))
            await asyncio.sleep(0.01)
        with pytest.raises(httpx.PoolTimeout):
            await send(transport, peer.url, pool=0.05)
        gate.set()
    assert done == [0, 1, 2]
    await transport.aclose()


async def test_a_cancelled_call_leaves_its_room() -> None:
    transport, gate = AiohttpTransport(1), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await gate.wait()
            writer.write(_OK)

    async with server(serve) as peer:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await send(transport, peer.url)
        gate.set()
        assert (await send(transport, peer.url)).content == b"ok"
    await transport.aclose()
