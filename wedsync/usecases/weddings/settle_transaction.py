"""Settle a transaction: write its outcome and all that changed with it in one commit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import structlog
from pydantic import JsonValue

from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.projection import (
    AuditRow,
    Reference,
    StepWrite,
    TransactionOutcome,
    WeddingRow,
)
from wedsync.domain.weddings.saga import needs_attention
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.transaction import TransactionResult, TransactionUpdate
from wedsync.kit import telemetry
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.record_wedding import moves
from wedsync.usecases.weddings.resolve_agenda import ResolveAgenda, resolve_agenda
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

log = structlog.get_logger(__name__)


class SettleTransaction(Message):
    """A transaction's outcome, with its steps and references, and all that changed with it."""

    header: WeddingHeader
    wedding: WeddingRow | None
    result: TransactionResult
    transactions: tuple[TransactionUpdate, ...] = ()
    #: Steps that changed though the transaction does not cover them.
    steps: tuple[StepState, ...] = ()
    #: The agenda to resolve anew, as ends of steps may give others their time.
    resolves: ResolveAgenda | None = None


class Settled(Message):
    """Due times of the agenda's steps."""

    due: dict[str, datetime] = {}
    tzdata_version: str = ""


async def settle_transaction(writer: HeldWriter, shelf: PlanShelf, wanted: SettleTransaction, run_id: str) -> Settled:
    """Write the outcome, every step of it and every reference, so that no earlier lost write matters.

    Repeating it changes nothing. Raises StoreUnavailable.
    """
    header, result = wanted.header, wanted.result
    resolved = await resolve_agenda(shelf, wanted.resolves) if wanted.resolves is not None else None
    later = wanted.resolves.steps if wanted.resolves is not None else ()
    moved = tuple(step.due(resolved.due.get(step.step_id)) for step in later) if resolved is not None else ()
    audit = AuditRow(action="transaction.settled", subject=f"transaction/{result.id}", detail=_detail(result))
    written = await writer.write(
        header.write(
            run_id,
            references=tuple(_references(result)),
            steps=tuple(StepWrite(state=s, version=header.version) for s in _newest(result.steps, wanted.steps, moved)),
            outcome=TransactionOutcome(result=result, version=header.version, audit=audit),
            moves=moves(wanted.transactions, header.version),
            wedding=wanted.wedding.at(header.version) if wanted.wedding is not None else None,
        )
    )
    if written.has_settled:
        _report(header.wedding_id, result)
    if resolved is None:
        return Settled()
    return Settled(due=resolved.due, tzdata_version=resolved.tzdata_version)


def _newest(*groups: tuple[StepState, ...]) -> Iterator[StepState]:
    """Keep each step once, as the last group that names it has it."""
    yield from {step.step_id: step for group in groups for step in group}.values()


def _references(result: TransactionResult) -> Iterator[Reference]:
    for entry in result.entries:
        if entry.external_id:
            yield Reference(
                vendor=entry.binding.vendor,
                account=entry.binding.account,
                object_id=entry.external_id,
                step_id=entry.step_id,
                transaction_id=result.id,
            )


def _detail(result: TransactionResult) -> dict[str, JsonValue]:
    detail: dict[str, JsonValue] = {"kind": result.kind, "status": result.status, "gaps": list(result.gaps)}
    if parked := _parked(result):
        detail["needs_attention"] = list(parked)
    if result.superseded:
        detail["superseded"] = list(result.superseded)
    return detail


def _parked(result: TransactionResult) -> list[str]:
    return [state.step_id for state in result.steps if needs_attention(state.compensation)]


def _report(wedding_id: str, result: TransactionResult) -> None:
    """Notify operators of an outcome, once it is new."""
    if parked := _parked(result):
        log.error("compensation.needs_attention", wedding_id=wedding_id, transaction_id=result.id, steps=parked)
    telemetry.record_transaction(result.kind, result.status)
    actions = {entry.step_id: entry.binding.spec.name for entry in result.entries}
    for state in result.steps:
        action = actions.get(state.step_id, "none")
        telemetry.record_step(action, state.status)
        if state.compensation is not None:
            telemetry.record_compensation(action, state.compensation.status)
