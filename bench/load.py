"""Puts load on each contender: `count` sagas, `width` at once, each started as its users would start it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import text
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from bench.bare_saga import BareSaga
from bench.fair_saga import FairSaga
from bench.names import FAIR_QUEUE, PEER_QUEUE
from bench.plans import VENDORS, elopement
from bench.stage import Stage
from wedsync.dispatch.weddings import dispatch
from wedsync.domain.access.principal import Principal
from wedsync.domain.plans.plan import Plan
from wedsync.kit import temporal
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.usecases.weddings import request_transaction
from wedsync.usecases.weddings.create_wedding import create_wedding
from wedsync.vendors.registry import load_registry

_SETTLED = text("SELECT id, status FROM transactions WHERE id = ANY(:ids) AND status <> 'running'")
_POLL_SECONDS = 0.02
_LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class Round:
    """One contender's turn."""

    count: int
    seconds: float
    #: From start to end of each saga.
    latencies: list[float]

    @property
    def per_second(self) -> float:
        """Return sagas per second."""
        return self.count / self.seconds


async def at_once(count: int, width: int, action: Callable[[int], Awaitable[None]]) -> Round:
    """Carry out `action` `count` times, never more than `width` at once; as soon as one ends the next begins."""
    numbers = iter(range(count))
    latencies: list[float] = []

    async def lane() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await action(number)
            latencies.append(time.perf_counter() - begun)

    started = time.perf_counter()
    async with asyncio.timeout(_LONGEST_SECONDS):
        await asyncio.gather(*(lane() for _ in range(min(width, count))))
    return Round(count, time.perf_counter() - started, latencies)


# ---- the product


@dataclass(frozen=True)
class Requested:
    """A wedding on record, with the requested orchestration."""

    wedding_id: str
    transaction_id: str


class Weddings:
    """Weddings of the stage's organization."""

    def __init__(self, stage: Stage, look_seconds: float = _POLL_SECONDS) -> None:
        self._stage = stage
        self._look_seconds = look_seconds
        self._principal = Principal(organization_id=stage.organization_id, key_id="bench")
        self._manifests = load_registry().manifests
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def record(self, plan: Callable[[str], Plan] = elopement) -> Requested:
        """Write a wedding and the request to orchestrate it, as the API does; dispatch nothing yet."""
        wedding_id, tx = new_id(), new_id()
        async with self._stage.db.tenant(self._stage.organization_id) as conn:
            await create_wedding(
                conn, self._principal, plan(f"w-{wedding_id.lower()}"), self._manifests, wedding_id=wedding_id,
                now=utc_now(),
            )  # fmt: skip
            requested_by = request_transaction.RequestedBy(
                principal=self._principal,
                transaction_id=tx,
                now=utc_now(),
                manifests=self._manifests,
                temporal_url=lambda *_: "",
            )
            await request_transaction.orchestrate(conn, wedding_id, requested_by)
        return Requested(wedding_id, tx)

    async def run(self, requested: Requested, *, wanted: str = "completed") -> None:
        """Dispatch the request and wait until its transaction is closed."""
        await self._dispatch(requested.transaction_id)
        status = await self._settled(requested.transaction_id)
        if status != wanted:
            raise AssertionError(f"the measured wedding is {status}, not {wanted}")

    async def _dispatch(self, transaction_id: str) -> None:
        """Dispatch it, again when nobody answered in time: as the product's sweep does."""
        for is_last in (False, False, True):
            try:
                await dispatch(self._stage.db, self._stage.client, transaction_id)
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                if is_last:
                    raise
            else:
                return

    async def _settled(self, transaction_id: str) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[transaction_id] = future
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        return await future

    async def _poll(self) -> None:
        """Poll all that is waited for with one query, 50 times a second: cheap beside what is measured."""
        while self._waiting:
            async with self._stage.db.tenant(self._stage.organization_id) as conn:
                for row in await conn.execute(_SETTLED, {"ids": list(self._waiting)}):
                    self._waiting.pop(row.id).set_result(row.status)
            await asyncio.sleep(self._look_seconds)


async def product_round(weddings: Weddings, requested: Sequence[Requested], width: int) -> Round:
    """Run weddings through `Wedding`; the rows are there before the clock starts."""
    return await at_once(len(requested), width, lambda number: weddings.run(requested[number]))


# ---- the peers


async def bare_round(stage: Stage, count: int, width: int, queue: str = PEER_QUEUE) -> Round:
    """Run the bare saga, in the SDK's sandbox or, on its other queue, without it."""

    async def one(_: int) -> None:
        saga = uuid.uuid4().hex
        await stage.bare_client.execute_workflow(BareSaga.run, saga, id=f"{queue}-{saga}", task_queue=queue)

    return await at_once(count, width, one)


async def fair_round(stage: Stage, count: int, width: int) -> Round:
    """Run the fair peer: encrypted, and started with a wedding's search attributes."""

    async def one(_: int) -> None:
        saga = uuid.uuid4().hex
        listed = TypedSearchAttributes(
            [
                SearchAttributePair(temporal.ORGANIZATION_ID, stage.organization_id),
                SearchAttributePair(temporal.WEDDING_ID, saga),
                SearchAttributePair(temporal.WEDDING_DATE, "2027-06-19"),
            ]
        )
        await stage.client.execute_workflow(
            FairSaga.run, saga, id=f"fair-{saga}", task_queue=FAIR_QUEUE, search_attributes=listed
        )

    return await at_once(count, width, one)


class DbosProgram:
    """DBOS process, driven over its standard input."""

    def __init__(self, stage: Stage) -> None:
        self._log = (stage.home / "logs" / "dbos.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.dbos_saga"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=stage.environment,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Return its pid."""
        return self._process.pid

    async def ready(self) -> None:
        """Return when it takes rounds."""
        await asyncio.to_thread(self._answer)

    async def round(self, count: int, width: int) -> Round:
        """Run one round."""
        answer = await asyncio.to_thread(self._request, f"{count} {width}\n")
        return Round(count, answer["seconds"], answer["latencies"])

    async def stop(self) -> None:
        """End it."""
        await asyncio.to_thread(self._process.communicate)
        self._log.close()

    def _request(self, line: str) -> dict[str, Any]:
        if self._process.stdin is None:
            raise RuntimeError("the DBOS process has no input")
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("the DBOS process has no output")
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError("the DBOS process ended: see its log")


# ---- the sandbox


async def mute_webhooks(stage: Stage) -> None:
    """Keep stand-ins from sending webhooks: no contender waits for a vendor event."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for vendor in VENDORS:
            answer = await http.put(f"{stage.sandbox_url}/_sandbox/webhooks/{vendor}", json={"muted": True})
            answer.raise_for_status()


async def empty_sandbox(stage: Stage) -> None:
    """Empty the sandbox, so that no round pays for the objects of the rounds before."""
    async with httpx.AsyncClient(trust_env=False) as http:
        (await http.post(f"{stage.sandbox_url}/_sandbox/reset")).raise_for_status()
    await mute_webhooks(stage)
