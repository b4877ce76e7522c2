"""What the breakers add to a call: the whole pipeline with and without them, and bare pooled httpx, by turns.

`python -m bench.routing [COUNT]` brings its own Postgres and stand-ins and prints milliseconds. The goal: the pipeline
adds under 1 ms at the median and under 5 ms at the 99th percentile.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from bench.pipeline import _call
from bench.saga_calls import Order, request_of
from tests.support.stage import stage_settings
from wedsync.kit import logs
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings
from wedsync.local.postgres import EmbeddedPostgres
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store import migrate
from wedsync.store.session import Database
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.registry import load_registry
from wedsync.usecases.routing.switchboard import Switchboard

_WARM_UP = 30
Taken = dict[str, list[float]]


async def _measure(url: str, sandbox: EmbeddedSandbox, folder: Path, count: int) -> tuple[Taken, int]:
    settings, pool = stage_settings(url, sandbox, folder), new_pool()
    bare, db = httpx.AsyncClient(trust_env=False), Database(url, 5)
    registry = load_registry()
    await sandbox.webhook_policy("resend", muted=True)
    taken: Taken = {"bare": [], "without breakers": [], "whole pipeline": []}
    async with Switchboard(db, registry.manifests).open() as board:
        plain, whole = VendorGateway(settings, registry, pool), VendorGateway(settings, registry, pool, board)

        async def ask(number: int) -> None:
            path, sent = request_of(Order(f"bare-{number}", "confirmation"))
            (await bare.post(sandbox.base_url + path, **sent)).raise_for_status()

        async def send(gateway: VendorGateway, number: int) -> None:
            await gateway.send(_call(number))

        ways: list[tuple[str, Callable[[int], Awaitable[None]]]] = [
            ("bare", ask),
            ("without breakers", lambda number: send(plain, 2 * number)),
            ("whole pipeline", lambda number: send(whole, 2 * number + 1)),
        ]
        for number in range(count + _WARM_UP):
            for name, way in ways:
                started = time.perf_counter()
                await way(number)
                if number >= _WARM_UP:
                    taken[name].append((time.perf_counter() - started) * 1000)
        flushes = board.outcomes.flushes
    await bare.aclose()
    await pool.aclose()
    await db.close()
    return taken, flushes


def lines(taken: Taken, flushes: int) -> list[str]:
    """What is printed."""
    found = ["", "Routing and breakers: one call to a loopback stand-in, milliseconds"]
    base = _quantiles(taken["bare"])
    for name, values in taken.items():
        p50, p99 = _quantiles(values)
        added = "" if name == "bare" else f"   adds {p50 - base[0]:+.2f} / {p99 - base[1]:+.2f}"
        found.append(f"  {name:<18} p50 {p50:6.2f}   p99 {p99:6.2f}{added}")
    found.append(f"  {len(taken['whole pipeline'])} calls were counted and recorded in {flushes} writes to Postgres")
    return found


def _quantiles(values: list[float]) -> tuple[float, float]:
    return statistics.median(values), statistics.quantiles(values, n=100)[98]


async def measure(count: int) -> list[str]:
    """Bring everything up, measure, print."""
    logs.setup(Settings(log_level="WARNING"), "bench")
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", hasty=True)
        try:
            server.start()
            server.create_database("routing")
            await migrate.upgrade(server.url(owner=True, database="routing"), server.credentials.app_password)
            with EmbeddedSandbox(Settings(state_dir=Path(folder))) as sandbox:
                taken, flushes = await _measure(server.url(database="routing"), sandbox, Path(folder), count)
                await sandbox.close()
        finally:
            server.destroy()
    return lines(taken, flushes)


def main() -> None:
    """Run alone."""
    for line in asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)):
        print(line)


if __name__ == "__main__":
    main()
