"""Dispatch recorded rows to their drains: one signal in flight per lane, a few a second; nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.service import RPCError

from wedsync.domain.errors import WedsyncError
from wedsync.domain.inbox.messages import (
    DRAIN_SIGNAL,
    RECONCILE_SOURCE_WORKFLOW,
    DrainStart,
    Lane,
    ReconcileStart,
    drain_workflow_id,
    reconcile_schedule_id,
)
from wedsync.domain.task_queues import WORKFLOWS, WORKFLOWS_BULK
from wedsync.domain.weddings.messages import DRAIN_INBOX_WORKFLOW
from wedsync.kit import logs, telemetry

_meter = telemetry.meter()


#: Dispatches that did not reach Temporal, by `lane`; the sweep repeats them.
UNDISPATCHED = _meter.create_counter("inbox_untold", description="tells that failed")


ClientProvider = Callable[[], Awaitable[Client]]

#: Signals to one lane are at least this far apart; those that come between become one.
SIGNAL_INTERVAL_SECONDS = 0.25
#: The same for the critical lane, whose few events must be dispatched within 200 ms.
CRITICAL_INTERVAL_SECONDS = 0.04
_RPC_TIMEOUT = timedelta(seconds=5)
#: Connecting included: a signal never holds the lane's place for longer.
_SIGNAL_TIMEOUT_SECONDS = 10.0
_PRIORITY = {"critical": Priority(priority_key=1), "normal": Priority(priority_key=3)}
#: What a signal that does not reach Temporal raises.
_UNREACHED = (RPCError, RuntimeError, OSError, TimeoutError, WedsyncError)

_log = logs.get(__name__)


async def signal_drain(client: Client, lane: Lane, partition: int = 0) -> None:
    """Signal the lane's drain, starting it when none runs; raises RPCError."""
    await client.start_workflow(
        DRAIN_INBOX_WORKFLOW,
        DrainStart(lane=lane, partition=partition),
        id=drain_workflow_id(lane, partition),
        task_queue=WORKFLOWS,
        start_signal=DRAIN_SIGNAL,
        priority=_PRIORITY[lane],
        static_summary=f"drain the {lane} lane of the inbox",
        rpc_timeout=_RPC_TIMEOUT,
    )


async def start_reconcile(client: Client, source: str) -> None:
    """Have a registered source's list read, unless it is being read; raises RPCError."""
    await client.start_workflow(
        RECONCILE_SOURCE_WORKFLOW,
        ReconcileStart(source=source),
        id=reconcile_schedule_id(source),
        task_queue=WORKFLOWS_BULK,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="compare a registered source's list with the inbox",
        rpc_timeout=_RPC_TIMEOUT,
    )


class InboxDispatcher:
    """Dispatches the process's rows. A signal that fails is only logged and counted: the sweep repeats it."""

    def __init__(
        self, client_provider: ClientProvider, *, interval_seconds: float = SIGNAL_INTERVAL_SECONDS, partition: int = 0
    ) -> None:
        self._client_provider = client_provider
        self._interval_seconds = interval_seconds
        self._partition = partition
        self._wanted: set[Lane] = set()
        self._running: dict[Lane, asyncio.Task[None]] = {}

    def dispatch(self, lane: Lane) -> None:
        """Have the lane's drain signalled soon; returns at once."""
        self._wanted.add(lane)
        if lane not in self._running:
            self._running[lane] = asyncio.create_task(self._run(lane), name=f"tell-inbox-{lane}")

    async def close(self) -> None:
        """Wait for the signals that are under way."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, lane: Lane) -> None:
        try:
            while lane in self._wanted:
                self._wanted.discard(lane)
                await self._signal(lane)
                await asyncio.sleep(self._interval(lane))
        finally:
            del self._running[lane]

    def _interval(self, lane: Lane) -> float:
        return min(CRITICAL_INTERVAL_SECONDS, self._interval_seconds) if lane == "critical" else self._interval_seconds

    async def _signal(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(_SIGNAL_TIMEOUT_SECONDS):
                await signal_drain(await self._client_provider(), lane, self._partition)
        except _UNREACHED as error:
            UNDISPATCHED.add(1, {"lane": lane})
            _log.warning("inbox_untold", lane=lane, error=type(error).__name__)
