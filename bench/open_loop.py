"""Begins calls when they are due, whatever became of those before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def at_rate(per_second: float, seconds: float, action: Callable[[int], Awaitable[object]]) -> list[float]:
    """Begin `action` at a steady rate; return how long each took from the moment it was due, in milliseconds."""
    count = int(per_second * seconds)
    taken: list[float] = []
    began = time.perf_counter()

    async def one(number: int) -> None:
        await action(number)
        taken.append((time.perf_counter() - began - number / per_second) * 1000)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            wait = began + number / per_second - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number))
    return taken
