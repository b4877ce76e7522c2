"""Measures one wedding: its start, history and memory, and what the pipeline adds.

Each measure returns numbers; `bench.report` prints them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory

from bench import load, meter
from bench.bare_saga import BareSaga
from bench.load import Weddings
from bench.names import PEER_QUEUE
from bench.plans import asleep, elopement
from bench.rates import BARE, Rates
from bench.size import Size
from bench.stage import Stage
from bench.workers import Alone, Workers
from wedsync.domain.weddings.messages import wedding_workflow_id

# ---- 2. how long a start takes


async def starts(stage: Stage, count: int) -> dict[str, list[float]]:
    """Time by turns, four times a second: POST a wedding, POST its orchestration, start a bare saga."""
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
            requested = await http.post(
                path, json={"kind": "orchestrate"}, headers={"Idempotency-Key": uuid.uuid4().hex}
            )
            accepted = time.perf_counter()
            requested.raise_for_status()
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

WEDDING = "Wedding"


@dataclass(frozen=True)
class History:
    """One saga's history."""

    events: int
    bytes: int
    activities: int
    local_activities: int
    workflow_tasks: int


async def histories(stage: Stage, weddings: Weddings) -> dict[str, History]:
    """Read the histories of a wedding's workflow and of one bare saga."""
    requested = await weddings.record()
    await weddings.run(requested)
    saga = uuid.uuid4().hex
    await stage.bare_client.execute_workflow(BareSaga.run, saga, id=f"saga-{saga}", task_queue=PEER_QUEUE)
    # Its row is settled a moment before its workflow goes to sleep.
    await asyncio.sleep(0.5)
    ids = {
        WEDDING: wedding_workflow_id(requested.wedding_id),
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
        """Return what each sleeping wedding added."""
        return (self.after_bytes - self.before_bytes) / max(self.weddings, 1)


async def memory(stage: Stage, weddings: Weddings, size: Size) -> Memory:
    """Measure a fresh worker that takes in weddings with no step due yet, until all sleep or the time is over."""
    old = stage.programs.pop("worker")
    await asyncio.to_thread(old.stop, 25)
    worker = await stage.start_worker("worker")
    for _ in range(5):
        await weddings.run(await weddings.record(asleep))
    before = meter.rss_bytes(worker.pid)
    until = time.monotonic() + size.sleeping_seconds
    held = 0
    while held < size.sleeping and time.monotonic() < until:
        requested = [await weddings.record(asleep) for _ in range(min(size.width, size.sleeping - held))]
        await load.product_round(weddings, requested, size.width)
        held += len(requested)
    await asyncio.sleep(1)
    return Memory(held, before, meter.rss_bytes(worker.pid))


# ---- 5. what the pipeline adds


async def pipeline(stage: Stage, count: int) -> dict[str, list[float]]:
    """Time `VendorGateway.send` and the bare call, by turns, in a process of its own."""
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
    """Results of one run."""

    size: Size
    rates: Rates
    alone: Alone
    workers: Workers
    starts: dict[str, list[float]]
    histories: dict[str, History]
    memory: Memory
    pipeline: dict[str, list[float]]
    about: dict[str, Any]
