from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.support.gateway import RawVendor, Taken, raw_vendor, served
from tests.support.routing import eventually, rows
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.sandbox.embedded import EmbeddedSandbox

GIVEN = {
    "api_key": "platform-key",
    "account_id": "platform-account",
    "client_id": "platform-client",
    "client_secret": "platform-secret",
}
WHOLE = {"allow": ["GET /**", "POST /**", "PUT /**", "PATCH /**", "DELETE /**"]}


@pytest.fixture(scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedSandbox]:
    with EmbeddedSandbox(Settings(state_dir=tmp_path_factory.mktemp("sandbox"))) as running:
        yield running
        await running.close()


@dataclass
class Gate:
    """The application on a real port, between a partner and its vendors: stripe and others by the sandbox, vsco raw."""

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
        """The answer to a request that is sent as it stands but for the headers that all have."""
        url = self.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        line, _, rest = request.partition("\r\n")
        key = self.http.headers["authorization"]
        writer.write(f"{line}\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n{rest}".encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def calls(self, number: int = 1) -> list[Any]:
        """The records of what was passed on, in order, once there are so many."""
        board = self.api.app.state.switchboard

        async def found() -> list[Any]:
            await board.outcomes.flush()
            made = await rows(board, "SELECT * FROM vendor_calls ORDER BY id")
            return made if len(made) >= number else []

        made: list[Any] = await eventually(found)
        return made


@pytest.fixture
async def gate(new_api: Any, fresh_database_urls: Any, sandbox: EmbeddedSandbox) -> AsyncIterator[Gate]:
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
    new_api: Any, fresh_database_urls: Any, sandbox: EmbeddedSandbox
) -> None:
    given = VendorSettings.model_validate({"base_url": sandbox.vendor_url("stripe"), **GIVEN})
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
    board = api.app.state.switchboard
    board.book._configured["stripe"] = board.book.config("stripe").model_copy(
        update={"gateway": board.book.config("stripe").gateway.model_copy(update={"organizations": ()})}
    )
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


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_an_answer_arrives_while_the_vendor_is_still_sending(gate: Gate) -> None:
    await gate.open("vsco")
    go_on, piece = asyncio.Event(), b"x" * 65_536

    async def play(taken: Taken) -> None:
        await taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nfirst\r\n")
        await go_on.wait()
        for _ in range(256):
            await taken.say(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await taken.say(b"0\r\n\r\n")

    gate.raw.play = play
    size = 0
    async with asyncio.timeout(20), gate.http.stream("GET", "/api/v1/gateway/vsco/film") as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            if not go_on.is_set():
                assert chunk == b"first"
                go_on.set()
            size += len(chunk)
    assert size == 5 + 256 * len(piece)


async def test_a_request_arrives_while_the_partner_is_still_sending(gate: Gate) -> None:
    await gate.open("vsco")
    arrived, piece, sizes = asyncio.Event(), b"y" * 65_536, []

    async def play(taken: Taken) -> None:
        sizes.append(len(await taken.chunk()))
        arrived.set()
        sizes.append(len(await taken.body()))
        await taken.say(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        # In time, or the client would never come to read why it did not arrive.
        async with asyncio.timeout(5):
            await arrived.wait()
        for _ in range(64):
            yield piece

    gate.raw.play = play
    async with asyncio.timeout(20):
        answer = await gate.send("POST", "/vsco/film", content=body())
    assert (answer.status_code, answer.content) == (204, b"")
    assert sizes == [5, 64 * len(piece)]


async def test_the_partners_own_slowness_is_not_the_vendors(gate: Gate) -> None:
    await gate.open("vsco")
    took = []

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        began = time.perf_counter()
        for _ in range(20):
            assert (await gate.api.get("/services")).status_code == 200
        took.append((time.perf_counter() - began) * 1000)
        yield b"last"

    assert (await gate.send("POST", "/vsco/film", content=body())).status_code == 200
    assert gate.raw.bodies == [b"firstlast"]
    (call,) = await gate.calls()
    assert call.duration_ms < took[0]


async def test_a_partner_who_leaves_lets_go_of_the_vendor(gate: Gate) -> None:
    await gate.open("vsco")
    gone = asyncio.Event()

    async def play(taken: Taken) -> None:
        await taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert await taken.reader.read() == b""
        gone.set()

    gate.raw.play = play
    async with gate.http.stream("GET", "/api/v1/gateway/vsco/film") as answer:
        assert await anext(answer.aiter_raw()) == b"first"
    async with asyncio.timeout(10):
        await gone.wait()
        calls = await gate.calls()
    assert [call.outcome for call in calls] == ["ok"]
    assert gate.api.app.state.switchboard._measured["vsco", "default"].in_flight == 0


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_body_beyond_the_limit_is_refused_declared_or_streamed(gate: Gate) -> None:
    await gate.open("vsco", {**WHOLE, "request_max_bytes": 2_000_000})

    async def streamed(pieces: int) -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"z" * 100_000

    assert problem(await gate.send("POST", "/vsco/film", content=b"z" * 2_000_001)) == (413, "content_too_large")
    assert gate.raw.taken == []
    assert problem(await gate.send("POST", "/vsco/film", content=streamed(21))) == (413, "content_too_large")
    assert gate.raw.bodies == [], "the vendor must not take the beginning for the whole"
    assert (await gate.send("POST", "/vsco/film", content=streamed(20))).status_code == 200
    assert [len(body) for body in gate.raw.bodies] == [2_000_000]


async def test_an_answer_beyond_the_limit_never_looks_whole(gate: Gate) -> None:
    await gate.open("vsco", {**WHOLE, "response_max_bytes": 1000})
    gate.raw.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n" + b"a" * 1001)
    assert problem(await gate.send("GET", "/vsco/film")) == (502, "answer_too_large")
    gate.raw.answers(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"a" * 1001)
    with pytest.raises(httpx.RemoteProtocolError):
        await gate.send("GET", "/vsco/film")
    assert [call.reason for call in await gate.calls(2)] == ["answer_too_large"] * 2


async def test_a_partner_who_stalls_is_not_waited_for(gate: Gate) -> None:
    await gate.open("vsco", {**WHOLE, "total_seconds": 0.3})
    head = "POST /api/v1/gateway/vsco/film HTTP/1.1\r\nContent-Length: 9\r\n"
    assert problem_of(await gate.wire(head + "\r\na")) == (408, "request_timeout")


# -- the pipeline -----------------------------------------------------------------------------------------------------


async def test_the_vendors_own_errors_are_passed_on_and_open_its_circuit(gate: Gate) -> None:
    circuit = {"min_calls": 4, "open_seconds": 30}
    await gate.open("vsco", circuit=circuit)
    gate.raw.answers(b"HTTP/1.1 402 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\npoor")
    for _ in range(5):
        refused = await gate.send("GET", "/vsco/a")
        assert (refused.status_code, refused.text) == (402, "poor")
    gate.raw.answers(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\nRetry-After: 9\r\nConnection: close\r\n\r\ndown")
    # Of services that nobody stands in for the last one is never cut off.
    await gate.api.http.put(
        "/api/v1/services/vsco", json={"gateway": WHOLE, "circuit": circuit, "backups": ["generic"]}
    )
    for number in range(6, 14):
        down = await gate.send("GET", "/vsco/a")
        if down.headers.get("x-wedsync-service") is None:
            break
        assert (down.status_code, down.text, down.headers["retry-after"]) == (503, "down", "9")
        await gate.calls(number)
    assert problem(down) == (503, "circuit_open")
    assert 1 <= int(down.headers["retry-after"]) <= 30
    outcomes = [call.outcome for call in await gate.calls(7)]
    assert outcomes[:6] == ["vendor_rejected"] * 5 + ["vendor_unavailable"]


async def test_no_answer_is_told_by_what_is_known(gate: Gate) -> None:
    await gate.open("vsco", {**WHOLE, "total_seconds": 0.3})

    async def drop(taken: Taken) -> None:
        await taken.body()

    async def wait(taken: Taken) -> None:
        await taken.reader.read()

    gate.raw.play = drop
    assert problem(await gate.send("POST", "/vsco/a", content=b"{}")) == (502, "no_answer")
    gate.raw.play = wait
    assert problem(await gate.send("POST", "/vsco/a", content=b"")) == (504, "timed_out")
    await gate.open("stripe", WHOLE, endpoints=[{"name": "gone", "base_url": "http://127.0.0.1:1"}])
    assert problem(await gate.send("POST", "/stripe/v1/refunds", data={"a": "b"})) == (502, "unreachable")
    outcomes = [(call.outcome, call.reason) for call in await gate.calls(3)]
    assert outcomes == [
        ("outcome_unknown", "no_answer"),
        ("outcome_unknown", "timed_out"),
        ("vendor_unavailable", "unreachable"),
    ]


async def test_an_answer_that_breaks_off_is_not_made_whole_and_counts_against_the_vendor(gate: Gate) -> None:
    await gate.open("vsco")
    gate.raw.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf")
    with pytest.raises(httpx.RemoteProtocolError):
        await gate.send("GET", "/vsco/a")
    assert [call.outcome for call in await gate.calls()] == ["vendor_unavailable"]


async def test_the_vendors_word_that_its_quota_is_gone_holds_for_the_next(gate: Gate) -> None:
    await gate.open("stripe")
    await gate.sandbox.faults("stripe", mode="throttle", retry_after_seconds=40)
    first = await gate.send("GET", "/stripe/v1/balance")
    assert (first.status_code, first.headers["retry-after"]) == (429, "40")
    assert first.headers["x-wedsync-service"] == "stripe"
    second = await gate.send("GET", "/stripe/v1/balance")
    assert problem(second) == (429, "throttled_until")
    assert 30 <= int(second.headers["retry-after"]) <= 40
    assert len(await gate.sandbox.requests("stripe")) == 1


async def test_a_request_is_recorded_for_the_wedding_that_it_names(gate: Gate) -> None:
    await gate.open("stripe", {"allow": ["GET /v1/*"]})
    wedding = await gate.api.wedding()
    before = utc_now() - timedelta(seconds=1)
    for named in ("", wedding["id"], wedding["reference"]):
        headers = {"X-Wedsync-Wedding": named} if named else {}
        assert (await gate.send("GET", "/stripe/v1/balance", headers=headers)).status_code == 200
    unknown = await gate.send("GET", "/stripe/v1/balance", headers={"X-Wedsync-Wedding": "nobodys"})
    assert problem(unknown) == (404, "not_found")
    calls = await gate.calls(3)
    assert [call.wedding_id for call in calls] == ["", wedding["id"], wedding["id"]]
    for call in calls:
        assert (call.service, call.operation, call.outcome) == ("stripe", "GET /v1/*", "ok")
        assert call.organization_id == gate.api.access.organization_id
        assert (call.version, call.at > before) == ("2026-10-28.endive", True)
