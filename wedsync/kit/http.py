"""Share one HTTP pool among all requests to vendors.

Every request to a vendor goes through `VendorHttp.request`, which turns transport faults and statuses into the
family of `wedsync.domain.errors` and never retries: Temporal does.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal

import httpx
from pydantic import JsonValue

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.health.messages import AT_CAPACITY
from wedsync.domain.ssrf import ForbiddenTarget, SsrfPolicy
from wedsync.domain.vendors import http_outcome
from wedsync.kit.clock import utc_now
from wedsync.kit.http_trace import answered, traced
from wedsync.kit.http_transport import SSRF_POLICY, AiohttpTransport
from wedsync.kit.lookups import NoResolverFree

if importlib.util.find_spec("sniffio") is None:
    # httpcore tries to import it for every lock that it makes: a sixth of a call's time went into finding nothing.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

Form = Sequence[tuple[str, str]]
#: Reads (code, detail) from a vendor's error body; the detail must hold no guest's data.
ReadError = Callable[[int, Any], tuple[str, str]]

#: Raised before a byte was sent: the vendor can't have done anything.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
#: How long a call waits for one of the origin's connections; then it learns when to retry.
_POOL_WAIT_SECONDS, _POOL_AGAIN_SECONDS = 1.0, 1.0
#: What a request raises without an answer, whatever the reason; for callers outside that use `new_pool` directly.
TransportError = (httpx.TransportError, httpx.InvalidURL)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_USER_AGENT = "wedsync"
_ALWAYS_SENT = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": _USER_AGENT}
#: Why a streamed request has no answer: the time was up.
TIMED_OUT = "timed_out"
#: The most of an answer that is read.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024


class Pool(httpx.AsyncClient):
    """Connections of one process, so many for each origin: no environment proxies, redirects or cookies, bounded."""

    def __init__(self, max_connections: int) -> None:
        self._sends = AiohttpTransport(max_connections)
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        super().__init__(transport=self._sends, cookies=no_cookies, follow_redirects=False, trust_env=False)

    async def exchange(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        """Send a request as it is and read its answer, without httpx's work for browsing: a fifth of a call.

        Raises httpx.TransportError; RemoteProtocolError, too, for an answer longer than `MAX_RESPONSE_BYTES`.
        """
        with traced(request) as span:
            response = await self._sends.handle_async_request(request)
            answered(span, response.status_code)
            response.request = request
            body = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_RESPONSE_BYTES:
                        raise httpx.RemoteProtocolError("the answer is too long")
            finally:
                await response.aclose()
        return response, bytes(body)

    async def begin(self, request: httpx.Request) -> httpx.Response:
        """Send a request as it is; return its answer, still to be read and closed."""
        with traced(request) as span:
            response = await self._sends.handle_async_request(request)
            answered(span, response.status_code)
        response.request = request
        return response


def new_pool(*, max_connections: int = 200) -> Pool:
    """Make a pool of its own."""
    return Pool(max_connections)


class VendorResponse:
    """A 2xx answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, vendor: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._vendor = vendor

    def json(self) -> Any:
        """Return the body as JSON; raises OutcomeUnknown when it is not (the vendor did act)."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise OutcomeUnknown(
                f"{self._vendor} answered {self.status} with a body that is not JSON", vendor=self._vendor
            ) from None


class StreamedAnswer:
    """An answer of any status whose body is still coming, as it comes over the wire. Close it."""

    def __init__(self, response: httpx.Response, vendor: str, *, is_write: bool) -> None:
        self.status = response.status_code
        #: In the order of the wire; a name may come more than once. Latin-1, since nobody has named their encoding.
        self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        self._response = response
        self._vendor = vendor
        self._is_write = is_write

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes, still encoded; raises VendorUnavailable or OutcomeUnknown when it breaks off."""
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise _no_answer(self._vendor, error, is_write=self._is_write) from error

    async def close(self) -> None:
        """Let go of the connection; one whose body was not read to its end is not used again."""
        await self._response.aclose()


def _never_sent(vendor: str, error: Exception) -> VendorUnavailable:
    detail = f"{vendor} could not be reached ({type(error).__name__})"
    return VendorUnavailable(detail, vendor=vendor, reason="unreachable")


def _no_connection(vendor: str) -> VendorThrottled:
    """Report our own congestion: nothing against the vendor."""
    return VendorThrottled(
        f"all connections to {vendor} are taken here; nothing was sent",
        vendor=vendor,
        reason=AT_CAPACITY,
        retry_after_seconds=_POOL_AGAIN_SECONDS,
    )


@lru_cache(maxsize=2048)
def _url(text: str) -> httpx.URL:
    return httpx.URL(text)


def _unsendable() -> InvalidInput:
    """Report an error of our own, or of whoever gave us the request: nothing against the vendor."""
    return InvalidInput("the request can't be sent as it stands", field="headers")


def _encoded(json_body: JsonValue | None, form: Form | None, content: bytes | None) -> tuple[bytes | None, str]:
    """A body and its content type; an empty type: its sender says so."""
    if json_body is not None:
        return json.dumps(json_body, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"
    if form is not None:
        return str(httpx.QueryParams(list(form))).encode(), "application/x-www-form-urlencoded"
    return content, ""


def _no_answer(vendor: str, error: Exception, *, is_write: bool) -> VendorError:
    kind: type[VendorError] = OutcomeUnknown if is_write else VendorUnavailable
    reason = TIMED_OUT if isinstance(error, httpx.TimeoutException) else "no_answer"
    return kind(f"{vendor} gave no answer ({type(error).__name__})", vendor=vendor, reason=reason)


@contextmanager
def _as_vendors(vendor: str, *, is_write: bool) -> Iterator[None]:
    """Return what went wrong with a request as an error of `wedsync.domain.errors`."""
    try:
        yield
    except (httpx.PoolTimeout, NoResolverFree) as error:
        raise _no_connection(vendor) from error
    except ForbiddenTarget as error:
        raise InvalidInput(error.detail, field="base_url", reason=error.code) from error
    except (*_NEVER_SENT, httpx.InvalidURL) as error:
        raise _never_sent(vendor, error) from error
    except httpx.LocalProtocolError as error:
        raise _unsendable() from error
    except httpx.HTTPError as error:
        raise _no_answer(vendor, error, is_write=is_write) from error


def default_error(status: int, body: Any) -> tuple[str, str]:
    """Return `(code, detail)` when nothing better is known."""
    return f"http_{status}", f"answered {status}"


class VendorHttp:
    """Speaks HTTP to one account of one vendor."""

    def __init__(
        self,
        pool: Pool,
        *,
        vendor: str,
        base_url: str,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        unavailable_means_not_processed: bool = True,
        read_error: ReadError = default_error,
    ) -> None:
        self._pool = pool
        self.vendor = vendor
        self.base_url = base_url.rstrip("/")
        self._timeout = httpx.Timeout(
            timeout_seconds, connect=min(3.0, timeout_seconds), pool=min(_POOL_WAIT_SECONDS, timeout_seconds)
        ).as_dict()
        #: Sent with each request; the pipeline puts correlation headers here.
        self.headers = dict(headers or {})
        self._not_processed = unavailable_means_not_processed
        self.read_error = read_error
        #: The headers of the newest answer, of any status: rate-limit state for the caller.
        self.last_headers: Mapping[str, str] = {}
        #: Gets the headers of every answer, whatever its status.
        self.on_headers: Callable[[Mapping[str, str]], None] | None = None

    async def request(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"],
        path: str,
        *,
        write: bool | None = None,
        params: Form | None = None,
        json_body: JsonValue | None = None,
        form: Form | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> VendorResponse:
        """Send one request and return a 2xx answer.

        `path` starts with `/` and is added to the base URL (a full URL is taken as it is, and guarded when it leads
        elsewhere). `form` is sent in the order given. JSON is sent compact, UTF-8, in key order of insertion. `write`
        defaults to "not GET or HEAD".

        Raises InvalidInput (HTTP can't carry it; or the full URL leads to an address that is not public),
        VendorRejected (4xx), NotAuthorized (401), VendorThrottled (429; without a status and for reason="at_capacity"
        when no connection was free here), VendorUnavailable (never sent, 503), OutcomeUnknown (a write that timed out,
        was dropped, or got another 5xx, a redirect or too long an answer).
        """
        is_write = method not in ("GET", "HEAD") if write is None else write
        body, content_type = _encoded(json_body, form, content)
        sent_headers = {**_ALWAYS_SENT, **self.headers, **(headers or {})}
        if content_type:
            sent_headers.setdefault("Content-Type", content_type)
        if auth is not None:
            sent_headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        with _as_vendors(self.vendor, is_write=is_write):
            url = _url(path if "://" in path else self.base_url + path)
            request = httpx.Request(
                method,
                url,
                params=list(params) if params else None,
                content=body,
                headers=sent_headers,
                extensions={"timeout": self._timeout, SSRF_POLICY: self._ssrf_policy(url)},
            )
            response, answer = await self._pool.exchange(request)
        self.last_headers = response.headers
        if self.on_headers is not None:
            self.on_headers(response.headers)
        self._raise_for_status(response, answer, is_write)
        return VendorResponse(response.status_code, response.headers, answer, self.vendor)

    def _ssrf_policy(self, url: httpx.URL) -> SsrfPolicy | None:
        """Guard a URL beyond the account's own origin, which is a stranger's: from a plan, or a vendor's answer."""
        own = _url(self.base_url)
        if not own.host or (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port):
            return None
        return SsrfPolicy(allow_loopback=own.scheme == "http" and own.host in _LOOPBACK)

    async def stream(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"],
        path: str,
        *,
        headers: Sequence[tuple[str, str]],
        query: str = "",
        body: AsyncIterator[bytes] | None = None,
    ) -> StreamedAnswer:
        """Send one request as given, its body as it comes, and return the answer, of any status, once it begins.

        `path` and `query` are as on the wire; a `Content-Length` among the headers frames the body. Raises
        VendorThrottled(reason="at_capacity") and VendorUnavailable(reason="unreachable") when nothing was sent,
        VendorUnavailable or, for a write, OutcomeUnknown (reason="timed_out" or "no_answer"), and InvalidInput for what
        HTTP can't carry. Passes on what `body` raises.
        """
        is_write = method not in ("GET", "HEAD")
        sent = [("User-Agent", _USER_AGENT), *self.headers.items(), *headers]
        with _as_vendors(self.vendor, is_write=is_write):
            request = httpx.Request(
                method,
                self.base_url + path + (f"?{query}" if query else ""),
                headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent],
                content=body,
                extensions={"timeout": self._timeout},
            )
            response = await self._pool.begin(request)
        if self.on_headers is not None:
            self.on_headers(response.headers)
        return StreamedAnswer(response, self.vendor, is_write=is_write)

    def _raise_for_status(self, response: httpx.Response, body: bytes, write: bool) -> None:
        status = response.status_code
        decided = http_outcome.verdict(status, write=write, unavailable_means_not_processed=self._not_processed)
        if decided == "ok":
            return
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        code, detail = self.read_error(status, parsed)
        message = f"{self.vendor}: {detail}"
        if decided == "throttled":
            raise VendorThrottled(
                message,
                vendor=self.vendor,
                reason=code,
                status=status,
                retry_after_seconds=http_outcome.retry_after_seconds(response.headers, utc_now()),
            )
        kinds: dict[str, type[VendorError]] = {
            "not_authorized": NotAuthorized,
            "unavailable": VendorUnavailable,
            "unknown": OutcomeUnknown,
        }
        raise kinds.get(decided, VendorRejected)(message, vendor=self.vendor, reason=code, status=status)
