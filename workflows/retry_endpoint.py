"""`RetryEndpoint`: tend one failing endpoint with its parked deliveries, until it is well, paused, or disabled."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.deliveries import DeliveryActivities
    from wedsync.domain.routing.queues import RECORDS
    from wedsync.domain.webhooks.outgoing.messages import (
        LOOK_SIGNAL,
        RETRY_ENDPOINT_WORKFLOW,
        EndpointLook,
        EndpointStart,
        LookAt,
    )

#: Continue as new after so many wakes: each is about 10 history events.
LOOKS = 200
#: The shortest time between two wakes.
_SHORTEST = timedelta(milliseconds=50)
#: A wake sends for 8 s and waits for at most two more timeouts.
_START_TO_CLOSE = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))


@workflow.defn(name=RETRY_ENDPOINT_WORKFLOW)
class RetryEndpoint:
    """Started and signalled by dispatches (`endpoint:{endpoint}`); returns the endpoint's last status.

    The endpoint's row says what is due when; the timers are here.
    """

    @workflow.init
    def __init__(self, start: EndpointStart) -> None:
        self._endpoint_id = start.endpoint_id
        self._is_told = False

    @workflow.run
    async def run(self, start: EndpointStart) -> str:
        """Wake, wait until something is due or a signal comes, wake again."""
        looks = 0
        while True:
            self._is_told = False
            look = await self._look()
            looks += 1
            if look.wait_seconds is not None:
                await self._wait(look)
            elif not self._is_told:
                return look.status
            if looks == LOOKS:
                workflow.continue_as_new(start)

    @workflow.signal(name=LOOK_SIGNAL)
    def look(self) -> None:
        """Note that the endpoint or its deliveries changed."""
        self._is_told = True

    async def _look(self) -> EndpointLook:
        return await workflow.execute_activity_method(
            DeliveryActivities.retry_endpoint,
            LookAt(endpoint_id=self._endpoint_id, now=workflow.now()),
            task_queue=RECORDS,
            start_to_close_timeout=_START_TO_CLOSE,
            retry_policy=_RETRY,
            priority=Priority(priority_key=3),
            summary="look at an endpoint",
        )

    async def _wait(self, look: EndpointLook) -> None:
        wait = max(_SHORTEST, timedelta(seconds=look.wait_seconds or 0))
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._is_told, timeout=wait, timeout_summary=f"{look.status}: until something is due"
            )
