"""Prints the result of a run: ratios first, then what they are made of."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench.measures import WEDDING, History, Memory, Results
from bench.meter import percentile, spread
from bench.rates import BARE, FAIR, PRODUCT, Rates
from bench.workers import Alone, Workers

_MEGABYTE = 1024 * 1024
#: CPU of a peer over the product's own.
_CPU_GOALS = {BARE: 0.9, FAIR: 1.0}


def lines(results: Results) -> Iterator[str]:
    """Yield the report, line by line."""
    yield "  ".join(f"{name}: {value}" for name, value in results.about.items())
    yield from rates(results.rates, results.size.width)
    yield from floor(results.rates, results.histories)
    yield from alone(results.alone)
    yield from workers(results.workers)
    yield from _starts(results)
    yield from histories(results.histories)
    yield from memory(results.memory)
    yield from _pipeline(results)


def rates(found: Rates, width: int) -> Iterator[str]:
    """Report ratios of CPU and of rate, and what they are made of."""
    peers = [name for name in found.per_second if name != PRODUCT]
    rounds = len(found.per_second[PRODUCT])
    yield ""
    yield f"1. Sagas, {width} at once, median of {rounds} interleaved round(s); CPU with its servers"
    for other in peers:
        goal = f" (goal: at least {_CPU_GOALS[other]})" if other in _CPU_GOALS else ""
        yield f"   CPU, {other} / wedsync: {_median_of(found.cpu_ratio(PRODUCT, other), goal)}"
    for other in peers:
        yield f"   per second, wedsync / {other}: {_median_of(found.ratio(PRODUCT, other))}"
    for name in (PRODUCT, *peers):
        yield _contender(found, name)


def _median_of(ratios: Sequence[float], goal: str = "") -> str:
    return f"{statistics.median(ratios):.2f}{goal}; rounds {', '.join(f'{ratio:.2f}' for ratio in ratios)}"


def _contender(found: Rates, name: str) -> str:
    rate, late = found.per_second[name], found.latencies[name]
    p50, p99 = percentile(late, 0.5) * 1000, percentile(late, 0.99) * 1000
    parts = ", ".join(f"{part} {used:.0f}" for part, used in found.cpu_of(name).items())
    return (
        f"   {name:<21} {statistics.median(rate):6.1f} /s (spread {spread(rate):.0%})  "
        f"p50 {p50:6.0f} ms  p99 {p99:6.0f} ms  CPU {found.cpu_total(name):5.0f} ms each ({parts})"
    )


def floor(found: Rates, histories: Mapping[str, History]) -> Iterator[str]:
    """Report what a wedding would cost at the bare saga's price of an event and with the bare saga's own program."""
    bare = found.cpu_of(BARE)
    event_ms = (bare["temporal"] + bare["postgres"]) / histories[BARE].events
    least = histories[WEDDING].events * event_ms + bare["program"]
    actual = found.cpu_total(PRODUCT)
    yield (
        f"   floor / actual: {least / actual:.2f} ({histories[WEDDING].events} events at {event_ms:.2f} ms "
        f"and {bare['program']:.0f} ms, of {actual:.0f} ms)"
    )


def alone(found: Alone) -> Iterator[str]:
    """Report weddings one at a time."""
    yield ""
    yield (
        f"   One alone, {len(found.product)} of each: p50 {percentile(found.product, 0.5) * 1000:.0f} ms, "
        f"bare {percentile(found.bare, 0.5) * 1000:.0f} ms, {found.times_bare:.2f} times (goal: at most 1.2)"
    )


def workers(found: Workers) -> Iterator[str]:
    """Report one worker process and two."""
    rates = ", ".join(f"{count}: {rate:.1f} /s" for count, rate in found.per_second.items())
    yield (
        f"   Worker processes, {rates}; one process's main thread takes {found.main_thread_ms:.1f} ms a wedding, "
        f"enough for {found.bound_per_second:.0f} a second (goal: at least 25)"
    )


def _milliseconds(values: Sequence[float]) -> str:
    return f"p50 {percentile(values, 0.5) * 1000:7.2f} ms  p99 {percentile(values, 0.99) * 1000:7.2f} ms"


def _starts(results: Results) -> Iterator[str]:
    bare = percentile(results.starts["bare start_workflow"], 0.5)
    yield ""
    yield f"2. Start-request latency, {results.size.starts} of each, one at a time"
    for name, values in results.starts.items():
        times = percentile(values, 0.5) / bare
        yield f"   {name:<20} {_milliseconds(values)}  ({times:.1f} times the bare start's p50)"


def histories(found: Mapping[str, History]) -> Iterator[str]:
    """Report what Temporal keeps of one."""
    ours, bare = found[WEDDING], found[BARE]
    yield ""
    yield (
        f"3. History per step of 5 (7 vendor calls): {ours.events / 5:.1f} events, {ours.bytes / 5 / 1024:.1f} KiB; "
        f"wedsync / bare: {ours.events / bare.events:.2f} events, {ours.bytes / bare.bytes:.1f} bytes"
    )
    for name, one in found.items():
        yield (
            f"   {name:<19} {one.events:3d} events  {one.bytes:6d} bytes  {one.activities} activities  "
            f"{one.local_activities} local activities  {one.workflow_tasks} workflow tasks"
        )


def memory(held: Memory) -> Iterator[str]:
    """Report what sleeping weddings take."""
    yield ""
    yield (
        f"4. Memory of a worker process with {held.weddings} sleeping weddings: "
        f"{held.before_bytes / _MEGABYTE:.0f} MiB before, {held.after_bytes / _MEGABYTE:.0f} MiB after, "
        f"{held.per_wedding_bytes / 1024:.0f} KiB each (goal: at most 120)"
    )


def _pipeline(results: Results) -> Iterator[str]:
    ours, bare = results.pipeline["gateway"], results.pipeline["bare"]
    added = [(percentile(ours, share) - percentile(bare, share)) * 1000 for share in (0.5, 0.99)]
    yield ""
    yield (
        f"5. VendorGateway.send against a bare pooled httpx call, {len(ours)} of each: "
        f"{percentile(ours, 0.5) / percentile(bare, 0.5):.2f} times; adds p50 {added[0]:.2f} ms, p99 {added[1]:.2f} ms"
    )
    yield f"   VendorGateway.send   {_milliseconds(ours)}"
    yield f"   bare httpx           {_milliseconds(bare)}"
