"""A bare Temporal saga of the wedding's shape and activities, and its worker: `python -m bench.bare_saga`.

With `--unsandboxed` the worker runs it without the SDK's workflow sandbox, on a queue of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

with workflow.unsafe.imports_passed_through():
    from bench.names import PEER_QUEUE, UNSANDBOXED_QUEUE
    from bench.saga_calls import SETTLE, Order, Vendors


#: The SDK's default, with the modules passed through that only activities use.
SANDBOXED = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("bench", "httpx", "psycopg_pool", "wedsync")
)


class Activities:
    """One activity that does all; its order says what."""

    def __init__(self, vendors: Vendors) -> None:
        self._vendors = vendors

    @activity.defn(name="carry_out")
    async def carry_out(self, order: Order) -> str:
        """Make one HTTP call and one insert."""
        return await self._vendors.carry_out(order)


@workflow.defn(name="BareSaga")
class BareSaga:
    """Eight activities with their compensations noted, as Temporal's own saga samples do it."""

    @workflow.init
    def __init__(self, saga: str) -> None:
        self._saga = saga
        self._undo: list[tuple[str, str]] = []

    @workflow.run
    async def run(self, saga: str) -> list[str]:
        """Go forward; undo in reverse order what was done when a step fails."""
        try:
            await self._book("venue")
            await asyncio.gather(self._book("dinner"), self._do("photos"))
            await self._do("confirmation")
            await self._do("message")
            await self._do(SETTLE)
        except Exception:
            for step, object_id in reversed(self._undo):
                await self._do(f"undo.{step}", object_id)
            raise
        return [step for step, _ in self._undo]

    async def _book(self, step: str) -> None:
        booking = await self._do(f"{step}.request")
        await self._do(f"{step}.confirm", booking)

    async def _do(self, step: str, object_id: str = "") -> str:
        done = await workflow.execute_activity_method(
            Activities.carry_out,
            Order(self._saga, step, object_id),
            start_to_close_timeout=timedelta(seconds=12),
            retry_policy=RetryPolicy(maximum_attempts=3),
        )
        self._undo.append((step, done))
        return done


async def serve(client: Client, queue: str, saga: type, vendors: Vendors, runner: WorkflowRunner = SANDBOXED) -> None:
    """Serve until SIGTERM, with the product's worker settings (slots, cache)."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await vendors.open()
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[saga],
        activities=[Activities(vendors).carry_out],
        workflow_runner=runner,
        max_cached_workflows=2000,
        max_concurrent_workflow_tasks=100,
        max_concurrent_activities=50,
    )
    async with worker:
        await stop.wait()
    await vendors.close()


async def main() -> None:
    """Serve the bare saga."""
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], namespace=os.environ["TEMPORAL_NAMESPACE"])
    if "--unsandboxed" in sys.argv:
        await serve(client, UNSANDBOXED_QUEUE, BareSaga, Vendors(), UnsandboxedWorkflowRunner())
    else:
        await serve(client, PEER_QUEUE, BareSaga, Vendors())


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
