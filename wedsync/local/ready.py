"""Checks whether a program of the stack does its work yet."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from wedsync.domain.errors import WedsyncError
from wedsync.local.processes import Child

_QUEUE_TYPES = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)


class NotStarted(WedsyncError):
    """Raised when a program of the stack ended, or did nothing, before it was ready."""

    code = "not_started"


async def until_ready(child: Child, probe: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Return when `probe` returns true; raises NotStarted with the end of the log."""
    deadline = time.monotonic() + seconds
    while not await probe():
        if not child.alive:
            raise NotStarted(f"{child.name} ended while it started:\n{child.log_tail()}")
        if time.monotonic() > deadline:
            raise NotStarted(f"{child.name} was not ready within {seconds:.0f} s:\n{child.log_tail()}")
        await asyncio.sleep(0.05)


async def answers(url: str, *, statuses: Sequence[int] = ()) -> bool:
    """Tell whether `url` answers with one of `statuses` (any, when none are given)."""
    return await asyncio.to_thread(_answers, url, statuses)


def _answers(url: str, statuses: Sequence[int]) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return not statuses or status in statuses


async def polls(client: Client, queue: str, since: float) -> bool:
    """Tell whether a worker has polled `queue` after `since` (seconds since the epoch)."""
    for kind in _QUEUE_TYPES:
        request = DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        try:
            described = await client.workflow_service.describe_task_queue(request)
        except RPCError:
            return False
        if any(poller.last_access_time.ToNanoseconds() / 1e9 >= since for poller in described.pollers):
            return True
    return False
