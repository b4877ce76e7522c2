"""The minute's sweep of hand-offs, with activities that a test decides."""

from __future__ import annotations

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from wedsync.domain.task_queues import RECORDS
from wedsync.kit.ids import new_id
from workflows.redispatch_pending import RedispatchPending


async def test_a_sweep_that_fails_keeps_no_other_from_its_turn(temporal_client: Client) -> None:
    swept: list[str] = []

    @activity.defn(name="handoffs.sweep_transactions")
    async def transactions() -> None:
        raise ApplicationError("no answer", non_retryable=True)

    @activity.defn(name="webhooks.sweep_inbox")
    async def inbox() -> None:
        swept.append("inbox")

    @activity.defn(name="deliveries.sweep")
    async def outbox() -> None:
        swept.append("outbox")

    queue = f"sweeps-{new_id()}"
    async with (
        Worker(temporal_client, task_queue=queue, workflows=[RedispatchPending]),
        Worker(temporal_client, task_queue=RECORDS, activities=[transactions, inbox, outbox]),
    ):
        with pytest.raises(WorkflowFailureError):
            await temporal_client.execute_workflow(RedispatchPending.run, id=queue, task_queue=queue)
    assert swept == ["inbox", "outbox"]
