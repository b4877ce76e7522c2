"""Measures a request's cost: CPU of the API and of Postgres, requests a second, beside a bare FastAPI application.

`python -m bench.requests`; `BENCH_QUICK=1` is a small run that shows that it works. Rounds of every kind of request are
interleaved and driven by the same client over keep-alive connections; ratios are taken round by round.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import meter
from bench.bare_saga import BareSaga
from bench.plans import elopement
from bench.stage import Stage, open_stage
from wedsync.local.ports import HOST, free_port
from wedsync.local.ready import answers, until_ready

_V1 = "/api/v1/weddings"
_CONNECTIONS = 8
_IDLE_QUEUE = "nobody-polls"
SELECT, INSERT, LIST, SHOW, CREATE = "bare select", "bare insert", "list weddings", "show wedding", "create wedding"
#: What each is compared with, and the goal that it is measured by.
_PEERS = {LIST: SELECT, SHOW: SELECT, CREATE: INSERT}
_GOALS = {LIST: "2 at most", SHOW: "2 at most", CREATE: "5 ms of CPU and 200 a second"}


@dataclass(frozen=True)
class Size:
    """Size of the measurement."""

    rounds: int
    reads: int
    writes: int
    starts: int


FULL = Size(rounds=5, reads=1000, writes=200, starts=40)
QUICK = Size(rounds=1, reads=200, writes=40, starts=5)


@dataclass(frozen=True)
class Kind:
    """One kind of request: the program that answers it, and the bytes of its `number`th."""

    program: str
    port: int
    request: Callable[[], bytes]


@dataclass(frozen=True)
class Round:
    """One round of one kind."""

    cpu_ms: float
    postgres_ms: float
    per_second: float


def http_request(method: str, path: str, key: str = "", body: bytes = b"") -> bytes:
    """Build a request's bytes, with an Idempotency-Key of its own when it has a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Accept: */*"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines.append(f"Idempotency-Key: {uuid.uuid4().hex}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def plan_body() -> bytes:
    """Build the five-step plan with an id of its own."""
    return json.dumps(elopement(f"r-{uuid.uuid4().hex}").model_dump(mode="json", exclude_none=True)).encode()


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send one request and read its answer's body; raises RuntimeError when it is no success."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"{head.splitlines()[0]!r} {body[:300]!r}")
    return body


async def drive(port: int, requests: Sequence[bytes], connections: int = _CONNECTIONS) -> float:
    """Send all requests, `connections` at once, and return the seconds that it took."""
    left = iter(requests)

    async def lane() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for request in left:
            await send(reader, writer, request)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(connections)))
    return time.perf_counter() - started


async def measured(stage: Stage, kind: Kind, count: int) -> Round:
    """Measure one round; the requests are made before the clocks start."""
    requests = [kind.request() for _ in range(count)]
    before = meter.cpu_seconds(stage.pids())
    seconds = await drive(kind.port, requests)
    used = meter.used(before, meter.cpu_seconds(stage.pids()))
    return Round(1000 * used[kind.program] / count, 1000 * used["postgres"] / count, count / seconds)


async def kinds(stage: Stage) -> dict[str, Kind]:
    """Return every kind of request, with the bare application beside the API."""
    bare_port, api_port = free_port(), stage.settings.api_port
    url = stage.environment["BENCH_PEER_DATABASE_URL"]
    bare = stage.spawn("bare-api", [sys.executable, "-m", "bench.bare_api", str(bare_port), url])
    await until_ready(bare, lambda: answers(f"http://{HOST}:{bare_port}/select"), seconds=30)
    reader, writer = await asyncio.open_connection(HOST, api_port)
    wedding = json.loads(await send(reader, writer, http_request("POST", _V1, stage.api_key, plan_body())))["id"]
    writer.close()
    return {
        SELECT: Kind("bare-api", bare_port, lambda: http_request("GET", "/select")),
        INSERT: Kind("bare-api", bare_port, lambda: http_request("POST", "/insert")),
        LIST: Kind("api", api_port, lambda: http_request("GET", f"{_V1}?limit=1", stage.api_key)),
        SHOW: Kind("api", api_port, lambda: http_request("GET", f"{_V1}/{wedding}", stage.api_key)),
        CREATE: Kind("api", api_port, lambda: http_request("POST", _V1, stage.api_key, plan_body())),
    }


async def rounds(stage: Stage, size: Size) -> dict[str, list[Round]]:
    """Run interleaved rounds of every kind, after one that warms up."""
    found: dict[str, list[Round]] = {}
    every = await kinds(stage)
    for number in range(size.rounds + 1):
        for name, kind in every.items():
            count = size.writes if name == CREATE else size.reads
            one = await measured(stage, kind, count if number else count // 4)
            if number:
                found.setdefault(name, []).append(one)
    return found


async def starts(stage: Stage, count: int) -> tuple[list[float], list[float]]:
    """Return seconds of `POST .../transactions` and of a bare `start_workflow`, by turns, a few a second."""
    asked: list[float] = []
    begun: list[float] = []
    reader, writer = await asyncio.open_connection(HOST, stage.settings.api_port)
    for _ in range(count + 3):
        wedding = json.loads(await send(reader, writer, http_request("POST", _V1, stage.api_key, plan_body())))["id"]
        body = b'{"kind":"orchestrate"}'
        request = http_request("POST", f"{_V1}/{wedding}/transactions", stage.api_key, body)
        started = time.perf_counter()
        await send(reader, writer, request)
        asked.append(time.perf_counter() - started)
        await asyncio.sleep(0.5)
        saga = uuid.uuid4().hex
        started = time.perf_counter()
        await stage.bare_client.start_workflow(BareSaga.run, saga, id=f"saga-{saga}", task_queue=_IDLE_QUEUE)
        begun.append(time.perf_counter() - started)
        await asyncio.sleep(0.1)
    writer.close()
    return asked[3:], begun[3:]


def lines(found: dict[str, list[Round]], started: tuple[list[float], list[float]]) -> list[str]:
    """Return what is printed."""
    said = []
    for name, every in found.items():
        cpu, postgres, rate = (
            statistics.median(getattr(one, field) for one in every) for field in ("cpu_ms", "postgres_ms", "per_second")
        )
        line = f"{name}: {cpu:.2f} ms of CPU (Postgres {postgres:.2f}), {rate:.0f} a second"
        if name in _PEERS:
            ratios = [one.cpu_ms / bare.cpu_ms for one, bare in zip(every, found[_PEERS[name]], strict=True)]
            line += f"; / {_PEERS[name]} {statistics.median(ratios):.2f} (goal: {_GOALS[name]})"
        said.append(line)
    asked, begun = (1000 * statistics.median(every) for every in started)
    said.append(
        f"start request p50 {asked:.1f} ms, bare start_workflow {begun:.1f} ms: {asked / begun:.2f} (goal: 2 at most)"
    )
    return said


async def measure(quick: bool) -> list[str]:
    """Do the whole run; return it as lines."""
    size = QUICK if quick else FULL
    async with open_stage() as stage:
        found = await rounds(stage, size)
        await stage.start_worker()
        return lines(found, await starts(stage, size.starts))


def main() -> None:
    """Run and print."""
    for line in asyncio.run(measure(os.environ.get("BENCH_QUICK", "") not in ("", "0"))):
        print(line, flush=True)
    # The interpreter may crash at its exit with Temporal's threads.
    os._exit(0)


if __name__ == "__main__":
    main()
