"""Runs the same saga on DBOS, in a process of its own: `python -m bench.dbos_saga`.

It reads `COUNT WIDTH` lines and answers each with the seconds that `COUNT` sagas took, `WIDTH` at once. The sagas are
started from within, without a queue's polling: the arrangement that suits DBOS best.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from typing import Any

from dbos import DBOS, DBOSConfig

from bench.saga_calls import SETTLE, Order, Vendors

_vendors: list[Vendors] = []


@DBOS.step(name="carry_out")
async def carry_out(saga: str, step: str, object_id: str) -> str:
    """Make one HTTP call and one insert."""
    return await _vendors[0].carry_out(Order(saga, step, object_id))


@DBOS.workflow(name="dbos_saga")
async def dbos_saga(saga: str) -> list[str]:
    """Take the bare saga's steps one after another: DBOS numbers the steps of a workflow in the order they begin."""
    undo: list[tuple[str, str]] = []

    async def do(step: str, object_id: str = "") -> str:
        done = await carry_out(saga, step, object_id)
        undo.append((step, done))
        return done

    try:
        for step in ("venue", "dinner"):
            await do(f"{step}.confirm", await do(f"{step}.request"))
        for step in ("photos", "confirmation", "message", SETTLE):
            await do(step)
    except Exception:
        for step, object_id in reversed(undo):
            await carry_out(saga, f"undo.{step}", object_id)
        raise
    return [step for step, _ in undo]


async def _run(count: int, width: int) -> dict[str, Any]:
    slots = asyncio.Semaphore(width)
    latencies: list[float] = []

    async def one() -> None:
        async with slots:
            begun = time.perf_counter()
            handle = await DBOS.start_workflow_async(dbos_saga, uuid.uuid4().hex)
            await handle.get_result()
            latencies.append(time.perf_counter() - begun)

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return {"seconds": time.perf_counter() - started, "latencies": latencies}


async def _serve() -> None:
    vendors = Vendors()
    await vendors.open()
    _vendors.append(vendors)
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, width = line.split()
        print(json.dumps(await _run(int(count), int(width))), flush=True)
    await vendors.close()


def main() -> None:
    """Serve until the input ends."""
    url = os.environ["BENCH_PEER_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    asyncio.run(_serve())
    DBOS.destroy()


if __name__ == "__main__":
    main()
    os._exit(0)
