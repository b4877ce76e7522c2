"""Inbound webhooks: accepted events a second against the bare endpoint, a burst processed whole, critical latency.

`python -m bench.webhooks_in`; `BENCH_QUICK=1` is a small run that shows that it works. The client keeps its connections
busy one request at a time (closed loop), so waiting in front of a connection is not measured. Beside FastAPI, Celery
and Redis doing the same job (`bench/celery_inbox.py`), where a `redis-server` is installed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import insert, text
from temporalio.client import Client

from bench.celery_stage import open_celery
from bench.stage import Stage, open_stage
from wedsync.domain.weddings.messages import WEDDING_WORKFLOW, wedding_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.local.ports import HOST, free_port
from wedsync.local.ready import answers, until_ready
from wedsync.store.weddings.tables import weddings

_PATH = "/api/integrations/webhooks/stripe"
_CONNECTIONS = 32
_WEDDINGS = 40
_CRITICAL_PER_SECOND = 20


@dataclass(frozen=True)
class Size:
    """Size of the measurement."""

    rounds: int
    events: int
    burst: int
    critical: int


FULL = Size(rounds=3, events=4000, burst=10_000, critical=400)
QUICK = Size(rounds=1, events=300, burst=500, critical=40)


@dataclass
class Round:
    """One round of one server."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Poster:
    """Posts signed events over keep-alive connections, with as little work of its own as can be."""

    def __init__(self, port: int, secret: str, wedding_ids: list[str]) -> None:
        self._port = port
        self._secret = secret
        self._wedding_ids = wedding_ids

    def request(self, event_id: str, number: int) -> bytes:
        """Build one request's bytes."""
        intent = {
            "id": f"pi_{event_id}",
            "object": "payment_intent",
            "amount": 100_000,
            "currency": "eur",
            "metadata": {"wedding_id": self._wedding_ids[number % len(self._wedding_ids)], "step_id": "deposit"},
        }
        event = {"id": event_id, "object": "event", "type": "payment_intent.succeeded", "data": {"object": intent}}
        body = json.dumps(event).encode()
        stamp = str(int(time.time()))
        mac = hmac.digest(self._secret.encode(), stamp.encode() + b"." + body, "sha256").hex()
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Stripe-Signature: t={stamp},v1={mac}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def run(self, count: int, connections: int = _CONNECTIONS) -> Round:
        """Post `count` new events as fast as they are acknowledged."""
        tag = new_id()
        waiting = [self.request(f"evt_{tag}_{number}", number) for number in range(count)]
        took: list[float] = []
        started = time.perf_counter()
        await asyncio.gather(*(self._line(waiting, took) for _ in range(connections)))
        seconds = time.perf_counter() - started
        took.sort()
        return Round(count / seconds, took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000)

    async def pace(self, count: int, per_second: float) -> None:
        """Post at a steady rate."""
        tag, begun = new_id(), time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
            await self._line([self.request(f"evt_{tag}_{number}", number)], [])

    async def _line(self, waiting: list[bytes], took: list[float]) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        while waiting:
            request = waiting.pop()
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not accepted: {head[:60]!r}")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            took.append(time.perf_counter() - began)
        writer.close()


async def _add_weddings(stage: Stage, client: Client, mode: str) -> list[str]:
    """Add weddings whose workflows are signalled and do nothing of it: no worker asks their queue."""
    now, ids = utc_now(), [new_id() for _ in range(_WEDDINGS)]
    row = {
        "organization_id": stage.organization_id,
        "status": "active",
        "phase": "preparation",
        "mode": mode,
        "ceremony_local": "2027-06-19T16:00",
        "zone": "Europe/Rome",
        "ceremony_at": now,
        "plan_version": 1,
        "created_at": now,
        "updated_at": now,
    }
    async with stage.db.system() as conn:
        await conn.execute(insert(weddings), [{**row, "id": one, "reference": one} for one in ids])
    for one in ids:
        await client.start_workflow(WEDDING_WORKFLOW, id=wedding_workflow_id(one), task_queue="bench-nobody")
    return ids


async def _left(stage: Stage) -> int:
    async with stage.db.system() as conn:
        query = text("SELECT count(*) FROM inbox WHERE state <> 'processed'")
        return int((await conn.execute(query)).scalar_one())


async def _until_processed(stage: Stage) -> None:
    while await _left(stage):  # noqa: ASYNC110 - the drain is another process
        await asyncio.sleep(0.2)


async def measure(quick: bool) -> list[str]:
    """Measure everything; return lines to print."""
    size = QUICK if quick else FULL
    async with open_stage() as stage:
        (secret,) = stage.settings.vendor_webhook_secrets("stripe")
        normal = await _add_weddings(stage, stage.client, "normal")
        urgent = await _add_weddings(stage, stage.client, "wedding_day")
        port = free_port()
        argv = [sys.executable, "-m", "bench.bare_inbox", str(port), stage.postgres.url(owner=True), secret]
        bare = stage.spawn("bare-inbox", argv)
        await until_ready(bare, lambda: answers(f"http://{HOST}:{port}/openapi.json"), seconds=60)
        ours, limit = (Poster(number, secret, normal) for number in (int(stage.api_url.rpartition(":")[2]), port))
        lines = await _acceptance(ours, limit, size)
        bare.stop(5)
        waiting = await _left(stage)
        began = time.perf_counter()
        await stage.start_worker("drainer")
        # The sweep would dispatch within the minute; the next event dispatches at once.
        burst = await ours.run(size.burst)
        await _until_processed(stage)
        seconds = time.perf_counter() - began
        total = waiting + size.burst
        lines.append(
            f"burst: {size.burst} events accepted at {burst.per_second:.0f}/s beside a working drain; {total} in all "
            f"processed in {seconds:.1f} s ({total / seconds:.0f}/s), none lost"
        )
        lines.append(await _critical(stage, Poster(int(stage.api_url.rpartition(":")[2]), secret, urgent), size))
        lines += await _against_celery(stage, ours, normal, secret, size)
    return lines


async def _against_celery(stage: Stage, ours: Poster, wedding_ids: list[str], secret: str, size: Size) -> list[str]:
    """Time from first post to last event processed, by turns, each side's workers beside the other's idle ones."""
    async with open_celery(stage, secret) as side:
        if side is None:
            return ["Celery and Redis: not measured, there is no redis-server (Debian: apt-get install redis-server)"]
        theirs = Poster(side.port, secret, wedding_ids)
        await theirs.run(50)
        await side.until_processed()
        pairs = []
        for _ in range(size.rounds):
            mine = await _end_to_end(ours, size.events, lambda: _until_processed(stage))
            pairs.append((mine, await _end_to_end(theirs, size.events, side.until_processed)))
    ratios = [mine[0] / other[0] for mine, other in pairs]
    return [
        *(
            f"end to end: ours {mine[0]:.0f}/s (accepted {mine[1].per_second:.0f}/s, p99 {mine[1].p99_ms:.0f} ms), "
            f"Celery and Redis {other[0]:.0f}/s (accepted {other[1].per_second:.0f}/s, p99 {other[1].p99_ms:.0f} ms)"
            for mine, other in pairs
        ),
        f"end to end, ours / Celery and Redis (goal: above 1): {statistics.median(ratios):.2f}",
    ]


async def _end_to_end(
    poster: Poster, count: int, until_processed: Callable[[], Awaitable[None]]
) -> tuple[float, Round]:
    began = time.perf_counter()
    accepted = await poster.run(count)
    await until_processed()
    return count / (time.perf_counter() - began), accepted


async def _acceptance(ours: Poster, limit: Poster, size: Size) -> list[str]:
    """Measure both in turn, with no worker beside them; the first, shorter round of each is not counted."""
    await limit.run(size.events // 4)
    await ours.run(size.events // 4)
    pairs = [(await limit.run(size.events), await ours.run(size.events)) for _ in range(size.rounds)]
    ratios = [mine.per_second / bare.per_second for bare, mine in pairs]
    return [
        *(
            f"accepted: bare {bare.per_second:.0f}/s (p99 {bare.p99_ms:.0f} ms), "
            f"ours {mine.per_second:.0f}/s (p99 {mine.p99_ms:.0f} ms)"
            for bare, mine in pairs
        ),
        f"acceptance ratio (goal 0.7): {statistics.median(ratios):.2f}",
    ]


async def _critical(stage: Stage, poster: Poster, size: Size) -> str:
    since = utc_now()
    await poster.pace(size.critical, _CRITICAL_PER_SECOND)
    await _until_processed(stage)
    query = text(
        "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP ("
        "ORDER BY EXTRACT(EPOCH FROM processed_at - received_at)) "
        "FROM inbox WHERE priority <= 1 AND received_at >= :since"
    )
    async with stage.db.system() as conn:
        p50, p99 = (await conn.execute(query, {"since": since})).scalar_one()
    return (
        f"critical at {_CRITICAL_PER_SECOND}/s, recorded to told: p50 {p50 * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms (goal 200 ms)"
    )


def main() -> None:
    """Run and print."""
    for line in asyncio.run(measure(os.environ.get("BENCH_QUICK", "") not in ("", "0"))):
        print(line, flush=True)
    # The interpreter may crash at its exit with Temporal's threads.
    os._exit(0)


if __name__ == "__main__":
    main()
