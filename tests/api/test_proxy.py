from __future__ import annotations

import gzip
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.support.proxy import GIVEN, Gate, problem, problem_of
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import VendorSettings
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.routing import circuits

# -- who may, and what ------------------------------------------------------------------------------------------------


async def test_by_default_nothing_passes(gate: Gate) -> None:
    assert problem(await gate.send("GET", "/stripe/v1/balance")) == (403, "gateway_forbidden")
    assert problem(await gate.send("GET", "/nobody/v1/balance")) == (404, "not_found")
    assert await gate.sandbox.requests("stripe") == []


async def test_what_is_listed_passes_by_the_platforms_credential_and_nothing_else_does(gate: Gate) -> None:
    await gate.open("stripe", {"allow": ["POST /v1/payment_intents", "GET /v1/payment_intents/*"]})
    form = {"amount": "1500", "currency": "eur"}
    made = await gate.send("POST", "/stripe/v1/payment_intents", data=form, headers={"Idempotency-Key": "partner-1"})
    assert made.status_code == 200, made.text
    assert made.headers["x-wedsync-service"] == "stripe"
    intent = made.json()["id"]
    read = await gate.send("GET", f"/stripe/v1/payment_intents/{intent}")
    assert (read.status_code, read.json()["amount"]) == (200, 1500)
    again = await gate.send("POST", "/stripe/v1/payment_intents", data=form, headers={"Idempotency-Key": "partner-1"})
    assert again.json()["id"] == intent

    sent = (await gate.sandbox.requests("stripe"))[0]["headers"]
    assert sent["authorization"] == "Bearer platform-key"
    assert sent["idempotency-key"] == "partner-1"
    assert sent["stripe-version"] == "2026-10-28.endive"
    assert problem(await gate.send("GET", "/stripe/v1/balance")) == (403, "gateway_forbidden")
    assert problem(await gate.send("DELETE", f"/stripe/v1/payment_intents/{intent}")) == (403, "gateway_forbidden")


async def test_only_operators_and_the_organizations_that_are_named_may(
    new_api: Any, fresh_database_urls: Any, gateway_sandbox: EmbeddedSandbox
) -> None:
    given = VendorSettings.model_validate({"base_url": gateway_sandbox.vendor_url("stripe"), **GIVEN})
    api = await new_api(fresh_database_urls, vendors={"stripe": given})
    policy = {"allow": ["GET /v1/balance"]}
    assert (await api.http.put("/api/v1/services/stripe", json={"gateway": policy})).status_code == 200
    assert (await api.get("/gateway/stripe/v1/balance")).status_code == 200
    named = {**policy, "organizations": [api.access.organization_id]}
    shown = await api.http.put("/api/v1/services/stripe", json={"gateway": named})
    assert shown.json()["gateway"]["organizations"] == []

    # The same keys where they are no operator's.
    api.app.state.settings = api.settings.model_copy(update={"environment": "production"})
    api.app.state.settings.__dict__.pop("is_local", None)
    assert (await api.get("/gateway/stripe/v1/balance")).status_code == 200
    controller = api.app.state.admission_controller
    config = controller.routing_table.config("stripe")
    closed = config.model_copy(update={"gateway": config.gateway.model_copy(update={"organizations": ()})})
    async with controller.breakers.db.system() as conn:
        await circuits.put_config(conn, closed, "key:test", utc_now())
    await controller.routing_table.load()
    assert problem(await api.get("/gateway/stripe/v1/balance")) == (403, "gateway_forbidden")
    assert (await api.http.get("/api/v1/gateway/stripe/v1/balance", headers={"Authorization": "x"})).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/gateway/vsco/../secret",
        "/api/v1/gateway/vsco/a/%2e%2e/secret",
        "/api/v1/gateway/vsco/a%2fb",
        "/api/v1/gateway/vsco//evil.example.com/",
        "/api/v1/gateway/vsco/%252e%252e/secret",
        "/api/v1/gateway/vsco/a/..%5csecret",
        "/api/v1/gateway/vsco/http://evil.example.com/",
        "/api/v1/gateway/%76sco/a",
        "/api/v1/gateway/vsco/a;b",
    ],
)
async def test_a_path_of_two_readings_never_leaves(gate: Gate, path: str) -> None:
    await gate.open("vsco")
    answer = await gate.wire(f"GET {path} HTTP/1.1\r\n\r\n")
    assert problem_of(answer) == (400, "gateway_path_invalid")
    assert gate.raw.taken == []


# -- what is carried --------------------------------------------------------------------------------------------------


async def test_headers_are_filtered_both_ways(gate: Gate) -> None:
    await gate.open("vsco")
    gate.raw.answers(
        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\nRequest-Id: r1\r\nX-Hop: 1\r\n"
        b"Connection: close, X-Hop\r\nSet-Cookie: session=theirs; Path=/\r\nServer: nginx\r\nX-Request-Id: theirs\r\n"
        b'WWW-Authenticate: Basic\r\nX-Wedsync-Service: evil\r\nETag: "1"\r\n\r\n{}'
    )
    sent = {
        "Cookie": "a=b",
        "X-API-KEY": "partners-own",
        "X-Forwarded-For": "10.0.0.1",
        "X-HTTP-Method-Override": "DELETE",
        "X-Hop": "1",
        "If-Match": '"0"',
        "Connection": "keep-alive, X-Hop",
        "X-Request-Id": "mine",
    }
    for _ in range(2):
        answer = await gate.send("PUT", "/vsco/order/%41?b=%2F&a=1+2&a=", content=b"{}", headers=sent)
    assert (answer.status_code, answer.content) == (201, b"{}")
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-wedsync-service"] == "vsco"
    assert (answer.headers["etag"], answer.headers["request-id"]) == ('"1"', "r1")
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert not {"set-cookie", "www-authenticate", "x-hop"} & set(answer.headers)
    assert answer.headers["server"] == "uvicorn"

    taken = gate.raw.taken[1]
    assert taken.line == "PUT /api/order/A?b=%2F&a=1+2&a= HTTP/1.1"
    assert taken.headers["x-api-key"] == "platform-key"
    assert taken.headers["if-match"] == '"0"'
    assert taken.headers["content-length"] == "2"
    assert taken.headers["host"] == urlsplit(gate.raw.url).netloc
    assert not {"cookie", "authorization", "x-forwarded-for", "x-http-method-override", "x-hop", "x-request-id"} & set(
        taken.headers
    )


async def test_a_header_of_any_bytes_comes_through_both_ways(gate: Gate) -> None:
    await gate.open("vsco")
    gate.raw.answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Name: Zürich 婚\r\nConnection: close\r\n\r\n".encode())
    answer = await gate.send("GET", "/vsco/a", headers=[(b"If-Match", "é婚".encode())])
    assert answer.status_code == 200
    raw = {name.lower(): value for name, value in answer.headers.raw}
    assert raw[b"x-name"] == "Zürich 婚".encode()
    assert gate.raw.taken[0].headers["if-match"].encode("latin-1") == "é婚".encode()


async def test_a_credential_in_the_query_is_ours(gate: Gate) -> None:
    await gate.open("vonage")
    assert (await gate.send("GET", "/vonage/account?api_key=mine&to=1")).status_code == 200
    query = urlsplit(gate.raw.taken[0].line.split(" ")[1]).query
    assert parse_qsl(query) == [("to", "1"), ("api_key", "platform-key"), ("api_secret", "platform-secret")]


async def test_twilio_is_asked_by_basic_and_paypal_by_a_token_that_is_renewed(gate: Gate) -> None:
    for service in ("twilio", "paypal"):
        await gate.open(service)
    await gate.send("GET", "/twilio/2010-04-01/Accounts.json")
    sent = (await gate.sandbox.requests("twilio"))[0]["headers"]["authorization"]
    assert sent == httpx.BasicAuth("platform-account", "platform-key")._auth_header
    assert (await gate.send("GET", "/paypal/v2/checkout/orders/none")).status_code == 404
    # PayPal forgets its tokens.
    await gate.sandbox.reset()
    assert (await gate.send("GET", "/paypal/v2/checkout/orders/none")).status_code == 404
    assert [one["operation"] for one in await gate.sandbox.requests("paypal")] == ["get_order", "token", "get_order"]


async def test_without_a_credential_nothing_is_sent(gate: Gate) -> None:
    await gate.open("sendgrid")
    assert problem(await gate.send("GET", "/sendgrid/v3/scopes")) == (502, "vendor_not_authorized")
    assert gate.raw.taken == []


async def test_a_head_has_the_headers_of_a_get_and_no_body(gate: Gate) -> None:
    await gate.open("vsco", {"allow": ["GET /file"]})
    gate.raw.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 123456789012\r\nConnection: close\r\n\r\n")
    answer = await gate.send("HEAD", "/vsco/file")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "123456789012"
    assert gate.raw.taken[0].line == "HEAD /api/file HTTP/1.1"


async def test_bodies_stay_encoded_as_they_are(gate: Gate) -> None:
    await gate.open("vsco")
    packed = gzip.compress(b"a" * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\nConnection: close\r\n\r\n"
    gate.raw.answers(head.encode() + packed)
    async with gate.http.stream("GET", "/api/v1/gateway/vsco/a", headers={"Accept-Encoding": "gzip"}) as answer:
        assert b"".join([chunk async for chunk in answer.aiter_raw()]) == packed
    async with gate.http.stream("GET", "/api/v1/gateway/vsco/a", headers={"Accept-Encoding": ""}) as answer:
        await answer.aread()
    assert gate.raw.taken[0].headers["accept-encoding"] == "gzip"
