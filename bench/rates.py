"""Sagas per second and what each costs: the product and its peers by turns, so that neighbours share the noise."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from bench import load, meter
from bench.load import DbosProgram, Round, Weddings
from bench.names import FAIR_QUEUE, PEER_QUEUE, UNSANDBOXED_QUEUE
from bench.size import Size
from bench.stage import Stage

PRODUCT, BARE, UNSANDBOXED = "wedsync", "bare Temporal saga", "bare saga, no sandbox"
FAIR, DBOS = "fair peer", "DBOS saga"
#: A process's part in a contender's CPU; the load generator is left out.
_OWN_PROGRAM = {PRODUCT: "worker", BARE: "bare", UNSANDBOXED: "unsandboxed", FAIR: "fair", DBOS: "dbos"}
_ON_TEMPORAL = ("temporal", "postgres")
_SERVERS = {PRODUCT: _ON_TEMPORAL, BARE: _ON_TEMPORAL, UNSANDBOXED: _ON_TEMPORAL, FAIR: _ON_TEMPORAL}
#: Time for what a round leaves behind: the last wedding falls asleep, a workflow closes.
_AFTERMATH_SECONDS = 0.5

#: Makes a round of so many ready; what it gives runs it.
Prepare = Callable[[int], Awaitable[Callable[[], Awaitable[Round]]]]


@dataclass
class Rates:
    """A rate, latencies and CPU for each round, per contender."""

    per_second: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    #: CPU milliseconds per saga, by process.
    cpu_ms: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> list[float]:
        """Divide `one` by `other`, round by round: neighbours in time share the machine's noise."""
        return [a / b for a, b in zip(self.per_second[one], self.per_second[other], strict=True)]

    def cpu_ratio(self, one: str, other: str) -> list[float]:
        """Return how much of `one`'s CPU `other` would need, round by round: 1 is as dear, below 1 `one` is dearer."""
        pairs = zip(self.cpu_ms[one], self.cpu_ms[other], strict=True)
        return [_total(other, theirs) / _total(one, ours) for ours, theirs in pairs]

    def cpu_total(self, name: str) -> float:
        """Return CPU milliseconds per saga of the contender's program and servers: the median round."""
        return statistics.median(_total(name, used) for used in self.cpu_ms[name])

    def cpu_of(self, name: str) -> dict[str, float]:
        """Return CPU milliseconds per saga by program: the median of each over the rounds; `program` is the worker."""
        own = _OWN_PROGRAM[name]
        parts = (own, *_servers(name))
        medians = {part: statistics.median(used.get(part, 0) for used in self.cpu_ms[name]) for part in parts}
        return {"program" if part == own else part: value for part, value in medians.items()}

    def add(self, name: str, done: Round, used: Mapping[str, float]) -> None:
        """Note one round of a contender and the CPU seconds that each process used in it."""
        self.per_second.setdefault(name, []).append(done.per_second)
        self.latencies.setdefault(name, []).extend(done.latencies)
        self.cpu_ms.setdefault(name, []).append({part: 1000 * one / done.count for part, one in used.items()})


def _servers(name: str) -> tuple[str, ...]:
    return _SERVERS.get(name, ("postgres",))


def _total(name: str, used: Mapping[str, float]) -> float:
    return sum(used.get(part, 0) for part in (_OWN_PROGRAM[name], *_servers(name)))


async def start_peers(stage: Stage) -> None:
    """Start the worker of each Temporal peer and wait until it asks for work."""
    bare = stage.spawn("bare", [sys.executable, "-m", "bench.bare_saga"])
    unsandboxed = stage.spawn("unsandboxed", [sys.executable, "-m", "bench.bare_saga", "--unsandboxed"])
    fair = stage.spawn("fair", [sys.executable, "-m", "bench.fair_saga"])
    await stage.until_polled(bare, stage.bare_client, PEER_QUEUE)
    await stage.until_polled(unsandboxed, stage.bare_client, UNSANDBOXED_QUEUE)
    await stage.until_polled(fair, stage.bare_client, FAIR_QUEUE)


def contenders(stage: Stage, weddings: Weddings, dbos: DbosProgram | None, width: int) -> dict[str, Prepare]:
    """Return the product and its peers, in the order of a round."""

    async def product(count: int) -> Callable[[], Awaitable[Round]]:
        asked = [await weddings.record() for _ in range(count)]
        return lambda: load.product_round(weddings, asked, width)

    async def bare(count: int) -> Callable[[], Awaitable[Round]]:
        return lambda: load.bare_round(stage, count, width)

    async def unsandboxed(count: int) -> Callable[[], Awaitable[Round]]:
        return lambda: load.bare_round(stage, count, width, UNSANDBOXED_QUEUE)

    async def fair(count: int) -> Callable[[], Awaitable[Round]]:
        return lambda: load.fair_round(stage, count, width)

    found: dict[str, Prepare] = {BARE: bare, PRODUCT: product, FAIR: fair, UNSANDBOXED: unsandboxed}
    if dbos is not None:
        program = dbos

        async def on_dbos(count: int) -> Callable[[], Awaitable[Round]]:
            return lambda: program.round(count, width)

        found[DBOS] = on_dbos
    return found


async def rates(stage: Stage, weddings: Weddings, dbos: DbosProgram | None, size: Size) -> Rates:
    """Run rounds by turns; each is sized by the warm-up so that it takes about `size.round_seconds`."""
    chosen = contenders(stage, weddings, dbos, size.width)
    counts, until = {}, time.monotonic() + size.rounds_within_seconds
    for name, prepare in chosen.items():
        warm = await (await prepare(size.warm_up))()
        counts[name] = max(size.width, min(400, round(warm.per_second * size.round_seconds)))
    found = Rates()
    for number in range(size.rounds):
        if number and time.monotonic() > until:
            break
        for name, prepare in chosen.items():
            found.add(name, *await _measured(stage, dbos, await _ready(stage, prepare, counts[name])))
    return found


async def _ready(stage: Stage, prepare: Prepare, count: int) -> Callable[[], Awaitable[Round]]:
    await load.empty_sandbox(stage)
    return await prepare(count)


async def _measured(
    stage: Stage, dbos: DbosProgram | None, begin: Callable[[], Awaitable[Round]]
) -> tuple[Round, dict[str, float]]:
    pids = stage.pids() if dbos is None else {**stage.pids(), "dbos": dbos.pid}
    before = meter.cpu_seconds(pids)
    done = await begin()
    await asyncio.sleep(_AFTERMATH_SECONDS)
    return done, meter.used(before, meter.cpu_seconds(pids))
