"""Run by test_telemetry.py: one workflow whose activity calls a vendor, under one span. Arguments: Temporal, vendor."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.history.v1 import HistoryEvent
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from wedsync.kit import telemetry, temporal
    from wedsync.kit.http import VendorHttp, new_pool
    from wedsync.kit.settings import Settings

VENDOR_URL = sys.argv[1]


@activity.defn
async def call() -> int:
    async with new_pool() as pool:
        http = VendorHttp(pool, vendor="stripe", base_url=VENDOR_URL, timeout_seconds=5)
        return (
            await http.request("POST", "/v1/payment_intents", params=[("api_secret", "secret")], json_body={})
        ).status


@workflow.defn
class Book:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(call, start_to_close_timeout=timedelta(seconds=10))


def _headers(event: HistoryEvent) -> Iterator[str]:
    """Yield the names of what travels beside the input of a workflow or an activity."""
    yield from event.workflow_execution_started_event_attributes.header.fields
    yield from event.activity_task_scheduled_event_attributes.header.fields


async def main() -> None:
    settings = Settings()
    telemetry.setup(settings, "test")
    telemetry.setup(settings, "test")
    client = await temporal.connect(settings, plugins=telemetry.temporal_plugins())
    async with Worker(client, task_queue="traced", workflows=[Book], activities=[call]):
        with telemetry.tracer().start_as_current_span("request"):
            handle = await client.start_workflow(Book.run, id=f"traced-{os.getpid()}", task_queue="traced")
            await handle.result()
    events = (await handle.fetch_history()).events
    headers = [name for event in events for name in _headers(event)]
    sys.stdout.write(f"# headers {headers}\n")
    telemetry.record_vendor_call("stripe", "create", "ok", 0.3)
    telemetry.record_transaction("orchestrate", "completed")
    telemetry.record_step("payments.deposit", "succeeded")
    telemetry.record_compensation("payments.deposit", "undone")
    telemetry.flush()
    sys.stdout.write(telemetry.metrics_text().decode())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
