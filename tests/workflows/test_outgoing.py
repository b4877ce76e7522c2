from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.outbox import DeliveryActivities
from tests.support.outgoing import PostOffice, open_post_office
from tests.support.receivers import Receiver, open_receiver
from wedsync.dispatch.outbox import signal_outbox, signal_subscription
from wedsync.domain.outbox import schedule
from wedsync.domain.outbox.messages import SubscriptionStart, outbox_workflow_id, subscription_workflow_id
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.task_queues import RECORDS, WORKFLOWS
from wedsync.kit.clock import utc_now
from wedsync.store.outbox.events import NEWS
from wedsync.usecases.outbox import subscribe
from workers.queues import WORKFLOWS as SERVED
from workflows.drain_outbox import DrainOutbox
from workflows.retry_subscription import RetrySubscription


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as opened:
        yield opened


def worker_activities(office: PostOffice, client: Client) -> DeliveryActivities:
    async def provider() -> Client:
        return client

    return DeliveryActivities(office.db, provider, office.sender, office.delivery_sender)


def workers(client: Client, office: PostOffice) -> tuple[Worker, Worker]:
    """What a worker process runs for the outbox."""
    made = worker_activities(office, client)
    return (
        Worker(client, task_queue=WORKFLOWS, workflows=[DrainOutbox, RetrySubscription]),
        Worker(
            client,
            task_queue=RECORDS,
            activities=[made.pump, made.retry_subscription, made.sweep],
            graceful_shutdown_timeout=timedelta(seconds=0),
        ),
    )


@pytest.fixture
async def office(fresh_database_urls: Any, temporal_client: Client) -> AsyncIterator[PostOffice]:
    """A post office that tells a real Temporal server, with workers."""

    async def provider() -> Client:
        return temporal_client

    # One that an earlier test's killed worker left would wait for that worker's activity.
    with suppress(RPCError):
        await temporal_client.get_workflow_handle(outbox_workflow_id()).terminate()
    async with open_post_office(fresh_database_urls.app, provider=provider) as opened:
        opened.db.when_committed(NEWS, opened.dispatcher.dispatch)
        flow, records = workers(temporal_client, opened)
        async with flow, records:
            yield opened
        with suppress(RPCError):
            await temporal_client.get_workflow_handle(outbox_workflow_id()).terminate()


async def test_a_committed_change_is_on_its_way_at_once_and_the_pump_ends_by_itself(
    office: PostOffice, receiver: Receiver, temporal_client: Client
) -> None:
    await office.subscribe(receiver.url())
    for _ in range(30):
        await office.dispatch(10)
    await office.until_statuses({"delivered": 300})
    assert len(receiver.requests) == 300
    await office.dispatcher.close()
    await temporal_client.get_workflow_handle(outbox_workflow_id()).result()
    for _ in range(500):
        office.dispatcher.dispatch()
    await office.dispatcher.close()
    history = await temporal_client.get_workflow_handle(outbox_workflow_id()).fetch_history()
    # Coalesced.
    assert sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events) == 1


async def test_a_failing_endpoint_is_retried_by_a_workflow_of_its_own_until_it_is_well(
    office: PostOffice, receiver: Receiver, temporal_client: Client
) -> None:
    receiver.answer = lambda request: (503, {})
    subscription = await office.subscribe(receiver.url(), "payment.*")
    await office.dispatch(5)
    await receiver.until(3)
    receiver.answer = lambda request: (200, {})
    handle = temporal_client.get_workflow_handle(subscription_workflow_id(subscription))
    await office.until_statuses({"delivered": 5})
    await office.until_status(subscription, "active")
    described = await handle.describe()
    assert await described.static_summary() == "retry an endpoint's deliveries"


async def test_28_hours_of_retries_pass_on_durable_timers_and_end_in_exhaustion(
    fresh_database_urls: Any, temporal_env: WorkflowEnvironment, receiver: Receiver
) -> None:
    receiver.answer = lambda request: (500, {})
    async with open_post_office(fresh_database_urls.app) as office:
        subscription = await office.subscribe(receiver.url())
        await office.dispatch(3)
        await office.delivery_sender.run()
        began = utc_now()
        flow, records = workers(temporal_env.client, office)
        async with flow, records:
            with temporal_env.with_time_skipping_disabled():
                handle = await temporal_env.client.start_workflow(
                    RetrySubscription.run,
                    SubscriptionStart(subscription_id=subscription),
                    id=subscription_workflow_id(subscription),
                    task_queue=WORKFLOWS,
                )
            for _ in range(29):
                with suppress(RPCError):
                    await temporal_env.fast_forward(handle, timedelta(hours=1))
            assert await handle.result() == "disabled"
        row = await office.row(subscription)
        attempts = await office.attempts()
    assert (row.status, row.reason) == ("disabled", "exhausted")
    probes = [attempt.at for attempt in attempts[3:]]
    gaps = [later - earlier for earlier, later in zip([began, *probes], probes, strict=False)]
    for gap, planned in zip(gaps, schedule.waits(DeliveryRetryPolicy()), strict=True):
        assert 0.89 * planned <= gap + timedelta(seconds=2)
        assert gap <= planned + timedelta(seconds=10)
    assert timedelta(hours=24) < probes[-1] - began < timedelta(hours=28)
    assert (await handle.describe()).history_length < 250


async def test_a_resumed_endpoint_is_looked_at_at_once(
    office: PostOffice, receiver: Receiver, temporal_client: Client
) -> None:
    receiver.answer = lambda request: (500, {})
    subscription = await office.subscribe(receiver.url(), "payment.*", retry_policy={"backoff": "fixed"})
    await office.dispatch(4)
    await receiver.until(4)
    await office.until_status(subscription, "failing")
    receiver.answer = lambda request: (200, {})
    async with office.db.tenant("o1") as conn:
        await subscribe.resume(conn, office.principal, subscription, utc_now())
    await signal_subscription(temporal_client, subscription)
    await office.until_statuses({"delivered": 4})


async def test_a_worker_that_dies_while_it_delivers_loses_nothing(
    fresh_database_urls: Any, temporal_client: Client, receiver: Receiver
) -> None:
    receiver.answer = lambda request: None
    async with open_post_office(fresh_database_urls.app, timeout_seconds=30) as office:
        await office.subscribe(receiver.url())
        await office.dispatch(2)
        flow, records = workers(temporal_client, office)
        async with flow, records:
            await signal_outbox(temporal_client)
            await receiver.until(2)
        # What it had sent is known to nobody: it is still pending, leased.
        await office.delivery_sender.close()
        assert await office.statuses() == {"pending": 2}
        await office.expire_leases()
        receiver.answer = lambda request: (200, {})
        flow, records = workers(temporal_client, office)
        async with flow, records:
            await signal_outbox(temporal_client)
            await receiver.until(4)
            await office.until_statuses({"delivered": 2})
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert sorted(ids[:2]) == sorted(ids[2:])


async def test_a_limited_endpoint_gets_no_more_than_its_rate_and_everything_in_the_end(
    office: PostOffice, receiver: Receiver, temporal_client: Client
) -> None:
    await office.subscribe(receiver.url(), rate_per_second=2.0)
    began = utc_now()
    await office.dispatch(6)
    await office.until_statuses({"delivered": 6})
    # Two at once at most, then one each half a second.
    assert utc_now() - began >= timedelta(seconds=1.5)
    assert len(receiver.requests) == 6
    await office.dispatcher.close()
    handle = temporal_client.get_workflow_handle(outbox_workflow_id())
    assert await handle.result() >= 6
    waits = [
        event for event in (await handle.fetch_history()).events if event.HasField("timer_started_event_attributes")
    ]
    summaries = [await temporal_client.data_converter.decode([event.user_metadata.summary]) for event in waits]
    assert ["until an endpoint's rate has room"] in summaries


def test_the_worker_serves_both_workflows() -> None:
    assert {DrainOutbox, RetrySubscription} <= set(SERVED)
