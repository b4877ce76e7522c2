"""The benchmarks' own arithmetic; they themselves run by `make bench`, never here."""

from __future__ import annotations

import asyncio

import pytest

from bench import report
from bench.load import at_once
from bench.measures import WEDDING, History, Memory, Results
from bench.meter import percentile, spread
from bench.plans import asleep, elopement
from bench.rates import BARE, DBOS, FAIR, PRODUCT, Rates
from bench.saga_calls import CALLS, SETTLE, Order, request_of
from bench.size import QUICK
from bench.workers import Alone, Workers
from wedsync.domain.plans.compile import compile_plan
from wedsync.vendors.registry import load_registry


def test_the_measured_wedding_has_as_many_calls_as_the_peers_sagas() -> None:
    manifests = load_registry().manifests
    calls = 0
    for step in compile_plan(elopement("w-1"), manifests):
        action = manifests[step.vendors[0]].action(step.action)
        assert action is not None
        calls += len(action.operations)
    assert calls == len(CALLS)
    assert SETTLE not in CALLS


def test_a_sleeping_wedding_has_nothing_due_at_once() -> None:
    assert all(step.at for step in compile_plan(asleep("w-1"), load_registry().manifests))


@pytest.mark.parametrize("step", CALLS)
def test_every_call_of_the_peers_goes_to_a_stand_in(step: str) -> None:
    path, sent = request_of(Order("0" * 32, step, "bk_1"))
    assert path.split("/")[1] in load_registry().manifests
    assert sent


async def test_never_more_than_the_width_run_at_once() -> None:
    running = most = 0

    async def action(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    done = await at_once(30, 4, action)
    assert (most, done.count, len(done.latencies)) == (4, 30, 30)


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert spread([8.0, 10.0, 12.0]) == pytest.approx(0.4)


def test_the_report_puts_the_ratios_first() -> None:
    rates = Rates(
        per_second={PRODUCT: [4.0, 6.0], BARE: [8.0, 8.0], FAIR: [4.0, 4.0], DBOS: [16.0, 16.0]},
        latencies={name: [0.1, 0.2] for name in (PRODUCT, BARE, FAIR, DBOS)},
        cpu_ms={
            PRODUCT: [{"worker": 60, "temporal": 30, "postgres": 10}] * 2,
            BARE: [{"bare": 20, "temporal": 25, "postgres": 5}] * 2,
            FAIR: [{"fair": 50, "temporal": 50, "postgres": 10}] * 2,
            DBOS: [{"dbos": 20, "postgres": 5, "temporal": 99}] * 2,
        },
    )
    one = History(events=50, bytes=1024, activities=8, local_activities=0, workflow_tasks=9)
    results = Results(
        size=QUICK,
        rates=rates,
        alone=Alone(product=[0.11], bare=[0.1]),
        workers=Workers(per_second={1: 20.0, 2: 30.0}, main_thread_ms=40.0),
        starts={"POST weddings": [0.02], "POST transactions": [0.03], "bare start_workflow": [0.01]},
        histories={WEDDING: one, BARE: one},
        memory=Memory(weddings=10, before_bytes=1024 * 1024, after_bytes=2 * 1024 * 1024),
        pipeline={"gateway": [0.003], "bare": [0.002]},
        about={"cores": 2},
    )
    said = "\n".join(report.lines(results))
    assert "CPU, bare Temporal saga / wedsync: 0.50 (goal: at least 0.9); rounds 0.50, 0.50" in said
    assert "CPU, fair peer / wedsync: 1.10 (goal: at least 1.0)" in said
    assert "CPU, DBOS saga / wedsync: 0.25; rounds" in said
    assert "per second, wedsync / DBOS saga: 0.31; rounds 0.25, 0.38" in said
    assert "(program 60, temporal 30, postgres 10)" in said
    assert "floor / actual: 0.50 (50 events at 0.60 ms and 20 ms, of 100 ms)" in said
    assert "1.10 times (goal: at most 1.2)" in said
    assert "enough for 25 a second" in said
    assert "10.0 events" in said
    assert "102 KiB each" in said
    assert "1.50 times; adds p50 1.00 ms" in said
