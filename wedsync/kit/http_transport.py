"""Send httpx's requests over aiohttp's connections.

It raises what httpx raises, by the same meaning: ConnectError, ConnectTimeout, PoolTimeout, UnsupportedProtocol
and LocalProtocolError say that nothing was sent. Decision 0013 tells why not on httpx's own connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
from collections.abc import AsyncIterator, Iterator
from typing import cast
from weakref import WeakValueDictionary

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from wedsync.domain import ssrf
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit.lookups import resolve

#: The extension of a request that goes to a stranger's URL: its `SsrfPolicy`.
SSRF_POLICY = "guard"
#: Servers close what is idle for 5 s (Node) or longer: before they do.
_KEPT_IDLE_SECONDS = 4.0
#: A request's body up to this size fits the buffers, so that it is written at once; a longer one is written in parts,
#: each within the time for writing.
_PART_BYTES = 64 * 1024
_MOST_HEADER_BYTES = 64 * 1024
#: httpx has decided what is sent: nothing is added.
_NOTHING_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")

_Origin = tuple[str, str, int | None]


class AiohttpTransport(httpx.AsyncBaseTransport):
    """One loop's connections: a limited number to each origin, no proxies, redirects, cookies or retries.

    A request with a `SsrfPolicy` in its extensions goes to addresses that the policy lets through, by connections of
    their own.
    """

    def __init__(self, connections_per_origin: int) -> None:
        self._most = connections_per_origin
        self._ssl = httpx.create_ssl_context(trust_env=False)
        self._sessions: dict[SsrfPolicy | None, aiohttp.ClientSession] = {}
        #: Only of origins with requests under way.
        self._room: WeakValueDictionary[_Origin, asyncio.Semaphore] = WeakValueDictionary()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and answer once the answer's headers are here; closing the answer lets go of its connection.

        Raises httpx.TransportError, and ForbiddenTarget or NoResolverFree for a guarded request: nothing was sent.
        """
        timeout = request.extensions.get("timeout", {})
        ssrf_policy: SsrfPolicy | None = request.extensions.get(SSRF_POLICY)
        if ssrf_policy is not None:
            ssrf.read_url(str(request.url), ssrf_policy)
        headers = _checked(request)
        async with contextlib.AsyncExitStack() as stack:
            await self._enter(request.url, timeout.get("pool"), stack)
            body = _Sent(request, timeout.get("write"))
            with _as_httpx(body):
                async with body.in_time():
                    answer = await self._opened(ssrf_policy).request(
                        request.method,
                        URL(_address(request.url), encoded=True),
                        headers=headers,
                        data=body.data,
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(
                            sock_connect=timeout.get("connect"), sock_read=timeout.get("read")
                        ),
                    )
            stack.callback(answer.close)
            return httpx.Response(
                answer.status,
                headers=list(answer.raw_headers),
                stream=_Received(answer, body, stack.pop_all()),
                extensions={"http_version": b"HTTP/1.1", "reason_phrase": (answer.reason or "").encode()},
            )

    async def aclose(self) -> None:
        """Close every connection."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _opened(self, ssrf_policy: SsrfPolicy | None) -> aiohttp.ClientSession:
        # Made within the loop that it belongs to.
        if (session := self._sessions.get(ssrf_policy)) is None:
            resolver = None if ssrf_policy is None else _Checked(ssrf_policy)
            session = self._sessions[ssrf_policy] = aiohttp.ClientSession(
                connector=_Connector(limit=0, ssl=self._ssl, keepalive_timeout=_KEPT_IDLE_SECONDS, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_NOTHING_ADDED,
                auto_decompress=False,
                max_line_size=_MOST_HEADER_BYTES,
                max_field_size=_MOST_HEADER_BYTES,
            )
            # aiohttp would resend a PUT that got no answer; it has no public switch for this.
            session._retry_connection = False
        return session

    async def _enter(self, url: httpx.URL, seconds: float | None, stack: contextlib.AsyncExitStack) -> None:
        """Wait for room at the origin, first come first served. Raises PoolTimeout."""
        origin = (url.scheme, url.host, url.port)
        room = self._room.get(origin)
        if room is None:
            room = self._room[origin] = asyncio.Semaphore(self._most)
        try:
            async with asyncio.timeout(seconds if room.locked() else None):
                await room.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"all {self._most} connections are taken") from error
        stack.callback(room.release)


class _Connector(aiohttp.TCPConnector):
    """Never reuses a connection that its peer has closed, even if this process has not read that yet.

    A write sent on such a connection would have to count as perhaps done.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (found := await super()._get(key, traces)) is not None and _is_readable(found):
            found.close()
        return found


class _Checked(AbstractResolver):
    """Resolves names to addresses that were checked, and to no others."""

    def __init__(self, policy: SsrfPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return every address of the host; raises ForbiddenTarget, NoResolverFree, OSError."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in ssrf.check_addresses(await resolve(host, port), self._policy)
        ]

    async def close(self) -> None:
        """Hold nothing, so close nothing."""


def _is_readable(connection: Connection) -> bool:
    own = None if connection.transport is None else connection.transport.get_extra_info("socket")
    if own is None or own.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Sent:
    """A request's body while it is sent, and what went wrong with it."""

    def __init__(self, request: httpx.Request, part_seconds: float | None) -> None:
        self.error: Exception | None = None
        self._seconds = part_seconds
        self._deadline: asyncio.Timeout | None = None
        self._length = _length(request)
        self.data: bytes | AsyncIterator[bytes] | None
        try:
            self.data = request.content or None
        except httpx.RequestNotRead:
            self.data = self._parts(request)
        if isinstance(self.data, bytes) and len(self.data) > _PART_BYTES:
            self.data = self._parts(request)

    @contextlib.asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raise WriteTimeout when a part can't be written in time; however long its source takes to bring it."""
        try:
            async with asyncio.timeout(None) as deadline:
                self._deadline = deadline
                yield
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise httpx.WriteTimeout("the body could not be written in time") from error
        finally:
            # An answer may come before all of the body was read.
            self._deadline = None

    def _allow(self, seconds: float | None) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def _parts(self, request: httpx.Request) -> AsyncIterator[bytes]:
        written = 0
        try:
            async for chunk in cast("httpx.AsyncByteStream", request.stream):
                for start in range(0, len(chunk), _PART_BYTES):
                    part = chunk[start : start + _PART_BYTES]
                    written += len(part)
                    if 0 <= self._length < written:
                        raise httpx.LocalProtocolError("the body is longer than its Content-Length")
                    self._allow(self._seconds)
                    yield part
                    self._allow(None)
            if written < self._length:
                raise httpx.LocalProtocolError("the body is shorter than its Content-Length")
        except Exception as error:
            self.error = error
            raise


class _Received(httpx.AsyncByteStream):
    """Reads an answer's body."""

    def __init__(self, answer: aiohttp.ClientResponse, sent: _Sent, held: contextlib.AsyncExitStack) -> None:
        self._answer = answer
        self._sent = sent
        self._held = held

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._sent):
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        """Let go of the connection; one whose answer was not read to its end is closed."""
        await self._held.aclose()


def _checked(request: httpx.Request) -> CIMultiDict[str]:
    """Return the headers; raises LocalProtocolError for what HTTP can't carry, and for bytes that aren't UTF-8."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.raw:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise httpx.LocalProtocolError("a header holds what HTTP can't carry")
        # A body without a length is sent in chunks; aiohttp says so itself.
        if name.lower() != b"transfer-encoding":
            try:
                headers.add(name.decode(), value.decode())
            except UnicodeDecodeError as error:
                raise httpx.LocalProtocolError("a header's value is not UTF-8") from error
    return headers


def _address(url: httpx.URL) -> str:
    """Return the URL without the part that is never sent: httpx has made a header of the credentials."""
    if url.userinfo or url.fragment:
        url = url.copy_with(username=None, password=None, fragment=None)
    return str(url)


def _length(request: httpx.Request) -> int:
    declared = request.headers.get("Content-Length", "-1")
    try:
        return int(declared)
    except ValueError:
        raise httpx.LocalProtocolError("Content-Length is not a number") from None


@contextlib.contextmanager
def _as_httpx(sent: _Sent) -> Iterator[None]:
    """Raise aiohttp's errors as httpx's. What the body's source raised comes through as it is."""
    try:
        yield
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error)) from error
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        # From here on the vendor may have acted.
        if sent.error is not None:
            raise sent.error from error
        if isinstance(error, TimeoutError):
            raise httpx.ReadTimeout(str(error)) from error
        is_broken_off = isinstance(error, aiohttp.ServerDisconnectedError)
        is_no_http = isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError | ValueError)
        kind = httpx.RemoteProtocolError if is_broken_off or is_no_http else httpx.ReadError
        raise kind(str(error) or type(error).__name__) from error
