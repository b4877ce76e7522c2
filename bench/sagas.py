"""Only the saga beside its peers: `python -m bench.sagas [rounds]`; `--no-memory` leaves out the sleeping weddings."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator

from bench import load, measures, rates, report, workers
from bench.size import FULL, Size
from bench.stage import commit, open_stage


async def measure(size: Size, *, with_memory: bool = True) -> AsyncIterator[str]:
    """Measure, and give the report's lines as they are found: a run that is cut short has said something."""
    async with open_stage() as stage:
        await load.mute_webhooks(stage)
        await stage.start_worker()
        await rates.start_peers(stage)
        weddings = load.Weddings(stage)
        yield f"commit: {commit()}"
        found = await rates.rates(stage, weddings, None, size)
        histories = await measures.histories(stage, weddings)
        for line in (*report.rates(found, size.width), *report.floor(found, histories)):
            yield line
        for line in report.alone(await workers.alone(stage, size.alone)):
            yield line
        for line in report.workers(await workers.workers(stage, weddings, size)):
            yield line
        for line in report.histories(histories):
            yield line
        if with_memory:
            for line in report.memory(await measures.memory(stage, weddings, size)):
                yield line


async def run(size: Size, *, with_memory: bool) -> None:
    """Print what is measured, line by line."""
    async for line in measure(size, with_memory=with_memory):
        print(line, flush=True)


def main() -> None:
    """Measure and print."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    size = dataclasses.replace(FULL, rounds=int(given[0]) if given else FULL.rounds, rounds_within_seconds=600)
    asyncio.run(run(size, with_memory="--no-memory" not in sys.argv))


if __name__ == "__main__":
    main()
    # Temporal's native threads sometimes crash the interpreter while it shuts down; everything is printed by now.
    sys.stdout.flush()
    os._exit(0)
