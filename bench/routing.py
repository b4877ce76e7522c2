"""What the way out adds to a call: the whole pipeline and bare pooled httpx, by turns, at a steady rate.

`python -m bench.routing [SECONDS]` brings its own Postgres and vendor and prints milliseconds from the moment a call
was due. The goal, at 500 calls a second on two cores: under 1 ms more at the median, under 5 ms more at the 99th
percentile.
"""

from __future__ import annotations

import asyncio
import statistics
import sys

import httpx

from bench.meter import percentile
from bench.open_loop import at_rate
from bench.routing_stage import PRIMARY, Way, call, database, pipeline
from wedsync.domain.routing.quotas import QuotaPolicy, WindowLimit
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import Settings
from wedsync.store import quotas

_PER_SECOND, _ROUND_SECONDS = 500, 2.0
_FORM = {"To": "+390318125551", "From": "+15005550006", "Body": "You are booked."}
Taken = dict[str, list[list[float]]]


async def _rounds(way: Way, rounds: int) -> Taken:
    taken: Taken = {"bare": [], "whole pipeline": []}
    url = f"{way.vendor.urls[PRIMARY]}/2010-04-01/Accounts/AC1/Messages.json"
    async with httpx.AsyncClient(trust_env=False) as http:

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


async def measure(seconds: float) -> list[str]:
    """Bring everything up, measure, print."""
    logs.setup(Settings(log_level="WARNING"), "bench")
    rounds = max(1, round(seconds / _ROUND_SECONDS / 2))
    async with database() as url, pipeline(url) as way:
        policy = QuotaPolicy(windows=(WindowLimit(window="day", limit=100_000_000),))
        async with way.board.transitions.db.system() as conn:
            await quotas.put_policy(conn, ("twilio", "default"), policy, "key:bench", utc_now())
        await way.board.book.load()
        taken = await _rounds(way, rounds)
        return lines(taken, way.board.outcomes.flushes)


def main() -> None:
    """Run alone."""
    print("\n".join(asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 40))))


if __name__ == "__main__":
    main()
