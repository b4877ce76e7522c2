"""Dispatch work to `DrainOutbox` and `RetrySubscription`: coalesced, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.client import Client
from temporalio.common import Priority

from wedsync.dispatch.coalesce import SIGNAL_INTERVAL_SECONDS, Coalescer
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
from wedsync.kit.temporal import RPC_TIMEOUT, ClientProvider

_meter = telemetry.meter()


#: Dispatches that did not reach Temporal; the sweep repeats them.
UNDISPATCHED = _meter.create_counter("outbox_untold", description="tells that failed")


_PRIORITY = Priority(priority_key=3)

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
        rpc_timeout=RPC_TIMEOUT,
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
        rpc_timeout=RPC_TIMEOUT,
    )


class OutboxDispatcher:
    """Dispatches the process's deliveries. A signal that fails is only logged and counted: the sweep repeats it."""

    def __init__(
        self, client_provider: ClientProvider, *, interval_seconds: float = SIGNAL_INTERVAL_SECONDS, partition: int = 0
    ) -> None:
        async def send(subject: str) -> None:
            client = await client_provider()
            await (signal_subscription(client, subject) if subject else signal_outbox(client, partition))

        self._signals = Coalescer(send, _missed, lambda _: interval_seconds)

    def dispatch(self) -> None:
        """Have the outbox's drain signalled soon; returns at once."""
        # "" stands for the outbox, everything else for an endpoint.
        self._signals.want("")

    def signal_subscriptions(self, subscription_ids: Iterable[str]) -> None:
        """Have the workflows of endpoints signalled soon; returns at once."""
        for subscription_id in subscription_ids:
            self._signals.want(subscription_id)

    async def close(self) -> None:
        """Wait for the signals that are under way."""
        await self._signals.close()


def _missed(_subject: str, error: BaseException) -> None:
    UNDISPATCHED.add(1)
    _log.warning("outbox_untold", error=type(error).__name__)
