"""Decide what of a partner's request may pass to a vendor, and what of the answer may pass back. Pure.

Everything is refused or left out unless it is known to be harmless: the request carries the platform's own
credential, so that a path or a header too many would be the platform's doing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_plus, urlencode

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorError,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.vendors import http_outcome
from wedsync.domain.vendors.manifest import GatewayPolicy

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Headers = list[tuple[str, str]]

MOST_PATH_CHARACTERS = 2048
MOST_QUERY_CHARACTERS = 8192
#: Of one connection only: RFC 9110, 7.6.1, with two that were never registered but occur.
HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
#: What every service's requests may carry; its policy names further ones.
REQUEST_HEADERS = frozenset((
    "accept", "accept-encoding", "accept-language", "cache-control", "content-encoding", "content-language",
    "content-length", "content-type", "idempotency-key", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "prefer", "range",
))  # fmt: skip
#: No policy lets these through: they name callers, choose another method, path or host, or are ours.
_NEVER_SENT = HOP_BY_HOP | frozenset((
    "authorization", "cookie", "cookie2", "expect", "forwarded", "host", "true-client-ip", "via", "x-api-key",
    "x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-real-ip", "x-request-id",
    "x-rewrite-url", "baggage", "traceparent", "tracestate",
))  # fmt: skip
#: A vendor's words to browsers, servers and credentials of its own callers are not for ours.
_NEVER_RETURNED = HOP_BY_HOP | frozenset((
    "alt-svc", "authentication-info", "authorization", "clear-site-data", "content-security-policy",
    "content-security-policy-report-only", "cookie", "date", "forwarded", "nel", "public-key-pins", "refresh",
    "report-to", "reporting-endpoints", "server", "service-worker-allowed", "set-cookie", "set-cookie2", "sourcemap",
    "strict-transport-security", "via", "www-authenticate", "x-powered-by", "x-real-ip", "x-request-id", "baggage",
    "traceparent", "tracestate",
))  # fmt: skip
_INTERNAL = ("x-forwarded-", "x-wedsync-", "x-envoy-", "x-internal-", "access-control-", "proxy-")
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+")
_QUERY = re.compile(r"[\x21\x24-\x3b\x3d\x3f-\x7e]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
#: Bytes that mean something else to whoever decodes the path a second time.
_TRICKS = frozenset(b"./\\%?#;") | frozenset(range(0x20)) | {0x7F}


def clean_path(raw: str) -> str:
    """Normalize the path (RFC 3986, 6.2.2): escapes in upper case, what needs none unescaped.

    `raw` is the path as received, without the query, and starts with `/`. Raises
    InvalidInput(reason="gateway_path_invalid") for anything that two readers could take for two paths: dot segments,
    empty segments, escaped dots, slashes, backslashes, percent signs or control characters, path parameters, and URLs.
    """
    if not raw.startswith("/") or len(raw) > MOST_PATH_CHARACTERS:
        raise _bad_path(f"it starts with a slash and has {MOST_PATH_CHARACTERS} characters at most")
    segments = raw[1:].split("/")
    if any(not segment for segment in segments[:-1]):
        raise _bad_path("it has an empty segment")
    return "/" + "/".join(_clean_segment(segment) for segment in segments)


def _clean_segment(segment: str) -> str:
    if segment in (".", ".."):
        raise _bad_path("it has a dot segment")
    if segment and not _SEGMENT.fullmatch(segment):
        raise _bad_path("it has a character that a path may not have")
    return _ESCAPE.sub(_clean_escape, segment)


def _clean_escape(found: re.Match[str]) -> str:
    byte = int(found[1], 16)
    if byte in _TRICKS:
        raise _bad_path("it escapes a dot, a slash or another character with a meaning")
    return chr(byte) if chr(byte) in _UNRESERVED else found[0].upper()


def _bad_path(why: str) -> InvalidInput:
    return InvalidInput(f"the path can't be passed on: {why}", field="path", reason="gateway_path_invalid")


def allowed_by(policy: GatewayPolicy, method: str, path: str) -> str | None:
    """Return the rule that lets the request through, or None. `path` is clean; a rule for GET holds for HEAD, too."""
    for rule in policy.allow:
        verb, _, pattern = rule.partition(" ")
        if (verb == method or (verb == "GET" and method == "HEAD")) and _compiled(pattern).fullmatch(path):
            return rule
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a rule's path: `*` matches any characters but a slash; `**` any characters."""
    parts = re.split(r"(\*\*|\*)", pattern)
    words = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts))


def request_headers(received: Iterable[tuple[str, str]], policy: GatewayPolicy) -> Headers:
    """Select the headers of a partner's request that go on to the vendor, names in lower case."""
    headers = [(name.lower(), value) for name, value in received]
    named = _named_by_connection(headers)
    further = {name.lower() for name in policy.headers}
    kept = [
        (name, value)
        for name, value in headers
        if (name in REQUEST_HEADERS or name in further) and not _is_refused(name, _NEVER_SENT, named)
    ]
    if not any(name == "accept-encoding" for name, _ in kept):
        # Bodies pass through unchanged, so nobody gets a compressed one who did not ask for it.
        kept.append(("accept-encoding", "identity"))
    return kept


def response_headers(received: Iterable[tuple[str, str]]) -> Headers:
    """Select the headers of a vendor's answer that go back to the partner, names in lower case."""
    headers = [(name.lower(), value) for name, value in received]
    named = _named_by_connection(headers)
    return [(name, value) for name, value in headers if not _is_refused(name, _NEVER_RETURNED, named)]


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    listed = ",".join(value for name, value in headers if name == "connection")
    return frozenset(name.strip().lower() for name in listed.split(","))


def _is_refused(name: str, never: frozenset[str], named: frozenset[str]) -> bool:
    # A Connection header can't remove the header that says how long a body is.
    return name in never or name.startswith(_INTERNAL) or (name in named and name != "content-length")


def fault_of(
    vendor: str, method: str, status: int, headers: Mapping[str, str], now: datetime, *, is_503_undone: bool
) -> VendorError | None:
    """Return the error that a forwarded answer stands for, as the circuit and the record count it; None: all well.

    `is_503_undone` is the manifest's `unavailable_means_not_processed`.
    """
    if status < 400:
        return None
    decided = http_outcome.verdict(
        status, write=method not in ("GET", "HEAD"), unavailable_means_not_processed=is_503_undone
    )
    detail, reason = f"{vendor} answered {status}", f"http_{status}"
    if decided == "throttled":
        wait = http_outcome.retry_after_seconds(headers, now)
        return VendorThrottled(detail, vendor=vendor, reason=reason, status=status, retry_after_seconds=wait)
    kinds: dict[str, type[VendorError]] = {
        "not_authorized": NotAuthorized,
        "unavailable": VendorUnavailable,
        "unknown": OutcomeUnknown,
    }
    return kinds.get(decided, VendorRejected)(detail, vendor=vendor, reason=reason, status=status)


def may_use(policy: GatewayPolicy, organization_id: str, *, is_operator: bool) -> bool:
    """Tell whether the organization's keys may use the gateway; operators' may."""
    return is_operator or organization_id in policy.organizations


def check_query(query: str) -> None:
    """Raise InvalidInput(reason="gateway_path_invalid") for a query that is too long or has what a URL may not have."""
    if len(query) > MOST_QUERY_CHARACTERS or not _QUERY.fullmatch(query):
        detail = f"a query has at most {MOST_QUERY_CHARACTERS} characters, of those that a URL may have"
        raise InvalidInput(detail, field="query", reason="gateway_path_invalid")


def with_params(query: str, params: Iterable[tuple[str, str]]) -> str:
    """Add the credential's parameters, which nobody else may give, to the partner's query as it was received."""
    own = list(params)
    names = {name.lower() for name, _ in own}
    parts = [part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]).lower() not in names]
    return "&".join([*parts, *(urlencode([pair]) for pair in own)]) if own else query
