"""Start `RetryWebhook` for events whose own processing failed; by their rows the sweep starts it again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client
from temporalio.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import WorkflowAlreadyStartedError

from wedsync.domain.inbox.messages import RETRY_NOW_SIGNAL, RETRY_WEBHOOK_WORKFLOW, RetryStart, retry_workflow_id
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.domain.weddings import search_attributes as names
from wedsync.kit import logs
from wedsync.kit.temporal import AWAY, RPC_TIMEOUT, ClientProvider

_VENDOR = SearchAttributeKey.for_keyword_list(names.VENDOR)
_ORGANIZATION = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
_WEDDING = SearchAttributeKey.for_keyword(names.WEDDING_ID)
_log = logs.get(__name__)


async def start_retries(client_provider: ClientProvider, starts: Sequence[RetryStart]) -> None:
    """Start a `RetryWebhook` for each; the sweep starts what can't be started now."""
    if not starts:
        return
    try:
        client = await client_provider()
        await asyncio.gather(*(start_retry(client, start) for start in starts))
    except AWAY as error:
        _log.warning("webhook_retry_not_started", rows=len(starts), error=type(error).__name__)


async def start_retry(client: Client, start: RetryStart) -> None:
    """Start the event's `RetryWebhook` unless it runs; raises RPCError."""
    try:
        await client.start_workflow(
            RETRY_WEBHOOK_WORKFLOW,
            start,
            id=retry_workflow_id(start.row_id),
            task_queue=WORKFLOWS,
            priority=Priority(priority_key=3),
            static_summary=f"try {start.source}'s {start.event_type or 'event'} again: {start.error}"[:200],
            search_attributes=_attributes(start),
            rpc_timeout=RPC_TIMEOUT,
        )
    except WorkflowAlreadyStartedError:
        return


def _attributes(start: RetryStart) -> TypedSearchAttributes:
    known = [(_ORGANIZATION, start.organization_id), (_WEDDING, start.wedding_id)]
    pairs: list[SearchAttributePair[Any]] = [SearchAttributePair(key, value) for key, value in known if value]
    return TypedSearchAttributes([SearchAttributePair(_VENDOR, [start.source]), *pairs])


async def wake_retry(client: Client, row_id: int) -> None:
    """Wake the event's `RetryWebhook`, if it runs, to read its row now; raises RPCError when Temporal is away."""
    await client.get_workflow_handle(retry_workflow_id(row_id)).signal(RETRY_NOW_SIGNAL, rpc_timeout=RPC_TIMEOUT)
