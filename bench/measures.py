"""The five measures. Each returns numbers; `bench.report` prints them."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory

from bench import load, meter
from bench.bare_saga import BareSaga
from bench.load import DbosProgram, Round, Weddings
from bench.names import PEER_QUEUE
from bench.plans import asleep, elopement
from bench.stage import Stage
from wedsync.domain.weddings.messages import transaction_workflow_id, wedding_workflow_id

PRODUCT, BARE, DBOS = "wedsync", "bare Temporal saga", "DBOS saga"
#: A process's part in a contender's CPU; the load generator is left out.
_OWN_PROGRAM = {PRODUCT: "worker", BARE: "bare", DBOS: "dbos"}
_SERVERS = {PRODUCT: ("temporal", "postgres"), BARE: ("temporal", "postgres"), DBOS: ("postgres",)}


@dataclass(frozen=True)
class Size:
    """How much of each."""

    width: int
    rounds: int
    warm_up: int
    #: About how long one round of one contender takes.
    round_seconds: float
    #: No further set of rounds is begun after so long: a busy machine gets fewer rounds, not a longer run.
    rounds_within_seconds: float
    starts: int
    sleeping: int
    sleeping_seconds: float
    calls: int


FULL = Size(
    width=50,
    rounds=3,
    warm_up=30,
    round_seconds=9,
    rounds_within_seconds=110,
    starts=80,
    sleeping=1000,
    sleeping_seconds=300,
    calls=1000,
)
QUICK = Size(
    width=20,
    rounds=1,
    warm_up=10,
    round_seconds=3,
    rounds_within_seconds=10,
    starts=12,
    sleeping=40,
    sleeping_seconds=12,
    calls=100,
)


# ---- 1. sagas per second


@dataclass
class Rates:
    """Per contender: a rate, latencies and CPU for each round."""

    per_second: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    #: CPU milliseconds per saga, by process.
    cpu_ms: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> list[float]:
        """`one` over `other`, round by round: neighbours in time share the machine's noise."""
        return [a / b for a, b in zip(self.per_second[one], self.per_second[other], strict=True)]

    def cpu_total(self, name: str) -> float:
        """CPU milliseconds per saga of the contender's program and servers: the median round."""
        parts = (_OWN_PROGRAM[name], *_SERVERS[name])
        return statistics.median(sum(used.get(part, 0) for part in parts) for used in self.cpu_ms[name])


async def rates(stage: Stage, weddings: Weddings, dbos: DbosProgram, size: Size) -> Rates:
    """Rounds by turns; each is sized by the warm-up so that it takes about `size.round_seconds`."""

    async def product(count: int) -> Callable[[], Awaitable[Round]]:
        asked = [await weddings.record() for _ in range(count)]
        return lambda: load.product_round(weddings, asked, size.width)

    async def bare(count: int) -> Callable[[], Awaitable[Round]]:
        return lambda: load.bare_round(stage, count, size.width)

    async def on_dbos(count: int) -> Callable[[], Awaitable[Round]]:
        return lambda: dbos.round(count, size.width)

    contenders = {PRODUCT: product, BARE: bare, DBOS: on_dbos}
    counts, until = {}, time.monotonic() + size.rounds_within_seconds
    for name, prepare in contenders.items():
        warm = await (await prepare(size.warm_up))()
        counts[name] = max(size.width, min(400, round(warm.per_second * size.round_seconds)))
    found = Rates()
    for number in range(size.rounds):
        if number and time.monotonic() > until:
            break
        for name, prepare in contenders.items():
            await load.empty_sandbox(stage)
            begin = await prepare(counts[name])
            pids = {**stage.pids(), "dbos": dbos.pid}
            before = meter.cpu_seconds(pids)
            done = await begin()
            used = meter.used(before, meter.cpu_seconds(pids))
            found.per_second.setdefault(name, []).append(done.per_second)
            found.latencies.setdefault(name, []).extend(done.latencies)
            found.cpu_ms.setdefault(name, []).append({k: 1000 * v / done.count for k, v in used.items()})
    return found


# ---- 2. how long a start takes


async def starts(stage: Stage, count: int) -> dict[str, list[float]]:
    """POST a wedding, POST its orchestration, start a bare saga: by turns, four times a second."""
    taken: dict[str, list[float]] = {"POST weddings": [], "POST transactions": [], "bare start_workflow": []}
    headers = {"Authorization": f"Bearer {stage.api_key}"}
    warm_up = 3
    async with httpx.AsyncClient(base_url=f"{stage.api_url}/api/v1", headers=headers, trust_env=False) as http:
        for number in range(count + warm_up):
            plan = elopement(f"s-{uuid.uuid4().hex}").model_dump(mode="json", exclude_none=True)
            started = time.perf_counter()
            made = await http.post("/weddings", json=plan, headers={"Idempotency-Key": uuid.uuid4().hex})
            created = time.perf_counter()
            made.raise_for_status()
            path = f"/weddings/{made.json()['id']}/transactions"
            asking = time.perf_counter()
            asked = await http.post(path, json={"kind": "orchestrate"}, headers={"Idempotency-Key": uuid.uuid4().hex})
            accepted = time.perf_counter()
            asked.raise_for_status()
            await asyncio.sleep(0.15)
            saga = uuid.uuid4().hex
            beginning = time.perf_counter()
            await stage.bare_client.start_workflow(BareSaga.run, saga, id=f"saga-{saga}", task_queue=PEER_QUEUE)
            begun = time.perf_counter()
            if number >= warm_up:
                taken["POST weddings"].append(created - started)
                taken["POST transactions"].append(accepted - asking)
                taken["bare start_workflow"].append(begun - beginning)
            await asyncio.sleep(0.1)
    return taken


# ---- 3. what history holds


@dataclass(frozen=True)
class History:
    """One saga's history."""

    events: int
    bytes: int
    activities: int
    local_activities: int
    workflow_tasks: int


async def histories(stage: Stage, weddings: Weddings) -> dict[str, History]:
    """The newest wedding's two workflows, and one bare saga."""
    asked = await weddings.record()
    await weddings.run(asked)
    saga = uuid.uuid4().hex
    await stage.bare_client.execute_workflow(BareSaga.run, saga, id=f"saga-{saga}", task_queue=PEER_QUEUE)
    # The wedding takes its transaction's end in a moment later.
    await asyncio.sleep(0.5)
    ids = {
        "Wedding": wedding_workflow_id(asked.wedding_id),
        "RunTransaction": transaction_workflow_id(asked.wedding_id, asked.transaction_id),
        BARE: f"saga-{saga}",
    }
    return {name: _history(await _fetched(stage.client, workflow_id)) for name, workflow_id in ids.items()}


async def _fetched(client: Client, workflow_id: str) -> WorkflowHistory:
    return await client.get_workflow_handle(workflow_id).fetch_history()


def _history(history: WorkflowHistory) -> History:
    kinds = Counter(EventType.Name(event.event_type) for event in history.events)
    return History(
        events=len(history.events),
        bytes=sum(event.ByteSize() for event in history.events),
        activities=kinds["EVENT_TYPE_ACTIVITY_TASK_SCHEDULED"],
        local_activities=kinds["EVENT_TYPE_MARKER_RECORDED"],
        workflow_tasks=kinds["EVENT_TYPE_WORKFLOW_TASK_COMPLETED"],
    )


# ---- 4. memory of a worker with sleeping weddings


@dataclass(frozen=True)
class Memory:
    """Resident memory of one worker process."""

    weddings: int
    before_bytes: int
    after_bytes: int

    @property
    def per_wedding_bytes(self) -> float:
        """What each sleeping wedding added."""
        return (self.after_bytes - self.before_bytes) / max(self.weddings, 1)


async def memory(stage: Stage, weddings: Weddings, size: Size) -> Memory:
    """A fresh worker takes in weddings whose every step is due later, until all sleep or the time is over."""
    old = stage.programs.pop("worker")
    await asyncio.to_thread(old.stop, 25)
    worker = await stage.start_worker("worker")
    for _ in range(5):
        await weddings.run(await weddings.record(asleep))
    before = meter.rss_bytes(worker.pid)
    until = time.monotonic() + size.sleeping_seconds
    held = 0
    while held < size.sleeping and time.monotonic() < until:
        asked = [await weddings.record(asleep) for _ in range(min(size.width, size.sleeping - held))]
        await load.product_round(weddings, asked, size.width)
        held += len(asked)
    await asyncio.sleep(1)
    return Memory(held, before, meter.rss_bytes(worker.pid))


# ---- 5. what the pipeline adds


async def pipeline(stage: Stage, count: int) -> dict[str, list[float]]:
    """`VendorGateway.send` and the bare call, by turns, in a process of its own."""
    argv = [sys.executable, "-m", "bench.pipeline", str(count)]
    done = await asyncio.to_thread(_output, argv, stage.environment)
    found: dict[str, list[float]] = json.loads(done.splitlines()[-1])
    return found


def _output(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        list(argv), env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


@dataclass(frozen=True)
class Results:
    """Everything that one run found."""

    size: Size
    rates: Rates
    starts: dict[str, list[float]]
    histories: dict[str, History]
    memory: Memory
    pipeline: dict[str, list[float]]
    about: dict[str, Any]
