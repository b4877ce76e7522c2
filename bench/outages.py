"""Measures outages under load: `python -m bench.outages`. A vendor goes, or only goes slow, under a wedding's calls."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import httpx

from bench.meter import percentile
from bench.open_loop import at_rate
from bench.routing_stage import BACKUP, PRIMARY, PipelineStage, call, database, pipeline
from wedsync.domain.errors import VendorError
from wedsync.domain.health.messages import CIRCUIT_OPEN, WatchStart
from wedsync.domain.routing.endpoint_selection import Endpoint, Strategy
from wedsync.domain.weddings import saga
from wedsync.kit import logs
from wedsync.kit.clock import utc_now
from wedsync.kit.settings import Settings
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.store.routing import circuits
from wedsync.usecases.health.watch import Watch

_PER_SECOND, _SECONDS, _DOWN_AFTER_SECONDS = 200, 6.0, 2.0
_SLOW_SECONDS, _SLOW_CALLS = 2.0, 1000
_PATIENCE = timedelta(hours=1)


@dataclass
class Outage:
    """Timings of one outage."""

    first_failure: float = 0.0
    first_elsewhere: float = 0.0
    call_recorder: Counter[str] = field(default_factory=Counter)
    #: What a call took that the outage touched, retries included.
    touched_ms: list[float] = field(default_factory=list)

    def failed(self) -> None:
        """Note that the primary did not take a call."""
        self.first_failure = self.first_failure or time.perf_counter()

    def elsewhere(self) -> None:
        """Note that another took a call."""
        if self.first_failure:
            self.first_elsewhere = self.first_elsewhere or time.perf_counter()


async def writes(stage: PipelineStage) -> Outage:
    """Time an outage of Twilio, which Vonage replaces: each message takes the saga's path, its pauses included."""
    seen = Outage()

    async def send(number: int) -> None:
        began, tries = time.perf_counter(), 0
        while True:
            tries += 1
            try:
                await stage.gateway.send(call("twilio", number), Situation(can_go_elsewhere=True))
            except VendorError as error:
                seen.failed()
                is_cut_off = error.reason == CIRCUIT_OPEN
                now = utc_now()
                patience = now + _PATIENCE
                if not saga.may_give_up(
                    tries, fallback_ready=True, now=now, give_up_at=patience, is_cut_off=is_cut_off
                ):
                    await asyncio.sleep(saga.delay_seconds(tries, 0.5))
                    continue
                await _second(stage, number, seen)
            else:
                seen.call_recorder["primary"] += 1
            if tries > 1:
                seen.touched_ms.append((time.perf_counter() - began) * 1000)
            return

    await _under_load(stage, send)
    return seen


async def _second(stage: PipelineStage, number: int, seen: Outage) -> None:
    try:
        await stage.gateway.send(call("vonage", number))
    except VendorError:
        seen.call_recorder["lost"] += 1
    else:
        seen.elsewhere()
        seen.call_recorder["backup"] += 1


async def reads(stage: PipelineStage) -> Outage:
    """Time an outage of one of a service's two forecast endpoints: routing alone chooses which to ask."""
    await _spread(stage, "failover", stage.vendor.urls[:2])
    seen = Outage()

    async def read(number: int) -> None:
        began, tries = time.perf_counter(), 0
        while True:
            tries += 1
            try:
                effect = await stage.gateway.send(call("open_meteo", number))
            except VendorError:
                seen.failed()
                if tries >= 8:
                    seen.call_recorder["lost"] += 1
                    return
                await asyncio.sleep(saga.delay_seconds(tries, 0.5))
                continue
            if effect.facts["endpoint"] == "b":
                seen.elsewhere()
            seen.call_recorder["primary" if effect.facts["endpoint"] == "a" else "backup"] += 1
            if tries > 1:
                seen.touched_ms.append((time.perf_counter() - began) * 1000)
            return

    await _under_load(stage, read)
    return seen


async def _spread(stage: PipelineStage, strategy: Strategy, urls: Sequence[str]) -> None:
    """Give the weather an endpoint for each address."""
    endpoints = tuple(Endpoint(name=chr(ord("a") + place), base_url=url) for place, url in enumerate(urls))
    config = stage.controller.routing_table.config("open_meteo").model_copy(
        update={"endpoints": endpoints, "strategy": strategy}
    )
    async with stage.controller.breakers.db.system() as conn:
        await circuits.put_config(conn, config, "key:bench", utc_now())
    await stage.controller.routing_table.load()


async def _under_load(stage: PipelineStage, action: object) -> None:
    async def later() -> None:
        await asyncio.sleep(_DOWN_AFTER_SECONDS)
        stage.vendor.tell("down", PRIMARY)

    falling = asyncio.create_task(later())
    await at_rate(_PER_SECOND, _SECONDS, action)  # type: ignore[arg-type]
    await falling


async def unseen(stage: PipelineStage) -> float:
    """Return seconds until probes alone have cut off a critical service without traffic."""
    config = stage.controller.routing_table.config("twilio").model_copy(update={"dependency": "critical"})
    async with stage.controller.breakers.db.system() as conn:
        await circuits.put_config(conn, config, "key:bench", utc_now())
    await stage.controller.routing_table.load()
    stop, watch = asyncio.Event(), Watch(stage.gateway, stage.controller)
    task = asyncio.create_task(watch.run(WatchStart(seconds=90, tick_seconds=0.5), stop))
    await asyncio.sleep(1.0)
    stage.vendor.tell("down", PRIMARY)
    began = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while stage.controller.routing_table.circuit("twilio", "default").state != "open":  # noqa: ASYNC110 - a measured poll
                await asyncio.sleep(0.05)
    taken = time.perf_counter() - began
    stop.set()
    await task
    return taken


@dataclass
class Slow:
    """A thousand calls that wait, and others beside them."""

    memory_mib: float
    slow_ms: list[float]
    beside_ms: list[float]
    alone_ms: list[float]
    failed: int
    #: The same thousand by bare httpx with room for all of them.
    bare_ms: list[float]


async def slow(stage: PipelineStage) -> Slow:
    """Make `_SLOW_CALLS` at once to ten that take their time, with calls to a quick one all the while."""
    failed = 0
    await _spread(stage, "round_robin", [stage.vendor.urls[PRIMARY], *stage.vendor.urls[2:]])

    async def quick(number: int) -> None:
        await stage.gateway.send(call("vonage", number))

    async def lazy(number: int) -> float:
        nonlocal failed
        began = time.perf_counter()
        try:
            await stage.gateway.send(call("open_meteo", number))
        except VendorError:
            failed += 1
        return (time.perf_counter() - began) * 1000

    await at_rate(50, 1.0, quick)
    alone = await at_rate(50, 3.0, quick)
    for place in range(len(stage.vendor.urls)):
        if place != BACKUP:
            stage.vendor.tell("slow", place, _SLOW_SECONDS)
    await asyncio.sleep(0.2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    beside = asyncio.create_task(at_rate(50, 4.0, quick))
    taken = await asyncio.gather(*(lazy(number) for number in range(_SLOW_CALLS)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seen = Slow(grown / 1024, list(taken), await beside, alone, failed, [])
    seen.bare_ms.extend(await _bare(stage))
    return seen


async def _bare(stage: PipelineStage) -> list[float]:
    urls = [stage.vendor.urls[PRIMARY], *stage.vendor.urls[2:]]
    limits = httpx.Limits(max_connections=_SLOW_CALLS, max_keepalive_connections=_SLOW_CALLS)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as http:

        async def one(number: int) -> float:
            began = time.perf_counter()
            (await http.get(f"{urls[number % len(urls)]}/v1/forecast")).raise_for_status()
            return (time.perf_counter() - began) * 1000

        return list(await asyncio.gather(*(one(number) for number in range(_SLOW_CALLS))))


def _of_outage(what: str, seen: Outage) -> str:
    gap = (seen.first_elsewhere - seen.first_failure) * 1000
    counts = ", ".join(f"{count} {name}" for name, count in sorted(seen.call_recorder.items()))
    longest = (
        f"; longest of the {len(seen.touched_ms)} that met it {max(seen.touched_ms):.0f} ms" if seen.touched_ms else ""
    )
    lost = seen.call_recorder["lost"]
    return (
        f"  {what}: {gap:.0f} ms from the first failure to the first success elsewhere; {counts}; {lost} lost{longest}"
    )


async def measure() -> list[str]:
    """Measure all of them, each on a database of its own."""
    logs.setup(Settings(log_level="CRITICAL"), "bench")
    found = ["", f"Outages, {_PER_SECOND} calls a second (goal: under 1,000 ms, none lost)"]
    async with database() as url, pipeline(url) as stage:
        found.append(_of_outage("writes, to another vendor", await writes(stage)))
    async with database() as url, pipeline(url) as stage:
        found.append(_of_outage("reads, to another endpoint", await reads(stage)))
    async with database() as url, pipeline(url) as stage:
        found.append(f"  by probes alone, no traffic: {await unseen(stage):.1f} s (goal: under 30 s)")
    async with database() as url, pipeline(url, 11) as stage:
        done = await slow(stage)
    p50, p99 = percentile(done.slow_ms, 0.5), percentile(done.slow_ms, 0.99)
    bare = percentile(done.bare_ms, 0.99)
    found += [
        f"{_SLOW_CALLS} calls at once to ten addresses that take {_SLOW_SECONDS:g} s: {done.failed} failed, "
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, {done.memory_mib:.0f} MiB more; by bare httpx p99 {bare:.0f} ms, "
        f"{p99 / bare:.2f} of it",
        f"  calls to another vendor beside them: p99 {percentile(done.beside_ms, 0.99):.0f} ms; alone "
        f"{percentile(done.alone_ms, 0.99):.0f} ms",
    ]
    return found


def main() -> None:
    """Run alone."""
    print("\n".join(asyncio.run(measure())))


if __name__ == "__main__":
    main()
