from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wedsync.domain.errors import (
    InvalidInput,
    NotAuthorized,
    OutcomeUnknown,
    VendorRejected,
    VendorThrottled,
    VendorUnavailable,
)
from wedsync.domain.proxy import pass_through as rules
from wedsync.domain.vendors.manifest import GatewayPolicy

NOW = datetime(2027, 6, 12, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("/", "/"),
        ("/v1/products", "/v1/products"),
        ("/v1/products/", "/v1/products/"),
        ("/v1/%41bc%7e", "/v1/Abc~"),
        ("/v1/caf%c3%a9", "/v1/caf%C3%A9"),
        ("/v1/a.json", "/v1/a.json"),
        ("/v1/a%20b", "/v1/a%20b"),
    ],
)
def test_a_path_has_one_spelling(raw: str, clean: str) -> None:
    assert rules.clean_path(raw) == clean


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "v1",
        "//evil.example.com/v1",
        "/v1//products",
        "/v1/../secret",
        "/v1/./products",
        "/..",
        "/.",
        "/v1/%2e%2e/secret",
        "/v1/%2E./secret",
        "/v1%2fsecret",
        "/v1%2Fsecret",
        "/v1/%5c..%5csecret",
        "/v1\\secret",
        "/v1/%252e%252e/secret",
        "/v1/..;/secret",
        "/v1/a;b=c",
        "/v1/a%3bb",
        "/v1/a%00",
        "/v1/a%0d%0aHost:%20x",
        "/v1/a\r\nb",
        "/v1/a%",
        "/v1/a%4",
        "/v1/a%zz",
        "/v1/a%3fb",
        "/v1/a%23b",
        "/v1/a?b",
        "/v1/a#b",
        "/v1/é",
        "/http://evil.example.com/",
        "/" + "a" * 2048,
    ],
)
def test_a_path_of_two_readings_is_refused(raw: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        rules.clean_path(raw)
    assert caught.value.reason == "gateway_path_invalid"


@given(st.text(alphabet="/.%2eEfFcC5;\\aA?#@: ", max_size=20).map(lambda tail: f"/{tail}"))
def test_no_clean_path_climbs_however_often_it_is_decoded(raw: str) -> None:
    try:
        path = rules.clean_path(raw)
    except InvalidInput:
        return
    assert rules.clean_path(path) == path
    once = unquote(path)
    assert unquote(once) == once
    assert not {".", ".."} & set(once.split("/"))
    assert "//" not in once
    assert "\\" not in once
    assert once.count("/") == path.count("/")


POLICY = GatewayPolicy(
    allow=("GET /v1/products", "GET /v1/products/*", "POST /v1/quotes/*/accept", "DELETE /v1/drafts/**", "GET /v1/a.b")
)


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/v1/products", "GET /v1/products"),
        ("HEAD", "/v1/products", "GET /v1/products"),
        ("GET", "/v1/products/p1", "GET /v1/products/*"),
        ("POST", "/v1/quotes/q1/accept", "POST /v1/quotes/*/accept"),
        ("DELETE", "/v1/drafts/a/b", "DELETE /v1/drafts/**"),
        ("GET", "/v1/products/p1/prices", None),
        ("POST", "/v1/products", None),
        ("HEAD", "/v1/quotes/q1/accept", None),
        ("POST", "/v1/quotes/q1/x/accept", None),
        ("GET", "/v1/productsx", None),
        ("GET", "/x/v1/products", None),
        ("GET", "/v1/aXb", None),
        ("GET", "/V1/products", None),
    ],
)
def test_only_what_is_listed_passes(method: str, path: str, rule: str | None) -> None:
    assert rules.allowed_by(POLICY, method, path) == rule


def test_by_default_nothing_passes() -> None:
    assert rules.allowed_by(GatewayPolicy(), "GET", "/") is None
    assert not rules.may_use(GatewayPolicy(), "org", is_operator=False)
    assert rules.may_use(GatewayPolicy(organizations=("org",)), "org", is_operator=False)
    assert rules.may_use(GatewayPolicy(), "org", is_operator=True)


@pytest.mark.parametrize("rule", ["/v1", "TRACE /v1", "GET v1", "get /v1", "GET /v1 x", "GET /a\n", "CONNECT /"])
def test_a_rule_that_can_not_be_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError):
        GatewayPolicy(allow=(rule,))


def test_a_request_carries_what_is_known_to_be_harmless() -> None:
    given_headers = [
        ("Accept", "application/json"),
        ("Accept-Encoding", "gzip"),
        ("Content-Type", "application/json"),
        ("Content-Length", "2"),
        ("Idempotency-Key", "k1"),
        ("X-Extra", "yes"),
        ("Connection", "keep-alive, If-Match, content-length"),
        ("If-Match", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("Transfer-Encoding", "chunked"),
        ("Host", "api.example.com"),
        ("Authorization", "Bearer wsk_1"),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "evil"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Wedsync-Wedding", "w1"),
        ("X-Request-Id", "r1"),
        ("Stripe-Account", "acct_other"),
        ("traceparent", "00-1-1-00"),
    ]
    policy = GatewayPolicy(headers=("X-Extra", "Authorization", "Cookie", "X-Forwarded-For", "X-HTTP-Method-Override"))
    assert rules.request_headers(given_headers, policy) == [
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json"),
        ("content-length", "2"),
        ("idempotency-key", "k1"),
        ("x-extra", "yes"),
    ]
    assert rules.request_headers([], policy) == [("accept-encoding", "identity")]


def test_an_answer_carries_nothing_of_the_vendors_connection_credential_or_cookies() -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", "2"),
        ("Content-Encoding", "gzip"),
        ("Request-Id", "req_1"),
        ("RateLimit", '"a";r=1'),
        ("ETag", '"1"'),
        ("Location", "/v1/products/2"),
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "X-Sum"),
        ("Set-Cookie", "session=1"),
        ("WWW-Authenticate", "Bearer"),
        ("Server", "nginx"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Wedsync-Service", "stripe"),
        ("X-Request-Id", "theirs"),
    ]
    names = [name for name, _ in rules.response_headers(headers)]
    assert names == [
        "content-type",
        "content-length",
        "content-encoding",
        "request-id",
        "ratelimit",
        "etag",
        "location",
    ]


def test_the_credentials_parameters_are_ours_alone() -> None:
    params = [("api_key", "k&1"), ("api_secret", "s")]
    asked = "to=1&api_key=mine&API_SECRET=mine&api%5Fkey=mine&text=a+b%26c"
    assert rules.with_params(asked, params) == "to=1&text=a+b%26c&api_key=k%261&api_secret=s"
    assert rules.with_params("a&&b=1", []) == "a&&b=1"


@pytest.mark.parametrize("query", ["a b", "a#b", 'a"b', "a\r\nb", "é", "a" * 8193])
def test_a_query_that_a_url_may_not_have_is_refused(query: str) -> None:
    with pytest.raises(InvalidInput):
        rules.check_query(query)


@pytest.mark.parametrize(
    ("method", "status", "kind"),
    [
        ("GET", 200, None),
        ("GET", 304, None),
        ("POST", 302, None),
        ("POST", 402, VendorRejected),
        ("POST", 401, NotAuthorized),
        ("GET", 429, VendorThrottled),
        ("POST", 500, OutcomeUnknown),
        ("GET", 500, VendorUnavailable),
        ("HEAD", 502, VendorUnavailable),
        ("POST", 503, VendorUnavailable),
    ],
)
def test_an_answer_counts_for_the_vendor_as_every_call_does(method: str, status: int, kind: type | None) -> None:
    fault = rules.fault_of("stripe", method, status, {"Retry-After": "7"}, NOW, is_503_undone=True)
    assert type(fault) is (kind or type(None))
    if isinstance(fault, VendorThrottled):
        assert fault.retry_after_seconds == 7
