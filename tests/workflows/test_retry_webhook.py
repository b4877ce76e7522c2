from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.inbox.messages import RETRY_NOW_SIGNAL, RetriedEvent, RetryEvent, RetryStart, retry_workflow_id
from wedsync.domain.task_queues import RECORDS, WORKFLOWS
from wedsync.kit.temporal import ORGANIZATION_ID, VENDOR, WEDDING_ID
from wedsync.usecases.inbox.retry import start_retry
from workflows.retry_webhook import RetryWebhook


def waiting(attempts: int, seconds: float) -> RetriedEvent:
    return RetriedEvent(state="retrying", attempts=attempts, error="does not fit", wait_seconds=seconds)


class Script:
    """In place of the activity: answers as told."""

    def __init__(self, *answers: RetriedEvent | Exception) -> None:
        self._answers = list(answers)
        self.tries = 0
        self.second = asyncio.Event()

    @activity.defn(name="webhooks.retry_event")
    async def retry_event(self, event: RetryEvent) -> RetriedEvent:
        self.tries += 1
        if self.tries == 2:
            self.second.set()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


#: Others on the same Temporal count from one.
NUMBER = 7_000_000


def begin(row_id: int) -> RetryStart:
    return RetryStart(row_id=row_id, source="stripe", event_type="payment.failed", attempts=1, wait_seconds=0.05)


@pytest.mark.parametrize(
    ("row_id", "end"),
    [(NUMBER + 1, "processed"), (NUMBER + 2, "dead"), (NUMBER + 3, "unmatched"), (NUMBER + 4, "gone")],
)
async def test_an_event_is_tried_after_each_wait_until_it_is_settled(
    temporal_client: Client, row_id: int, end: str
) -> None:
    script = Script(waiting(2, 0.1), waiting(3, 0.2), RetriedEvent(state=end, attempts=4))
    async with (
        Worker(temporal_client, task_queue=WORKFLOWS, workflows=[RetryWebhook]),
        Worker(temporal_client, task_queue=RECORDS, activities=[script.retry_event]),
        asyncio.timeout(30),
    ):
        handle = await temporal_client.start_workflow(
            RetryWebhook.run, begin(row_id), id=retry_workflow_id(row_id), task_queue=WORKFLOWS
        )
        result = await handle.result()
    assert (result.state, script.tries) == (end, 3)
    history = await handle.fetch_history()
    timers = [event for event in history.events if event.HasField("timer_started_event_attributes")]
    waits = [event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta() for event in timers]
    assert waits == [timedelta(seconds=seconds) for seconds in (0.05, 0.1, 0.2)]
    summaries = [await temporal_client.data_converter.decode([event.user_metadata.summary]) for event in timers]
    assert summaries == [[f"before try {number}"] for number in (2, 3, 4)]


async def test_a_database_that_is_down_is_no_try_and_someone_may_ask_for_one_at_once(temporal_client: Client) -> None:
    script = Script(StoreUnavailable("down"), waiting(2, 86_400 * 20), RetriedEvent(state="processed", attempts=2))
    async with (
        Worker(temporal_client, task_queue=WORKFLOWS, workflows=[RetryWebhook]),
        Worker(temporal_client, task_queue=RECORDS, activities=[script.retry_event]),
        asyncio.timeout(30),
    ):
        handle = await temporal_client.start_workflow(
            RetryWebhook.run, begin(NUMBER + 8), id=retry_workflow_id(NUMBER + 8), task_queue=WORKFLOWS
        )
        # The first try fails with the database, the second one's answer is to wait for 20 days.
        await script.second.wait()
        await handle.signal(RETRY_NOW_SIGNAL)
        result = await handle.result()
    assert (result.state, script.tries) == ("processed", 3)


async def test_an_operator_finds_the_retrying_of_a_weddings_event_by_its_wedding(temporal_client: Client) -> None:
    start = RetryStart(
        row_id=NUMBER + 91, source="stripe", event_type="payment.failed", attempts=1, wait_seconds=900,
        organization_id="o1", wedding_id="w91",
    )  # fmt: skip
    await start_retry(temporal_client, start)
    handle = temporal_client.get_workflow_handle(retry_workflow_id(NUMBER + 91))
    found = (await handle.describe()).typed_search_attributes
    assert (found.get(ORGANIZATION_ID), found.get(WEDDING_ID), found.get(VENDOR)) == ("o1", "w91", ["stripe"])
    await handle.terminate()
