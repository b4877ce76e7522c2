from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from tests.support.proxy import WHOLE, Gate, Taken, problem, problem_of
from wedsync.kit.clock import utc_now

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
    assert gate.api.app.state.admission_controller._measured["vsco", "default"].in_flight == 0


async def test_a_partner_who_does_not_read_lets_go_of_the_vendor_when_the_time_is_up(gate: Gate) -> None:
    await gate.open("vsco", {**WHOLE, "total_seconds": 1.0, "response_max_bytes": 10**9})
    gone = asyncio.Event()

    async def play(taken: Taken) -> None:
        await taken.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        try:
            for _ in range(10_000):
                await taken.say(piece)
        except ConnectionError:
            gone.set()

    gate.raw.play = play
    url, key = gate.http.base_url, gate.http.headers["authorization"]
    _, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    writer.write(f"GET /api/v1/gateway/vsco/film HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
    async with asyncio.timeout(15):
        await gone.wait()
        (call,) = await gate.calls()
    assert call.outcome == "ok"
    assert not gate.api.app.state.admission_controller._in_flight_by_place
    writer.close()


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
    # By then the answer may have begun; if it has, it breaks off.
    with contextlib.suppress(httpx.RemoteProtocolError):
        assert problem(await gate.send("GET", "/vsco/film")) == (502, "answer_too_large")
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


async def test_of_requests_to_one_vendor_only_so_many_are_under_way(gate: Gate) -> None:
    await gate.open("vsco")
    assert gate.api.app.state.admission_controller._most_in_flight == gate.api.settings.api_calls_per_vendor
    gate.api.app.state.admission_controller._most_in_flight = 1
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def play(request: Taken) -> None:
        taken.set()
        await go_on.wait()
        await request.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    gate.raw.play = play
    first = asyncio.create_task(gate.send("GET", "/vsco/a"))
    async with asyncio.timeout(10):
        await taken.wait()
    refused = await gate.send("GET", "/vsco/a")
    assert (problem(refused), refused.headers["retry-after"]) == ((503, "at_capacity"), "1")
    go_on.set()
    assert (await first).status_code == 200


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
