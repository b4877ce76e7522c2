"""Ten processes and one limit: `python -m bench.rate_limiter`. Against callers that just try again after a 429.

The vendor counts what comes in each whole window and answers 429 above the limit. First all want more than there is,
for a whole minute: how much of its limit is used, and is it ever passed? Then a burst of calls comes that takes several
seconds' limits: what do its calls wait in all, by quotas and by naive retries?
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench.routing_stage import database
from wedsync.domain.errors import ThrottledUntil
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit, WindowName
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.http import Pool, new_pool
from wedsync.kit.settings import Settings
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.db.session import Database
from wedsync.store.quotas import queries as quotas
from wedsync.vendors.registry import load_registry

_PROCESSES, _WAITERS = 10, 10
_MINUTE_LIMIT = 1200
#: Small, so that the machine's own speed has no part in it: six seconds' limits at once.
_SECOND_LIMIT, _BURST_EACH = 20, 12
_WARM_UP_SECONDS = 5.0
#: What a naive caller waits before it tries again: doubling from a second, as tenacity's `wait_exponential()` does.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0


class Vendor:
    """Vendor that counts by the window; above the limit it answers 429."""

    def __init__(self, seconds: int, limit: int) -> None:
        self.seconds, self.limit = seconds, limit
        self.came: Counter[int] = Counter()
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                window = int(time.time() / self.seconds)
                self.came[window] += 1
                if self.came[window] > self.limit:
                    self.refused += 1
                    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def _by_quota(controller: AdmissionController, pool: Pool, url: str) -> int:
    """Make one call; return how often it was answered 429."""
    while True:
        try:
            await controller.rate_limiter.acquire("stripe", "default", 3)
        except ThrottledUntil as error:
            await asyncio.sleep(error.retry_after_seconds)
            continue
        return int((await pool.get(url)).status_code == 429)


async def _naive(pool: Pool, url: str) -> int:
    refused, wait = 0, _FIRST_WAIT
    while (await pool.get(url)).status_code == 429:
        refused += 1
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    return refused


async def _child(database_url: str, vendor: str, how: str, seconds: float) -> None:
    """Run a process of the fleet: `steady` for so long, or one burst by `quota` or `naive`."""
    logs.setup(Settings(log_level="CRITICAL"), "bench")
    db, pool = Database(database_url, 3), new_pool()
    delays: list[float] = []
    async with AdmissionController(db, load_registry().manifests).open() as controller:
        print("ready", flush=True)
        start = float(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))
        await asyncio.sleep(max(start - time.time(), 0))

        async def steadily() -> None:
            while time.time() < start + seconds:
                await _by_quota(controller, pool, vendor)

        async def once() -> None:
            await (_by_quota(controller, pool, vendor) if how == "quota" else _naive(pool, vendor))
            delays.append(time.time() - start)

        actions = [steadily() for _ in range(_WAITERS)] if how == "steady" else [once() for _ in range(_BURST_EACH)]
        await asyncio.gather(*actions)
        print(json.dumps({"delays": delays, "asked": controller.rate_limiter.requests}), flush=True)
    await pool.aclose()
    await db.close()


@dataclass
class Run:
    """Calls that the vendor and the fleet counted."""

    vendor: Vendor
    delays: list[float]
    requests: int
    start: int


async def _limit(db: Database, window: WindowName, limit: int) -> None:
    policy = QuotaPolicy(windows=(WindowLimit(window=window, limit=limit),))
    async with db.system() as conn:
        await quotas.put_policy(conn, ("stripe", "default"), policy, "key:bench", utc_now())


async def _fleet(database_url: str, vendor: Vendor, how: str, seconds: float) -> Run:
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    argv = [sys.executable, "-m", "bench.quotas", "--child", database_url, url, how, str(seconds)]
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env=dict(os.environ))
        for _ in range(_PROCESSES)
    ]
    reports = []
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        start = int(time.time()) + 2
        if how == "steady":
            start = (start // 60 + 1) * 60 - int(_WARM_UP_SECONDS)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{start}\n".encode())
        for process in processes:
            assert process.stdout is not None
            reports.append(json.loads(await process.stdout.readline()))
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
        server.close()
    delays = [delay for report in reports for delay in report["delays"]]
    return Run(vendor, delays, sum(report["asked"] for report in reports), start)


async def measure() -> list[str]:
    """Measure the steady fleet for a whole minute, then the two bursts."""
    async with database() as url:
        db = Database(url, 2)
        await _limit(db, "minute", _MINUTE_LIMIT)
        steady = await _fleet(url, Vendor(60, _MINUTE_LIMIT), "steady", 60 + _WARM_UP_SECONDS)
        await _limit(db, "second", _SECOND_LIMIT)
        ours = await _fleet(url, Vendor(1, _SECOND_LIMIT), "quota", 0)
        naive = await _fleet(url, Vendor(1, _SECOND_LIMIT), "naive", 0)
        await db.close()
    minute = steady.vendor.came[int(steady.start / 60) + 1]
    delay = sum(ours.delays) / sum(naive.delays)
    return [
        "",
        f"Quotas: {_PROCESSES} processes at one limit",
        f"  always more wanted than {_MINUTE_LIMIT} calls a minute: {minute / _MINUTE_LIMIT:.1%} used (goal: 98 %), "
        f"{steady.vendor.refused} calls above it (goal: none); Postgres was asked "
        f"{steady.requests / sum(steady.vendor.came.values()):.2f} times a call",
        f"  a burst of {_PROCESSES * _BURST_EACH} at {_SECOND_LIMIT} a second: delays in all {delay:.2f} of naive "
        f"retries' (goal: 0.4), {ours.vendor.refused} answers of 429 against {naive.vendor.refused}; the last call "
        f"after {max(ours.delays):.1f} s against {max(naive.delays):.1f} s",
    ]


def main() -> None:
    """Run alone, or as a process of the fleet."""
    if "--child" in sys.argv:
        _, _, database_url, vendor, how, seconds = sys.argv
        asyncio.run(_child(database_url, vendor, how, float(seconds)))
        return
    print("\n".join(asyncio.run(measure())))


if __name__ == "__main__":
    main()
