"""Dispatch recorded rows to their drains: one signal in flight per lane, a few a second; nobody waits for it."""

from __future__ import annotations

from typing import cast

from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy

from wedsync.dispatch.coalesce import SIGNAL_INTERVAL_SECONDS, Coalescer
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
from wedsync.kit.temporal import RPC_TIMEOUT, ClientProvider

_meter = telemetry.meter()


#: Dispatches that did not reach Temporal, by `lane`; the sweep repeats them.
UNDISPATCHED = _meter.create_counter("inbox_untold", description="tells that failed")


#: Signals to the critical lane are at least this far apart: its few events must be dispatched within 200 ms.
CRITICAL_INTERVAL_SECONDS = 0.04
_PRIORITY = {"critical": Priority(priority_key=1), "normal": Priority(priority_key=3)}

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
        rpc_timeout=RPC_TIMEOUT,
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
        rpc_timeout=RPC_TIMEOUT,
    )


class InboxDispatcher:
    """Dispatches the process's rows. A signal that fails is only logged and counted: the sweep repeats it."""

    def __init__(
        self, client_provider: ClientProvider, *, interval_seconds: float = SIGNAL_INTERVAL_SECONDS, partition: int = 0
    ) -> None:
        async def send(lane: str) -> None:
            await signal_drain(await client_provider(), cast(Lane, lane), partition)

        def interval(lane: str) -> float:
            return min(CRITICAL_INTERVAL_SECONDS, interval_seconds) if lane == "critical" else interval_seconds

        self._signals = Coalescer(send, _missed, interval)

    def dispatch(self, lane: Lane) -> None:
        """Have the lane's drain signalled soon; returns at once."""
        self._signals.want(lane)

    async def close(self) -> None:
        """Wait for the signals that are under way."""
        await self._signals.close()


def _missed(lane: str, error: BaseException) -> None:
    UNDISPATCHED.add(1, {"lane": lane})
    _log.warning("inbox_untold", lane=lane, error=type(error).__name__)
