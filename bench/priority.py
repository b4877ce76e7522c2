"""Wedding-day calls while ten thousand ordinary ones wait for the same quota: `python -m bench.priority`."""

from __future__ import annotations

import asyncio
import time

from bench.meter import percentile
from bench.routing_stage import PipelineStage, call, database, pipeline
from wedsync.domain.errors import ThrottledUntil
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import Settings
from wedsync.pipeline.endpoint_selector import ORDINARY, Situation
from wedsync.store.quotas import queries as quotas

_LIMIT, _BACKLOG = 100, 10_000
#: A wedding-day call so often, for so long.
_EVERY_SECONDS, _SECONDS, _WARM_UP_SECONDS = 0.1, 15.0, 5.0
_WEDDING_DAY = Situation(is_wedding_day=True)


async def _send(stage: PipelineStage, number: int, situation: Situation) -> None:
    """Send as a step does it: asleep until a call can be had."""
    while True:
        try:
            await stage.gateway.send(call("twilio", number), situation)
        except ThrottledUntil as error:
            await asyncio.sleep(error.retry_after_seconds)
        else:
            return


async def _urgent(stage: PipelineStage, seconds: float) -> list[float]:
    taken = []
    for number in range(int(seconds / _EVERY_SECONDS)):
        began = time.perf_counter()
        await _send(stage, number, _WEDDING_DAY)
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(max(_EVERY_SECONDS - (time.perf_counter() - began), 0))
    return taken


async def measure() -> list[str]:
    """Measure idle, then with the backlog."""
    logs.setup(Settings(log_level="CRITICAL"), "bench")
    async with database() as url, pipeline(url) as stage:
        policy = QuotaPolicy(windows=(WindowLimit(window="second", limit=_LIMIT),))
        async with stage.controller.breakers.db.system() as conn:
            await quotas.put_policy(conn, ("twilio", "default"), policy, "key:bench", utc_now())
        await stage.controller.routing_table.load()
        await _urgent(stage, _WARM_UP_SECONDS)
        idle = await _urgent(stage, _SECONDS)
        backlog = [asyncio.create_task(_send(stage, number, ORDINARY)) for number in range(_BACKLOG)]
        await _urgent(stage, _WARM_UP_SECONDS)
        busy = await _urgent(stage, _SECONDS)
        done = sum(task.done() for task in backlog)
        for task in backlog:
            task.cancel()
        await asyncio.gather(*backlog, return_exceptions=True)
    ratio = percentile(busy, 0.5) / percentile(idle, 0.5)
    return [
        "",
        f"Wedding-day calls, {_BACKLOG} ordinary ones waiting for a quota of {_LIMIT} a second ({done} done meanwhile)",
        f"  p50 {percentile(busy, 0.5):.1f} ms, {ratio:.2f} of idle's {percentile(idle, 0.5):.1f} ms (goal: 2); "
        f"p99 {percentile(busy, 0.99):.1f} ms against {percentile(idle, 0.99):.1f} ms",
    ]


def main() -> None:
    """Run alone."""
    print("\n".join(asyncio.run(measure())))


if __name__ == "__main__":
    main()
