"""Write a wedding's own state, with the changes in its transactions and on its agenda."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import structlog
from pydantic import JsonValue

from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.projection import (
    AuditRow,
    EventRow,
    ProjectionWrite,
    StepWrite,
    TransactionMove,
    WeddingRow,
)
from wedsync.domain.weddings.step import StepError, StepState
from wedsync.domain.weddings.transaction import TransactionUpdate
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader

log = structlog.get_logger(__name__)


class StepRow(Message):
    """Fields of a step's row that never change."""

    step_id: str
    service: str
    capability: str
    action: str


class RecordWedding(Message):
    """A wedding's own state, with the changes in its transactions and on its agenda."""

    header: WeddingHeader
    wedding: WeddingRow | None
    transactions: tuple[TransactionUpdate, ...] = ()
    steps: tuple[StepState, ...] = ()
    #: Held steps whose people get a reminder now.
    reminders: tuple[str, ...] = ()
    #: Held steps whose deadline is past, each with why it takes no default.
    overdue: dict[str, StepError] = {}
    #: For a repair: every step of the plan in order, so that missing rows are made again.
    planned: tuple[StepRow, ...] = ()


class ShowProgress(Message):
    """Steps of a running transaction as they are now, and whether it rolls back."""

    header: WeddingHeader
    transaction_id: str
    is_rolling_back: bool
    steps: tuple[StepState, ...]


class Recorded(Message):
    """An acknowledgement."""

    ok: bool = True


async def show_progress(writer: HeldWriter, wanted: ShowProgress, run_id: str) -> Recorded:
    """Show the steps, and that the transaction rolls back; what has settled meanwhile stays as it is."""
    header = wanted.header
    write = header.write(
        run_id,
        rolling_back=wanted.transaction_id if wanted.is_rolling_back else None,
        steps=tuple(StepWrite(state=state, version=header.version) for state in wanted.steps),
    )
    await writer.write(write)
    return Recorded()


async def record_wedding(db: Database, writer: HeldWriter, wanted: RecordWedding, run_id: str) -> Recorded:
    """Write the wedding's state and the changes that came with it. Raises StoreUnavailable."""
    _log_holds(wanted)
    if wanted.planned:
        await _repair(db, wanted, run_id)
    else:
        await writer.write(_recorded(wanted, run_id))
    return Recorded()


def moves(updates: Iterable[TransactionUpdate], version: int) -> tuple[TransactionMove, ...]:
    """Return the writes of the transactions' changes."""
    return tuple(
        TransactionMove(id=one.transaction_id, status=one.status, gaps=one.gaps, error=one.error, version=version)
        for one in updates
    )


def _recorded(wanted: RecordWedding, run_id: str) -> ProjectionWrite:
    header = wanted.header
    return header.write(
        run_id,
        steps=tuple(StepWrite(state=state, version=header.version) for state in wanted.steps),
        moves=moves(wanted.transactions, header.version),
        events=tuple(_held_events(wanted)),
        wedding=wanted.wedding.at(header.version) if wanted.wedding is not None else None,
        audit=tuple(_held_audit(wanted)),
    )


def _held_events(wanted: RecordWedding) -> Iterator[EventRow]:
    """Notify watchers again that a step waits for a decision, and of each that nobody decided in time."""
    held: dict[str, JsonValue] = {"status": "held", "reminder": True}
    for step_id in wanted.reminders:
        yield EventRow(type="step", data={"id": step_id, **held})
    for step_id in wanted.overdue:
        yield EventRow(type="step", data={"id": step_id, **held, "overdue": True})


def _held_audit(wanted: RecordWedding) -> Iterator[AuditRow]:
    subject = f"step/{wanted.header.wedding_id}"
    for step_id in wanted.reminders:
        yield AuditRow(action="step.reminded", subject=f"{subject}/{step_id}")
    for step_id, why in wanted.overdue.items():
        yield AuditRow(action="step.overdue", subject=f"{subject}/{step_id}", detail=why.model_dump(mode="json"))


def _log_holds(wanted: RecordWedding) -> None:
    wedding_id = wanted.header.wedding_id
    for step_id in wanted.reminders:
        log.warning("hold.reminder", wedding_id=wedding_id, step_id=step_id)
    for step_id, why in wanted.overdue.items():
        log.error("hold.overdue", wedding_id=wedding_id, step_id=step_id, reason=why.code)


async def _repair(db: Database, wanted: RecordWedding, run_id: str) -> None:
    """Make missing rows again, and overwrite the others, in one transaction of the wedding's own."""
    header = wanted.header
    repaired = AuditRow(action="wedding.repaired", subject=f"wedding/{header.wedding_id}")
    async with db.tenant(header.organization_id) as conn:
        await projection.restore_rows(
            conn,
            organization_id=header.organization_id,
            wedding_id=header.wedding_id,
            steps=[row.model_dump() for row in wanted.planned],
            transactions=[{"id": t.transaction_id, "kind": t.kind} for t in wanted.transactions if t.kind is not None],
            now=header.now,
        )
        await projection.apply_writes(conn, [_recorded(wanted, run_id).audited(repaired)])
