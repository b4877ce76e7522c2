"""Send HTTP to URLs that others gave us: each new connection goes to an address that was checked a moment before.

Only this module, `http`, `http_transport` and `http_trace` of `kit` import httpx.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping

import httpcore
import httpx
from pydantic import BaseModel, ConfigDict

from wedsync.domain import ssrf
from wedsync.domain.ssrf import ForbiddenTarget, SsrfPolicy
from wedsync.kit.lookups import NoResolverFree, on_behalf_of, resolve
from wedsync.kit.ssrf import Resolver

#: So much of an answer is read, so that its connection can be used again.
_MOST_READ_BYTES = 65_536
_KEEPALIVE_SECONDS = 30.0


class Reply(BaseModel):
    """One request's result."""

    model_config = ConfigDict(frozen=True)
    #: None: there was no answer.
    status: int | None
    headers: dict[str, str] = {}
    #: The beginning of the body.
    body: bytes = b""
    duration_ms: int
    #: Why there was no answer, for people: `timed out`, `could not connect`, ...
    error: str | None = None
    #: Nothing was tried: the host was not even looked up.
    is_put_off: bool = False


class SsrfSafeBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to checked addresses only; TLS above it still asks for the URL's own name."""

    def __init__(self, policy: SsrfPolicy, resolver: Resolver = resolve) -> None:
        self._policy = policy
        self._resolver = resolver
        self._inner: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check every answer, connect to the first that accepts."""
        try:
            addresses = ssrf.check_addresses(await self._resolver(host, port), self._policy)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the host can't be resolved") from error
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no Unix sockets."""
        raise ForbiddenTarget("no sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class SsrfSafeTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport on a guarded backend, without proxies from the environment."""

    def __init__(self, backend: SsrfSafeBackend, *, max_connections: int, verify: ssl.SSLContext | bool = True) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, trust_env=False),
            max_connections=max_connections,
            max_keepalive_connections=max(20, max_connections // 4),
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=backend,
        )


class SsrfSafeHttp:
    """POSTs to strangers' URLs: guarded, without redirects, cookies or proxies, each within one timeout in all."""

    def __init__(
        self,
        policy: SsrfPolicy,
        *,
        resolver: Resolver = resolve,
        max_connections: int = 1000,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._policy = policy
        self._transport = SsrfSafeTransport(
            SsrfSafeBackend(policy, resolver), max_connections=max_connections, verify=verify
        )

    async def post(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        keep_bytes: int = 2048,
        owner: str = "",
    ) -> Reply:
        """POST once; the reply reports whatever happens and keeps `keep_bytes` of the body.

        `owner`: the organization on whose behalf it is done; each has a share of the lookups of names.
        """
        began = time.perf_counter()
        try:
            ssrf.read_url(url, self._policy)
            # A connection is opened in the task of the request that needs it.
            with on_behalf_of(owner):
                async with asyncio.timeout(timeout_seconds):
                    status, answered, kept = await self._exchange(url, headers, body, keep_bytes)
        except NoResolverFree as error:
            return Reply(status=None, duration_ms=_since(began), error=error.detail, is_put_off=True)
        except (ForbiddenTarget, TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Reply(status=None, duration_ms=_since(began), error=_why(error, timeout_seconds))
        return Reply(status=status, headers=answered, body=kept, duration_ms=_since(began))

    async def _exchange(
        self, url: str, headers: Mapping[str, str], body: bytes, keep_bytes: int
    ) -> tuple[int, dict[str, str], bytes]:
        request = httpx.Request("POST", url, headers={"Accept": "*/*", **headers}, content=body)
        response = await self._transport.handle_async_request(request)
        kept, length = b"", 0
        try:
            async for chunk in response.aiter_raw():
                kept += chunk[: max(0, keep_bytes - len(kept))]
                length += len(chunk)
                if length >= _MOST_READ_BYTES:
                    break
        finally:
            await response.aclose()
        return response.status_code, dict(response.headers), kept

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


def _since(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)


def _why(error: Exception, timeout_seconds: float) -> str:
    if isinstance(error, ForbiddenTarget):
        return f"refused by the guard: {error.detail}"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no answer within {timeout_seconds:g} s"
    if isinstance(error, httpx.ConnectError):
        return f"could not connect: {_short(error)}"
    return f"the connection broke: {_short(error)}"


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
