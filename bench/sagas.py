"""Only the saga beside its peers: `python -m bench.sagas [rounds]`; `--no-memory` leaves out the sleeping weddings."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Iterator

from bench import load, measures, rates, report, workers
from bench.size import FULL, Size
from bench.stage import commit, open_stage


async def measure(size: Size, *, with_memory: bool = True) -> Iterator[str]:
    """Measure and give the report's lines."""
    async with open_stage() as stage:
        await load.mute_webhooks(stage)
        await stage.start_worker()
        await rates.start_peers(stage)
        weddings = load.Weddings(stage)
        found = await rates.rates(stage, weddings, None, size)
        histories = await measures.histories(stage, weddings)
        alone = await workers.alone(stage, size.alone)
        crowd = await workers.workers(stage, weddings, size)
        held = await measures.memory(stage, weddings, size) if with_memory else None
    lines = [f"commit: {commit()}", *report.rates(found, size.width), *report.floor(found, histories)]
    lines += [*report.alone(alone), *report.workers(crowd), *report.histories(histories)]
    return iter([*lines, *(report.memory(held) if held is not None else ())])


def main() -> None:
    """Measure and print."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    size = dataclasses.replace(FULL, rounds=int(given[0]) if given else FULL.rounds, rounds_within_seconds=600)
    print("\n".join(asyncio.run(measure(size, with_memory="--no-memory" not in sys.argv))))


if __name__ == "__main__":
    main()
    # Temporal's native threads sometimes crash the interpreter while it shuts down; everything is printed by now.
    sys.stdout.flush()
    os._exit(0)
