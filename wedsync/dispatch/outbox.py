"""Dispatch work to `DrainOutbox` and `RetrySubscription`: coalesced, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from wedsync.domain.errors import WedsyncError
from wedsync.domain.outbox.messages import (
    DRAIN_OUTBOX_SIGNAL,
    DRAIN_OUTBOX_WORKFLOW,
    RETRY_SUBSCRIPTION_WORKFLOW,
    WAKE_SIGNAL,
    OutboxStart,
    SubscriptionStart,
    outbox_workflow_id,
    subscription_workflow_id,
)
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.kit import logs, telemetry

_meter = telemetry.meter()


#: Dispatches that did not reach Temporal; the sweep repeats them.
UNDISPATCHED = _meter.create_counter("outbox_untold", description="tells that failed")


ClientProvider = Callable[[], Awaitable[Client]]

#: Signals are at least this far apart; those that come between become one.
SIGNAL_INTERVAL_SECONDS = 0.25
_RPC_TIMEOUT = timedelta(seconds=5)
_SIGNAL_TIMEOUT_SECONDS = 10.0
_PRIORITY = Priority(priority_key=3)
_UNREACHED = (RPCError, RuntimeError, OSError, TimeoutError, WedsyncError)

_log = logs.get(__name__)


async def signal_outbox(client: Client, partition: int = 0) -> None:
    """Signal the outbox's drain, starting it when none runs; raises RPCError."""
    await client.start_workflow(
        DRAIN_OUTBOX_WORKFLOW,
        OutboxStart(partition=partition),
        id=outbox_workflow_id(partition),
        task_queue=WORKFLOWS,
        start_signal=DRAIN_OUTBOX_SIGNAL,
        priority=_PRIORITY,
        static_summary="send the outbox",
        rpc_timeout=_RPC_TIMEOUT,
    )


async def signal_subscription(client: Client, subscription_id: str) -> None:
    """Signal an endpoint's workflow, starting it when none runs; raises RPCError."""
    await client.start_workflow(
        RETRY_SUBSCRIPTION_WORKFLOW,
        SubscriptionStart(subscription_id=subscription_id),
        id=subscription_workflow_id(subscription_id),
        task_queue=WORKFLOWS,
        start_signal=WAKE_SIGNAL,
        priority=_PRIORITY,
        static_summary="retry an endpoint's deliveries",
        rpc_timeout=_RPC_TIMEOUT,
    )


class OutboxDispatcher:
    """Dispatches the process's deliveries. A signal that fails is only logged and counted: the sweep repeats it."""

    def __init__(
        self, client_provider: ClientProvider, *, interval_seconds: float = SIGNAL_INTERVAL_SECONDS, partition: int = 0
    ) -> None:
        self._client_provider = client_provider
        self._interval_seconds = interval_seconds
        self._partition = partition
        #: `""` stands for the outbox, everything else for an endpoint.
        self._wanted: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def dispatch(self) -> None:
        """Have the outbox's drain signalled soon; returns at once."""
        self._want("")

    def signal_subscriptions(self, subscription_ids: Iterable[str]) -> None:
        """Have the workflows of endpoints signalled soon; returns at once."""
        for subscription_id in subscription_ids:
            self._want(subscription_id)

    async def close(self) -> None:
        """Wait for the signals that are under way."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _want(self, subject: str) -> None:
        self._wanted.add(subject)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="tell-outbox")

    async def _run(self) -> None:
        while self._wanted:
            subjects, self._wanted = self._wanted, set()
            await asyncio.gather(*(self._signal(subject) for subject in subjects))
            await asyncio.sleep(self._interval_seconds)

    async def _signal(self, subject: str) -> None:
        try:
            async with asyncio.timeout(_SIGNAL_TIMEOUT_SECONDS):
                client = await self._client_provider()
                await (signal_subscription(client, subject) if subject else signal_outbox(client, self._partition))
        except _UNREACHED as error:
            UNDISPATCHED.add(1)
            _log.warning("outbox_untold", error=type(error).__name__)
