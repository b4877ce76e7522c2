"""Write what a transaction, or the wedding itself, came to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from wedsync.domain.weddings.ledger import StepError, StepState, TransactionResult
from wedsync.domain.weddings.messages import Message, TransactionKind, TransactionStatus
from wedsync.store import projection
from wedsync.store.session import Database


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


class TransactionNews(Message):
    """A status that a transaction moved on to."""

    transaction_id: str
    status: TransactionStatus
    gaps: tuple[str, ...] = ()
    error: StepError | None = None


class RecordWedding(Message):
    """The wedding's own state, with what moved on in its transactions and on its agenda."""

    organization_id: str
    wedding_id: str
    status: Literal["planned", "active", "cancelled", "ended"]
    phase: str
    mode: str
    plan_version: int
    ceremony_local: str
    zone: str
    ceremony_at: datetime
    transactions: tuple[TransactionNews, ...] = ()
    steps: tuple[StepState, ...] = ()
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
        await projection.begin_transaction(
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


async def settle_transaction(db: Database, wanted: SettleTransaction) -> Recorded:
    """Write the outcome, every step of it and every reference, so that no earlier lost write matters."""
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
        await projection.settle_transaction(conn, wanted.wedding_id, result, version=wanted.version, now=wanted.now)
    return Recorded()


async def record_wedding(db: Database, wanted: RecordWedding) -> Recorded:
    """Write the wedding's state and what moved on with it."""
    async with db.tenant(wanted.organization_id) as conn:
        await projection.write_steps(
            conn, wanted.wedding_id, [(state, wanted.step_version) for state in wanted.steps], wanted.now
        )
        for news in wanted.transactions:
            await projection.write_transaction_status(
                conn,
                wanted.wedding_id,
                news.transaction_id,
                news.status,
                gaps=news.gaps,
                error=news.error.model_dump() if news.error else None,
                version=wanted.version,
                now=wanted.now,
            )
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
