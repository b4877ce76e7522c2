"""`python -m bench`: run everything and print it. `BENCH_QUICK=1`: a small run that shows that it works."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time

from bench import (
    load,
    measures,
    outages,
    priority,
    quotas,
    rates,
    report,
    requests,
    routing,
    webhooks_in,
    webhooks_out,
    workers,
)
from bench.measures import Results
from bench.size import FULL, QUICK, Size
from bench.stage import commit, open_stage


async def run(size: Size) -> Results:
    """Take all measures of weddings on one stage."""
    started, load_before = time.monotonic(), os.getloadavg()[0]

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:4.0f} s  {what}", file=sys.stderr, flush=True)

    say("starting the stage")
    async with open_stage() as stage:
        await load.mute_webhooks(stage)
        await stage.start_worker()
        await rates.start_peers(stage)
        dbos = load.DbosProgram(stage)
        await dbos.ready()
        weddings = load.Weddings(stage)
        try:
            say("sagas per second")
            found = await rates.rates(stage, weddings, dbos, size)
            say("one wedding alone, and two workers")
            alone = await workers.alone(stage, size.alone)
            crowd = await workers.workers(stage, weddings, size)
            say("histories and starts")
            histories = await measures.histories(stage, weddings)
            starts = await measures.starts(stage, size.starts)
            say("sleeping weddings")
            memory = await measures.memory(stage, weddings, size)
            say("pipeline")
            pipeline = await measures.pipeline(stage, size.calls)
        finally:
            await dbos.stop()
    about = {
        "commit": commit(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load average before": f"{load_before:.1f}",
        "seconds": round(time.monotonic() - started),
    }
    return Results(size, found, alone, crowd, starts, histories, memory, pipeline, about)


def main() -> None:
    """Run and print."""
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    results = asyncio.run(run(QUICK if quick else FULL))
    for line in (*report.lines(results), *asyncio.run(webhooks_in.measure(quick))):
        print(line)
    print("\n".join(asyncio.run(requests.measure(quick))))
    print("\n".join(asyncio.run(webhooks_out.run(webhooks_out.QUICK if quick else webhooks_out.FULL))))
    print("\n".join(asyncio.run(routing.measure(8 if quick else 40))))
    print("\n".join(asyncio.run(outages.measure())))
    print("\n".join(asyncio.run(quotas.measure())))
    print("\n".join(asyncio.run(priority.measure())))


if __name__ == "__main__":
    main()
    # Temporal's native threads sometimes crash the interpreter while it shuts down; everything is printed by now.
    sys.stdout.flush()
    os._exit(0)
