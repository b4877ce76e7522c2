"""What a run prints: ratios first, then what they are made of."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from bench.measures import BARE, DBOS, PRODUCT, Results
from bench.meter import percentile, spread

_MEGABYTE = 1024 * 1024


def lines(results: Results) -> Iterator[str]:
    """The report, line by line."""
    yield "  ".join(f"{name}: {value}" for name, value in results.about.items())
    yield from _rates(results)
    yield from _starts(results)
    yield from _histories(results)
    yield from _memory(results)
    yield from _pipeline(results)


def _rates(results: Results) -> Iterator[str]:
    rates, size = results.rates, results.size
    yield ""
    yield f"1. Sagas per second, {size.width} at once, median of {len(rates.per_second[PRODUCT])} interleaved round(s)"
    for other, goal in ((BARE, " (goal: at least 0.8)"), (DBOS, "")):
        found = rates.ratio(PRODUCT, other)
        cpu = rates.cpu_total(other) / rates.cpu_total(PRODUCT)
        each = ", ".join(f"{ratio:.2f}" for ratio in found)
        yield f"   wedsync / {other}: {statistics.median(found):.2f}{goal}; rounds {each}; by CPU time {cpu:.2f}"
    for name in (PRODUCT, BARE, DBOS):
        rate, late = rates.per_second[name], rates.latencies[name]
        p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
        yield (
            f"   {name:<19} {statistics.median(rate):6.1f} /s (spread {spread(rate):.0%})  "
            f"p50 {p50 * 1000:6.0f} ms  p99 {p99 * 1000:6.0f} ms  CPU {rates.cpu_total(name):5.0f} ms each"
        )
    for name in (PRODUCT, BARE, DBOS):
        middle = rates.cpu_ms[name][len(rates.cpu_ms[name]) // 2]
        parts = ", ".join(
            f"{part} {used:.0f}" for part, used in sorted(middle.items(), key=lambda p: -p[1]) if used > 1
        )
        yield f"   CPU ms per saga, {name}: {parts}"


def _milliseconds(values: Sequence[float]) -> str:
    return f"p50 {percentile(values, 0.5) * 1000:7.2f} ms  p99 {percentile(values, 0.99) * 1000:7.2f} ms"


def _starts(results: Results) -> Iterator[str]:
    bare = percentile(results.starts["bare start_workflow"], 0.5)
    yield ""
    yield f"2. Start-request latency, {results.size.starts} of each, one at a time"
    for name, values in results.starts.items():
        times = percentile(values, 0.5) / bare
        yield f"   {name:<20} {_milliseconds(values)}  ({times:.1f} times the bare start's p50)"


def _histories(results: Results) -> Iterator[str]:
    found = results.histories
    ours = [found["Wedding"], found["RunTransaction"]]
    events, size = sum(one.events for one in ours), sum(one.bytes for one in ours)
    yield ""
    yield (
        f"3. History per step (5 steps, 7 vendor calls): {events / 5:.1f} events, {size / 5 / 1024:.1f} KiB; "
        f"wedsync / bare: {events / found[BARE].events:.2f} events, {size / found[BARE].bytes:.1f} bytes"
    )
    for name, one in found.items():
        yield (
            f"   {name:<19} {one.events:3d} events  {one.bytes:6d} bytes  {one.activities} activities  "
            f"{one.local_activities} local activities  {one.workflow_tasks} workflow tasks"
        )


def _memory(results: Results) -> Iterator[str]:
    held = results.memory
    yield ""
    yield (
        f"4. Memory of a worker process with {held.weddings} sleeping weddings: "
        f"{held.before_bytes / _MEGABYTE:.0f} MiB before, {held.after_bytes / _MEGABYTE:.0f} MiB after, "
        f"{held.per_wedding_bytes / 1024:.0f} KiB each"
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
