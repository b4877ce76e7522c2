"""Dispatch work to `DrainOutbox` and `RetryEndpoint`: coalesced, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import Priority
from temporalio.service import RPCError

from wedsync.domain.errors import WedsyncError
from wedsync.domain.routing.queues import WORKFLOWS
from wedsync.domain.webhooks.outgoing.messages import (
    DRAIN_OUTBOX_SIGNAL,
    DRAIN_OUTBOX_WORKFLOW,
    LOOK_SIGNAL,
    RETRY_ENDPOINT_WORKFLOW,
    EndpointStart,
    OutboxStart,
    endpoint_workflow_id,
    outbox_workflow_id,
)
from wedsync.kit import logs
from wedsync.usecases.webhooks.outgoing import metrics

ClientProvider = Callable[[], Awaitable[Client]]

#: Signals are at least this far apart; those that come between become one.
TELL_INTERVAL_SECONDS = 0.25
_RPC_TIMEOUT = timedelta(seconds=5)
_TELL_TIMEOUT_SECONDS = 10.0
_PRIORITY = Priority(priority_key=3)
_UNREACHED = (RPCError, RuntimeError, OSError, TimeoutError, WedsyncError)

_log = logs.get(__name__)


async def tell_outbox(client: Client, partition: int = 0) -> None:
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


async def tell_endpoint(client: Client, endpoint_id: str) -> None:
    """Signal an endpoint's workflow, starting it when none runs; raises RPCError."""
    await client.start_workflow(
        RETRY_ENDPOINT_WORKFLOW,
        EndpointStart(endpoint_id=endpoint_id),
        id=endpoint_workflow_id(endpoint_id),
        task_queue=WORKFLOWS,
        start_signal=LOOK_SIGNAL,
        priority=_PRIORITY,
        static_summary="retry an endpoint's deliveries",
        rpc_timeout=_RPC_TIMEOUT,
    )


class OutboxTeller:
    """Dispatches the process's deliveries. A signal that fails is only logged and counted: the sweep repeats it."""

    def __init__(
        self, client_provider: ClientProvider, *, interval_seconds: float = TELL_INTERVAL_SECONDS, partition: int = 0
    ) -> None:
        self._client_provider = client_provider
        self._interval_seconds = interval_seconds
        self._partition = partition
        #: `""` stands for the outbox, everything else for an endpoint.
        self._wanted: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Have the outbox's drain signalled soon; returns at once."""
        self._want("")

    def tell_endpoints(self, endpoint_ids: Iterable[str]) -> None:
        """Have the workflows of endpoints signalled soon; returns at once."""
        for endpoint_id in endpoint_ids:
            self._want(endpoint_id)

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
            await asyncio.gather(*(self._tell(subject) for subject in subjects))
            await asyncio.sleep(self._interval_seconds)

    async def _tell(self, subject: str) -> None:
        try:
            async with asyncio.timeout(_TELL_TIMEOUT_SECONDS):
                client = await self._client_provider()
                await (tell_endpoint(client, subject) if subject else tell_outbox(client, self._partition))
        except _UNREACHED as error:
            metrics.UNTOLD.add(1)
            _log.warning("outbox_untold", error=type(error).__name__)
