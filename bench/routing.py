"""Measures what the pipeline adds to a call: the whole pipeline and bare pooled httpx, by turns, at a steady rate.

`python -m bench.routing [SECONDS]` brings its own Postgres and vendor and prints every round: milliseconds from the
moment a call was due. The calls are made by a process set up as the worker is: on its event loop, traced, and logging
each call to a file. The goal, at 500 calls a second on two cores, in nine rounds of ten: under 0.5 ms more at the
median, under 3 ms more at the 99th percentile.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from bench.meter import percentile
from bench.open_loop import at_rate
from bench.routing_stage import PRIMARY, PipelineStage, call, database, pipeline
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.kit import logs, loop, telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.memory import freeze_memory
from wedsync.kit.settings import Settings
from wedsync.store.quotas import queries as quotas

_PER_SECOND, _ROUND_SECONDS = 500, 2.0
_FORM = {"To": "+390318125551", "From": "+15005550006", "Body": "You are booked."}
#: The argument that makes this module the measured process.
_MEASURED = "measured"
#: What the pipeline logs of each call, and with what.
_LOGGED, _TRACED = b"vendor.call", b"trace_id"
_GOAL_P50, _GOAL_P99, _GOAL_SHARE = 0.5, 3.0, 0.9
#: A round whose bare calls took longer says nothing about the pipeline: something else had the machine.
_DISTURBED_P50 = 5.0


@dataclass(frozen=True)
class Round:
    """Milliseconds that calls took by turns, and how often Postgres was asked for a block of the quota."""

    bare: list[float]
    pipeline: list[float]
    asked: int

    def added(self, share: float) -> float:
        """Return what the pipeline adds at a quantile."""
        return percentile(self.pipeline, share) - percentile(self.bare, share)

    @property
    def is_disturbed(self) -> bool:
        """Tell whether bare calls were late, too."""
        return percentile(self.bare, 0.5) > _DISTURBED_P50

    @property
    def meets_goal(self) -> bool:
        """Tell whether the pipeline adds as little as it should."""
        return self.added(0.5) < _GOAL_P50 and self.added(0.99) < _GOAL_P99


async def _rounds(stage: PipelineStage, rounds: int) -> list[Round]:
    taken = []
    url = f"{stage.vendor.urls[PRIMARY]}/2010-04-01/Accounts/AC1/Messages.json"
    # A busy machine makes for long waits, not for an end of it.
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        HTTPXClientInstrumentor.uninstrument_client(http)

        async def bare(_: int) -> None:
            (await http.post(url, data=_FORM, auth=("AC1", "secret"))).raise_for_status()

        async def whole(number: int) -> None:
            await stage.gateway.send(call("twilio", number))

        # The first round opens connections.
        for _ in range(rounds + 1):
            alone = await at_rate(_PER_SECOND, _ROUND_SECONDS, bare)
            before = stage.controller.rate_limiter.requests
            pipeline = await at_rate(_PER_SECOND, _ROUND_SECONDS, whole)
            taken.append(Round(alone, pipeline, stage.controller.rate_limiter.requests - before))
    return taken[1:]


def lines(rounds: list[Round], flushes: int) -> list[str]:
    """Return what is printed: every round, and in how many the goal was met."""
    calls = sum(len(one.pipeline) for one in rounds)
    found = [
        "",
        f"The way out: {_PER_SECOND} calls a second to a loopback vendor, milliseconds, {calls} of each",
        "  round    bare p50    p99   pipeline p50    p99   adds at p50    p99   blocks asked for",
    ]
    found += [_line(number, one) for number, one in enumerate(rounds, 1)]
    counted = [one for one in rounds if not one.is_disturbed]
    good = sum(one.meets_goal for one in counted)
    found.append(
        f"  adds under {_GOAL_P50} ms at p50 and {_GOAL_P99:.0f} ms at p99 in {good} of {len(counted)} rounds"
        f" (goal: {_GOAL_SHARE:.0%}); {len(rounds) - len(counted)} more do not count: bare p50 above"
        f" {_DISTURBED_P50:.0f} ms"
    )
    found.append(f"  {calls} calls were counted and recorded in {flushes} writes to Postgres")
    return found


def _line(number: int, one: Round) -> str:
    bare, ours = ([percentile(values, share) for share in (0.5, 0.99)] for values in (one.bare, one.pipeline))
    return (
        f"  {number:5}    {bare[0]:8.2f} {bare[1]:6.2f}   {ours[0]:12.2f} {ours[1]:6.2f}"
        f"   {one.added(0.5):+11.2f} {one.added(0.99):+6.2f}   {one.asked:16}"
    )


async def _measured(seconds: float) -> list[str]:
    """Bring everything up and measure, in a process set up as the worker is."""
    settings = Settings()
    logs.setup(settings, "bench")
    telemetry.setup(settings, "bench")
    rounds = max(1, round(seconds / _ROUND_SECONDS / 2))
    async with database() as url, pipeline(url) as stage:
        policy = QuotaPolicy(windows=(WindowLimit(window="day", limit=100_000_000),))
        async with stage.controller.breakers.db.system() as conn:
            await quotas.put_policy(conn, ("twilio", "default"), policy, "key:bench", utc_now())
        await stage.controller.routing_table.load()
        freeze_memory()
        taken = await _rounds(stage, rounds)
        return lines(taken, stage.controller.call_recorder.flushes)


async def _print_measured(seconds: float) -> None:
    print("\n".join(await _measured(seconds)))


async def measure(seconds: float) -> list[str]:
    """Return what the measured process prints. Raises RuntimeError when it fails, or logs no calls."""
    argv = [sys.executable, "-m", "bench.routing", _MEASURED, str(seconds)]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "WEDSYNC_LOG_LEVEL": "INFO"}
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment
        )
        said, _ = await process.communicate()
        log.seek(0)
        written = log.read()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{written[-2000:].decode(errors='replace')}")
    if not (logged := sum(_LOGGED in line and _TRACED in line for line in written.splitlines())):
        raise RuntimeError("the measured process logged and traced no calls")
    return [*said.decode().rstrip("\n").split("\n"), f"  {logged} calls were logged and traced, the first round's too"]


def main() -> None:
    """Run alone."""
    if sys.argv[1:2] == [_MEASURED]:
        loop.run(_print_measured(float(sys.argv[2])))
    else:
        print("\n".join(asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 40))))


if __name__ == "__main__":
    main()
