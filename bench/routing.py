"""What the way out adds to a call: the whole pipeline and bare pooled httpx, by turns, at a steady rate.

`python -m bench.routing [SECONDS]` brings its own Postgres and vendor and prints milliseconds from the moment a call
was due. The calls are made by a process set up as the worker is: traced, and logging each call to a file. The goal, at
500 calls a second on two cores: under 1 ms more at the median, under 5 ms more at the 99th percentile.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from bench.meter import percentile
from bench.open_loop import at_rate
from bench.routing_stage import PRIMARY, Way, call, database, pipeline
from wedsync.domain.routing.quotas import QuotaPolicy, WindowLimit
from wedsync.kit import logs, telemetry
from wedsync.kit.clock import utc_now
from wedsync.kit.memory import settle_memory
from wedsync.kit.settings import Settings
from wedsync.store import quotas

_PER_SECOND, _ROUND_SECONDS = 500, 2.0
_FORM = {"To": "+390318125551", "From": "+15005550006", "Body": "You are booked."}
#: The argument that makes this module the measured process.
_MEASURED = "measured"
#: What the pipeline logs of each call, and with what.
_LOGGED, _TRACED = b"vendor.call", b"trace_id"
Taken = dict[str, list[list[float]]]


async def _rounds(way: Way, rounds: int) -> Taken:
    taken: Taken = {"bare": [], "whole pipeline": []}
    url = f"{way.vendor.urls[PRIMARY]}/2010-04-01/Accounts/AC1/Messages.json"
    # A busy machine makes for long waits, not for an end of it.
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        HTTPXClientInstrumentor.uninstrument_client(http)

        async def bare(_: int) -> None:
            (await http.post(url, data=_FORM, auth=("AC1", "secret"))).raise_for_status()

        async def whole(number: int) -> None:
            await way.gateway.send(call("twilio", number))

        for number in range(rounds + 1):
            for name, deed in (("bare", bare), ("whole pipeline", whole)):
                found = await at_rate(_PER_SECOND, _ROUND_SECONDS, deed)
                # The first round opens connections.
                if number:
                    taken[name].append(found)
    return taken


def lines(taken: Taken, flushes: int) -> list[str]:
    """What is printed: medians of the rounds' quantiles."""
    calls = sum(map(len, taken["whole pipeline"]))
    found = ["", f"The way out: {_PER_SECOND} calls a second to a loopback vendor, milliseconds, {calls} of each"]
    middle = {
        name: [statistics.median(percentile(one, share) for one in rounds) for share in (0.5, 0.99)]
        for name, rounds in taken.items()
    }
    for name, (p50, p99) in middle.items():
        found.append(f"  {name:<15} p50 {p50:6.2f}   p99 {p99:6.2f}")
    added = [ours - bare for ours, bare in zip(middle["whole pipeline"], middle["bare"], strict=True)]
    found.append(f"  adds {added[0]:+.2f} at p50, {added[1]:+.2f} at p99 (goal: under 1 and 5)")
    found.append(f"  {calls} calls were counted and recorded in {flushes} writes to Postgres")
    return found


async def _measured(seconds: float) -> list[str]:
    """Bring everything up and measure, in a process set up as the worker is."""
    settings = Settings()
    logs.setup(settings, "bench")
    telemetry.setup(settings, "bench")
    rounds = max(1, round(seconds / _ROUND_SECONDS / 2))
    async with database() as url, pipeline(url) as way:
        policy = QuotaPolicy(windows=(WindowLimit(window="day", limit=100_000_000),))
        async with way.board.transitions.db.system() as conn:
            await quotas.put_policy(conn, ("twilio", "default"), policy, "key:bench", utc_now())
        await way.board.book.load()
        settle_memory()
        taken = await _rounds(way, rounds)
        return lines(taken, way.board.outcomes.flushes)


async def measure(seconds: float) -> list[str]:
    """What the measured process prints. Raises RuntimeError when it fails, or logs no calls: then it left work out."""
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
        print("\n".join(asyncio.run(_measured(float(sys.argv[2])))))
    else:
        print("\n".join(asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 40))))


if __name__ == "__main__":
    main()
