"""Measures one wedding with nothing beside it, and the load that one and two worker processes carry."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from bench import load, meter
from bench.load import Weddings
from bench.size import Size
from bench.stage import Stage

#: How often to poll for settled rows while one wedding runs alone.
_CLOSE_LOOK_SECONDS = 0.002


@dataclass(frozen=True)
class Alone:
    """Seconds from dispatched to settled, one at a time."""

    product: list[float]
    bare: list[float]

    @property
    def times_bare(self) -> float:
        """Return the product's p50 over the bare saga's."""
        return meter.percentile(self.product, 0.5) / meter.percentile(self.bare, 0.5)


@dataclass(frozen=True)
class Workers:
    """Weddings a second by the number of worker processes."""

    per_second: dict[int, float]
    #: CPU milliseconds of the single process's main thread per wedding: what it runs Python with.
    main_thread_ms: float

    @property
    def bound_per_second(self) -> float:
        """Return how many weddings a second that thread could do if it had a core of its own."""
        return 1000 / self.main_thread_ms


async def alone(stage: Stage, count: int) -> Alone:
    """Run a wedding, a bare saga, a wedding, ...; the first of each is not counted."""
    weddings = Weddings(stage, _CLOSE_LOOK_SECONDS)
    product, bare = [], []
    for _ in range(count + 1):
        asked = await weddings.record()
        begun = time.perf_counter()
        await weddings.run(asked)
        product.append(time.perf_counter() - begun)
        await asyncio.sleep(0.1)
        bare.extend((await load.bare_round(stage, 1, 1)).latencies)
        await asyncio.sleep(0.1)
    return Alone(product[1:], bare[1:])


async def workers(stage: Stage, weddings: Weddings, size: Size) -> Workers:
    """Put the same load on one worker process, then on two; end the second one again."""
    pid = stage.programs["worker"].pid
    count = 4 * size.width
    before = meter.main_thread_seconds(pid)
    one = await _round(weddings, count, size.width)
    main_thread_ms = 1000 * (meter.main_thread_seconds(pid) - before) / count
    second = await stage.start_worker("second worker")
    await _round(weddings, size.width, size.width)
    two = await _round(weddings, count, size.width)
    stage.programs.pop("second worker")
    await asyncio.to_thread(second.stop, 25)
    return Workers({1: one, 2: two}, main_thread_ms)


async def _round(weddings: Weddings, count: int, width: int) -> float:
    asked = [await weddings.record() for _ in range(count)]
    return (await load.product_round(weddings, asked, width)).per_second
