"""Dispatch a recorded transaction to its wedding's workflow: idempotent, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import text
from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import WEDDING_OVER, StoreUnavailable
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.domain.weddings import search_attributes as names
from wedsync.domain.weddings.messages import (
    SUBMIT_UPDATE,
    WEDDING_WORKFLOW,
    TransactionRequest,
    WeddingStart,
    wedding_workflow_id,
)
from wedsync.domain.weddings.projection import ProjectionWrite, TransactionMove
from wedsync.domain.weddings.step import StepError
from wedsync.domain.weddings.wedding_state import WeddingState
from wedsync.kit.clock import utc_now
from wedsync.kit.temporal import AWAY, UPDATE_TIMEOUT, ClientProvider
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection

log = structlog.get_logger(__name__)


_ORGANIZATION = SearchAttributeKey.for_keyword(names.ORGANIZATION_ID)
_WEDDING = SearchAttributeKey.for_keyword(names.WEDDING_ID)
_DATE = SearchAttributeKey.for_keyword(names.WEDDING_DATE)
_PHASE = SearchAttributeKey.for_keyword(names.WEDDING_PHASE)
_STATUS = SearchAttributeKey.for_keyword(names.TRANSACTION_STATUS)
#: A sweep's own limit, below its activity's; and how many weddings get their dispatch at once.
_SWEPT_WITHIN = timedelta(seconds=40)
_DISPATCHED_AT_ONCE = 50
#: A wedding's refusal is written with this version: after the request, before any write of the wedding.
_REFUSAL_VERSION = 1

_UNDISPATCHED = text("""
SELECT t.organization_id, t.wedding_id, t.id, t.request, w.reference, w.plan_version,
  left(w.ceremony_local, 10) AS date
FROM transactions t JOIN weddings w ON w.id = t.wedding_id
WHERE t.id = :id AND t.handed_off_at IS NULL
""")
_MARK_DISPATCHED = text("UPDATE transactions SET handed_off_at = :now WHERE id = :id AND handed_off_at IS NULL")
_OVERDUE = text("""
SELECT id, wedding_id FROM transactions WHERE handed_off_at IS NULL AND requested_at < :before
ORDER BY requested_at LIMIT :most
""")


async def dispatch(db: Database, client: Client, transaction_id: str) -> bool:
    """Dispatch the transaction unless that was done; True when the wedding has it, or has refused it.

    Raises RPCError, TimeoutError and the like when Temporal, or a worker, does not answer: dispatch again later.
    """
    async with db.system() as conn:
        row = (await conn.execute(_UNDISPATCHED, {"id": transaction_id})).first()
    if row is None:
        return True
    request = TransactionRequest.model_validate_json(json.dumps({**row.request, "id": row.id}))
    start = WeddingStart(
        wedding_id=row.wedding_id,
        organization_id=row.organization_id,
        reference=row.reference,
        plan_version=row.plan_version,
        date=row.date,
    )
    try:
        await _submit(client, start, request)
    except WorkflowUpdateFailedError as error:
        await _refused(db, row, error)
        return True
    except WorkflowAlreadyStartedError:
        over = StepError(code=WEDDING_OVER, detail="the wedding's own workflow has ended")
        await _write_refusal(db, row, over)
        return True
    async with db.system() as conn:
        await conn.execute(_MARK_DISPATCHED, {"id": transaction_id, "now": utc_now()})
    return True


async def _submit(client: Client, start: WeddingStart, request: TransactionRequest) -> None:
    """Give the request to the wedding's workflow: the first one starts it, later ones are updates.

    Raises WorkflowAlreadyStartedError when the wedding is over.
    """
    async with asyncio.timeout(UPDATE_TIMEOUT.total_seconds() + 1):
        if request.seq == 1:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                return await _start(client, start, request)
        try:
            await _update(client, start, request)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            await _start(client, start, request)


async def _update(client: Client, start: WeddingStart, request: TransactionRequest) -> None:
    handle = client.get_workflow_handle(wedding_workflow_id(start.wedding_id))
    await handle.execute_update(SUBMIT_UPDATE, request, id=request.id, result_type=str, rpc_timeout=UPDATE_TIMEOUT)


async def _start(client: Client, start: WeddingStart, request: TransactionRequest) -> None:
    await client.start_workflow(
        WEDDING_WORKFLOW,
        WeddingState(start=start).asked(request),
        id=wedding_workflow_id(start.wedding_id),
        task_queue=WORKFLOWS,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        # A wedding that is over stays over.
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        priority=Priority(priority_key=3, fairness_key=start.organization_id[:64]),
        static_summary=f"wedding {start.wedding_id}",
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(_ORGANIZATION, start.organization_id),
                SearchAttributePair(_WEDDING, start.wedding_id),
                SearchAttributePair(_DATE, start.date),
                SearchAttributePair(_PHASE, "preparation"),
                SearchAttributePair(_STATUS, "running"),
            ]
        ),
        rpc_timeout=UPDATE_TIMEOUT,
    )


async def _refused(db: Database, row: Any, error: WorkflowUpdateFailedError) -> None:
    cause = error.cause
    code = cause.type or "refused" if isinstance(cause, ApplicationError) else "refused"
    detail = cause.message if isinstance(cause, ApplicationError) else str(cause)
    await _write_refusal(db, row, StepError(code=code, detail=detail))


async def _write_refusal(db: Database, row: Any, error: StepError) -> None:
    refused = TransactionMove(id=row.id, status="cancelled", error=error, version=_REFUSAL_VERSION)
    write = ProjectionWrite(
        organization_id=row.organization_id, wedding_id=row.wedding_id, now=utc_now(), moves=(refused,)
    )
    async with db.unbound() as conn:
        await projection.apply_writes(conn, [write])


class TransactionDispatcher:
    """Dispatches in the background of the process that recorded the transaction."""

    def __init__(self, db: Database, client_provider: ClientProvider) -> None:
        self._db = db
        self._client_provider = client_provider
        self._tasks: set[asyncio.Task[None]] = set()

    def soon(self, organization_id: str, wedding_id: str, transaction_id: str) -> None:
        """Dispatch the transaction as soon as possible; the sweep repeats what fails here."""
        task = asyncio.create_task(self._dispatch(wedding_id, transaction_id), name=f"tell-{transaction_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give the dispatches under way a moment to end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)

    async def _dispatch(self, wedding_id: str, transaction_id: str) -> None:
        try:
            await dispatch(self._db, await self._client_provider(), transaction_id)
        except (*AWAY, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            log.warning(
                "handoff.put_off",
                wedding_id=wedding_id,
                transaction_id=transaction_id,
                reason=type(error).__name__,
            )


async def overdue(db: Database, now: datetime, *, older_than: timedelta, most: int) -> dict[str, list[str]]:
    """List the ids of recorded transactions not dispatched for `older_than`, by wedding, oldest first."""
    async with db.system() as conn:
        rows = (await conn.execute(_OVERDUE, {"before": now - older_than, "most": most})).all()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.wedding_id, []).append(row.id)
    return found


async def redispatch_transactions(
    db: Database, client: Client, now: datetime, within: timedelta = _SWEPT_WITHIN
) -> tuple[int, int]:
    """Dispatch again what has waited undispatched for 10 s; return `(dispatched, still waiting)`.

    A wedding's in their order, many weddings at once: one that does not answer keeps no other waiting.
    """
    weddings = await overdue(db, now, older_than=timedelta(seconds=10), most=500)
    dispatched: list[str] = []
    places = asyncio.Semaphore(_DISPATCHED_AT_ONCE)

    async def dispatch_one(transaction_ids: list[str]) -> None:
        async with places:
            with contextlib.suppress(
                RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, StoreUnavailable
            ):
                for transaction_id in transaction_ids:
                    await dispatch(db, client, transaction_id)
                    dispatched.append(transaction_id)

    tasks = [asyncio.create_task(dispatch_one(ids)) for ids in weddings.values()]
    if tasks:
        done, late = await asyncio.wait(tasks, timeout=within.total_seconds())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
    return len(dispatched), sum(map(len, weddings.values())) - len(dispatched)
