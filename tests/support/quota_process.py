"""Runs a process that wants more calls than there are: `python -m tests.support.quota_process URL VENDOR SECONDS`.

Waits for a line on its standard input, then calls the vendor as often as its quota lets it. Reports when it had leave
for each call, how often it had to wait, how often it asked Postgres.
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.support.peers import report
from tests.support.routing import open_admission_controller
from wedsync.domain.errors import ThrottledUntil
from wedsync.kit.http import new_pool

_WAITERS = 8


async def main(url: str, vendor: str, seconds: float) -> None:
    """Run one volley."""
    loop, pool = asyncio.get_running_loop(), new_pool()
    made: list[float] = []
    waits = 0

    async def want(until: float) -> None:
        nonlocal waits
        while time.time() < until:
            try:
                await controller.rate_limiter.acquire("stripe", "default", 3)
            except ThrottledUntil as error:
                waits += 1
                await asyncio.sleep(error.retry_after_seconds)
                continue
            made.append(time.time())
            await pool.get(vendor, timeout=60)

    async with open_admission_controller(url) as controller:
        report("ready")
        until = float(await loop.run_in_executor(None, sys.stdin.readline)) + seconds
        await asyncio.gather(*(want(until) for _ in range(_WAITERS)))
        report({"made": made, "waits": waits, "asked": controller.rate_limiter.requests})
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
