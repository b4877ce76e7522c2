"""Write what a transaction, or the wedding itself, came to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal

import structlog
from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.weddings.ledger import StepError, StepState, TransactionResult
from wedsync.domain.weddings.messages import (
    SETTLED_SIGNAL,
    Message,
    TransactionKind,
    TransactionStatus,
    wedding_workflow_id,
)
from wedsync.kit import telemetry
from wedsync.store import projection, transactions
from wedsync.store.session import Database

log = structlog.get_logger(__name__)

ClientProvider = Callable[[], Awaitable[Client]]
_RPC_TIMEOUT = timedelta(seconds=8)


class BeginTransaction(Message):
    """A transaction that starts now."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    kind: TransactionKind
    seq: int
    origin_tx: str
    step_ids: tuple[str, ...]
    now: datetime


class SettleTransaction(Message):
    """A transaction's outcome, with its steps and references."""

    organization_id: str
    wedding_id: str
    result: TransactionResult
    step_ids: tuple[str, ...]
    #: Of the transaction's row and of its steps' rows.
    version: int
    step_version: int
    now: datetime
    #: Tell the wedding's workflow, too.
    tells: bool = False


class ShowProgress(Message):
    """Steps of a running transaction as they stand now, and whether it rolls back."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    is_rolling_back: bool
    steps: tuple[StepState, ...]
    version: int
    now: datetime


class StepRow(Message):
    """What a step's row holds from the start."""

    step_id: str
    service: str
    capability: str
    action: str


class TransactionNews(Message):
    """A status that a transaction moved on to."""

    transaction_id: str
    #: Given when the row may be gone and is to be made again.
    kind: TransactionKind | None = None
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    error: StepError | None = None


class RecordWedding(Message):
    """The wedding's own state, with what moved on in its transactions and on its agenda."""

    organization_id: str
    wedding_id: str
    status: Literal["planned", "active", "closing", "cancelled", "ended"]
    phase: str
    mode: str
    plan_version: int
    ceremony_local: str
    zone: str
    ceremony_at: datetime
    transactions: tuple[TransactionNews, ...] = ()
    steps: tuple[StepState, ...] = ()
    #: Held steps whose people are reminded now.
    reminders: tuple[str, ...] = ()
    #: Held steps whose deadline is past, each with why it takes no default.
    overdue: dict[str, StepError] = {}
    #: For a repair: every step of the plan in order, so that rows that are gone are made again.
    planned: tuple[StepRow, ...] = ()
    version: int
    step_version: int
    now: datetime


class Recorded(Message):
    """Nothing more to say."""

    ok: bool = True


async def begin_transaction(db: Database, wanted: BeginTransaction) -> Recorded:
    """Show the transaction as running."""
    request: dict[str, JsonValue] = {"kind": wanted.kind, "seq": wanted.seq, "origin": wanted.origin_tx}
    async with db.tenant(wanted.organization_id) as conn:
        await transactions.begin_transaction(
            conn,
            organization_id=wanted.organization_id,
            wedding_id=wanted.wedding_id,
            transaction_id=wanted.transaction_id,
            kind=wanted.kind,
            request=request,
            step_ids=wanted.step_ids,
            now=wanted.now,
        )
    return Recorded()


async def show_progress(db: Database, wanted: ShowProgress) -> Recorded:
    """Show the steps, and that the transaction rolls back; what has settled meanwhile stays as it is."""
    async with db.tenant(wanted.organization_id) as conn:
        if wanted.is_rolling_back:
            await transactions.write_rolling_back(conn, wanted.wedding_id, wanted.transaction_id, wanted.now)
        await projection.write_steps(
            conn, wanted.wedding_id, [(state, wanted.version) for state in wanted.steps], wanted.now
        )
    return Recorded()


async def settle_transaction(db: Database, provide: ClientProvider, wanted: SettleTransaction) -> Recorded:
    """Write the outcome, every step of it and every reference, so that no earlier lost write matters; tell the wedding.

    Repeating it changes nothing. Raises StoreUnavailable, TemporalUnreachable.
    """
    await _write_outcome(db, wanted)
    if wanted.tells:
        await _tell_wedding(await provide(), wanted)
    return Recorded()


async def _tell_wedding(client: Client, wanted: SettleTransaction) -> None:
    """A wedding that is gone no longer needs to know: Postgres does."""
    handle = client.get_workflow_handle(wedding_workflow_id(wanted.wedding_id))
    try:
        await handle.signal(SETTLED_SIGNAL, wanted.result, rpc_timeout=_RPC_TIMEOUT)
    except (RPCError, RuntimeError) as error:
        # A client that never reached its server raises RuntimeError.
        if not isinstance(error, RPCError) or error.status != RPCStatusCode.NOT_FOUND:
            raise TemporalUnreachable("the wedding could not be told: Temporal does not answer") from error
        log.warning("wedding.gone", wedding_id=wanted.wedding_id, transaction_id=wanted.result.id)


async def _write_outcome(db: Database, wanted: SettleTransaction) -> None:
    result = wanted.result
    references = [
        {
            "vendor": entry.binding.vendor,
            "account": entry.binding.account,
            "object_id": entry.external_id,
            "step_id": entry.step_id,
        }
        for entry in result.entries
        if entry.external_id
    ]
    async with db.tenant(wanted.organization_id) as conn:
        await projection.write_references(
            conn,
            organization_id=wanted.organization_id,
            wedding_id=wanted.wedding_id,
            transaction_id=result.id,
            references=references,
            now=wanted.now,
        )
        await projection.write_steps(
            conn, wanted.wedding_id, [(state, wanted.step_version) for state in result.steps], wanted.now
        )
        is_new = await transactions.settle_transaction(
            conn, wanted.wedding_id, result, version=wanted.version, now=wanted.now
        )
        if is_new:
            await _audit_outcome(conn, wanted)
    if is_new:
        _count(result)


async def _audit_outcome(conn: AsyncConnection, wanted: SettleTransaction) -> None:
    result = wanted.result
    parked = [
        state.step_id
        for state in result.steps
        if state.compensation is not None and state.compensation.status == "needs_attention"
    ]
    detail: dict[str, object] = {"kind": result.kind, "status": result.status, "gaps": list(result.gaps)}
    if parked:
        detail["needs_attention"] = parked
        log.error("compensation.needs_attention", wedding_id=wanted.wedding_id, transaction_id=result.id, steps=parked)
    if result.superseded:
        detail["superseded"] = list(result.superseded)
    subject = f"transaction/{result.id}"
    await projection.write_audit(conn, wanted.organization_id, "transaction.settled", subject, detail, wanted.now)


def _count(result: TransactionResult) -> None:
    telemetry.record_transaction(result.kind, result.status)
    actions = {entry.step_id: entry.binding.spec.name for entry in result.entries}
    for state in result.steps:
        action = actions.get(state.step_id, "none")
        telemetry.record_step(action, state.status)
        if state.compensation is not None:
            telemetry.record_compensation(action, state.compensation.status)


async def record_wedding(db: Database, wanted: RecordWedding) -> Recorded:
    """Write the wedding's state and what moved on with it."""
    async with db.tenant(wanted.organization_id) as conn:
        if wanted.planned:
            await _restore_rows(conn, wanted)
        await projection.write_steps(
            conn, wanted.wedding_id, [(state, wanted.step_version) for state in wanted.steps], wanted.now
        )
        for news in wanted.transactions:
            await transactions.write_transaction_status(
                conn,
                wanted.wedding_id,
                news.transaction_id,
                news.status,
                gaps=news.gaps,
                error=news.error.model_dump() if news.error else None,
                version=wanted.version,
                now=wanted.now,
            )
        for step_id in wanted.reminders:
            await _remind(conn, wanted, step_id)
        for step_id, why in wanted.overdue.items():
            await _escalate(conn, wanted, step_id, why)
        await projection.write_wedding(
            conn,
            wanted.wedding_id,
            status=wanted.status,
            phase=wanted.phase,
            mode=wanted.mode,
            plan_version=wanted.plan_version,
            ceremony_local=wanted.ceremony_local,
            zone=wanted.zone,
            ceremony_at=wanted.ceremony_at,
            version=wanted.version,
            now=wanted.now,
        )
    return Recorded()


async def _remind(conn: AsyncConnection, wanted: RecordWedding, step_id: str) -> None:
    """Tell watchers again that a step waits for a decision."""
    log.warning("hold.reminder", wedding_id=wanted.wedding_id, step_id=step_id)
    data = {"id": step_id, "status": "held", "reminder": True}
    await projection.write_event(conn, wanted.wedding_id, "step", data, wanted.now)
    subject = f"step/{wanted.wedding_id}/{step_id}"
    await projection.write_audit(conn, wanted.organization_id, "step.reminded", subject, {}, wanted.now)


async def _escalate(conn: AsyncConnection, wanted: RecordWedding, step_id: str, why: StepError) -> None:
    """Tell watchers and operators that nobody decided in time, and that nothing is done by itself."""
    log.error("hold.overdue", wedding_id=wanted.wedding_id, step_id=step_id, reason=why.code)
    data = {"id": step_id, "status": "held", "reminder": True, "overdue": True}
    await projection.write_event(conn, wanted.wedding_id, "step", data, wanted.now)
    subject = f"step/{wanted.wedding_id}/{step_id}"
    detail: dict[str, object] = why.model_dump()
    await projection.write_audit(conn, wanted.organization_id, "step.overdue", subject, detail, wanted.now)


async def _restore_rows(conn: AsyncConnection, wanted: RecordWedding) -> None:
    await projection.restore_rows(
        conn,
        organization_id=wanted.organization_id,
        wedding_id=wanted.wedding_id,
        steps=[row.model_dump() for row in wanted.planned],
        transactions=[{"id": n.transaction_id, "kind": n.kind} for n in wanted.transactions if n.kind is not None],
        now=wanted.now,
    )
    subject = f"wedding/{wanted.wedding_id}"
    await projection.write_audit(conn, wanted.organization_id, "wedding.repaired", subject, {}, wanted.now)
