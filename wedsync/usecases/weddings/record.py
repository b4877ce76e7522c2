"""Write what a transaction, or the wedding itself, came to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta

import structlog
from pydantic import JsonValue
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
from wedsync.domain.weddings.projection import (
    AuditRow,
    Claim,
    EventRow,
    ProjectionWrite,
    Reference,
    StepWrite,
    TransactionBegin,
    TransactionMove,
    TransactionOutcome,
    WeddingRow,
    WeddingStatus,
)
from wedsync.kit import telemetry
from wedsync.store import projection
from wedsync.store.projection_writer import ProjectionWriter
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
    #: The workflow run that claims it; empty: the one that the activity belongs to.
    run_id: str = ""
    #: The run that this one continues.
    continued_from: str | None = None
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
    status: WeddingStatus
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


class Begun(Recorded):
    """Which run holds the transaction, and how it stands when it has settled."""

    claim: Claim | None = None


async def begin_transaction(writer: ProjectionWriter, wanted: BeginTransaction) -> Begun:
    """Claim the transaction for its workflow's run and show it as running; another run's claim stays as it is."""
    request: dict[str, JsonValue] = {"kind": wanted.kind, "seq": wanted.seq, "origin": wanted.origin_tx}
    begin = TransactionBegin(
        id=wanted.transaction_id,
        kind=wanted.kind,
        request=request,
        step_ids=wanted.step_ids,
        run_id=wanted.run_id,
        continued_from=wanted.continued_from,
    )
    write = ProjectionWrite(
        organization_id=wanted.organization_id, wedding_id=wanted.wedding_id, now=wanted.now, begin=begin
    )
    return Begun(claim=(await writer.write(write)).claim)


async def show_progress(writer: ProjectionWriter, wanted: ShowProgress) -> Recorded:
    """Show the steps, and that the transaction rolls back; what has settled meanwhile stays as it is."""
    await writer.write(
        ProjectionWrite(
            organization_id=wanted.organization_id,
            wedding_id=wanted.wedding_id,
            now=wanted.now,
            rolling_back=wanted.transaction_id if wanted.is_rolling_back else None,
            steps=_steps(wanted.steps, wanted.version),
        )
    )
    return Recorded()


def _steps(states: Sequence[StepState], version: int) -> tuple[StepWrite, ...]:
    return tuple(StepWrite(state=state, version=version) for state in states)


async def settle_transaction(writer: ProjectionWriter, provide: ClientProvider, wanted: SettleTransaction) -> Recorded:
    """Write the outcome, every step of it and every reference, so that no earlier lost write matters; tell the wedding.

    Repeating it changes nothing. Raises StoreUnavailable, TemporalUnreachable.
    """
    written = await writer.write(_outcome(wanted))
    if written.has_settled:
        _report(wanted)
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


def _outcome(wanted: SettleTransaction) -> ProjectionWrite:
    result = wanted.result
    audit = AuditRow(action="transaction.settled", subject=f"transaction/{result.id}", detail=_detail(result))
    return ProjectionWrite(
        organization_id=wanted.organization_id,
        wedding_id=wanted.wedding_id,
        now=wanted.now,
        references=tuple(_references(result)),
        steps=_steps(result.steps, wanted.step_version),
        outcome=TransactionOutcome(result=result, version=wanted.version, audit=audit),
    )


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
    return [
        state.step_id
        for state in result.steps
        if state.compensation is not None and state.compensation.status == "needs_attention"
    ]


def _report(wanted: SettleTransaction) -> None:
    """Tell operators of an outcome, once it is new."""
    result = wanted.result
    if parked := _parked(result):
        log.error("compensation.needs_attention", wedding_id=wanted.wedding_id, transaction_id=result.id, steps=parked)
    _count(result)


def _count(result: TransactionResult) -> None:
    telemetry.record_transaction(result.kind, result.status)
    actions = {entry.step_id: entry.binding.spec.name for entry in result.entries}
    for state in result.steps:
        action = actions.get(state.step_id, "none")
        telemetry.record_step(action, state.status)
        if state.compensation is not None:
            telemetry.record_compensation(action, state.compensation.status)


async def record_wedding(db: Database, writer: ProjectionWriter, wanted: RecordWedding) -> Recorded:
    """Write the wedding's state and what moved on with it."""
    _log_holds(wanted)
    if wanted.planned:
        await _repair(db, wanted)
    else:
        await writer.write(_recorded(wanted))
    return Recorded()


def _recorded(wanted: RecordWedding) -> ProjectionWrite:
    return ProjectionWrite(
        organization_id=wanted.organization_id,
        wedding_id=wanted.wedding_id,
        now=wanted.now,
        steps=_steps(wanted.steps, wanted.step_version),
        moves=tuple(
            TransactionMove(
                id=news.transaction_id, status=news.status, gaps=news.gaps, error=news.error, version=wanted.version
            )
            for news in wanted.transactions
        ),
        events=tuple(_held_events(wanted)),
        wedding=_wedding_row(wanted),
        audit=tuple(_held_audit(wanted)),
    )


def _wedding_row(wanted: RecordWedding) -> WeddingRow:
    return WeddingRow(
        status=wanted.status,
        phase=wanted.phase,
        mode=wanted.mode,
        plan_version=wanted.plan_version,
        ceremony_local=wanted.ceremony_local,
        zone=wanted.zone,
        ceremony_at=wanted.ceremony_at,
        version=wanted.version,
    )


def _held_events(wanted: RecordWedding) -> Iterator[EventRow]:
    """Tell watchers again that a step waits for a decision, and of each that nobody decided in time."""
    held: dict[str, JsonValue] = {"status": "held", "reminder": True}
    for step_id in wanted.reminders:
        yield EventRow(type="step", data={"id": step_id, **held})
    for step_id in wanted.overdue:
        yield EventRow(type="step", data={"id": step_id, **held, "overdue": True})


def _held_audit(wanted: RecordWedding) -> Iterator[AuditRow]:
    subject = f"step/{wanted.wedding_id}"
    for step_id in wanted.reminders:
        yield AuditRow(action="step.reminded", subject=f"{subject}/{step_id}")
    for step_id, why in wanted.overdue.items():
        yield AuditRow(action="step.overdue", subject=f"{subject}/{step_id}", detail=why.model_dump(mode="json"))


def _log_holds(wanted: RecordWedding) -> None:
    for step_id in wanted.reminders:
        log.warning("hold.reminder", wedding_id=wanted.wedding_id, step_id=step_id)
    for step_id, why in wanted.overdue.items():
        log.error("hold.overdue", wedding_id=wanted.wedding_id, step_id=step_id, reason=why.code)


async def _repair(db: Database, wanted: RecordWedding) -> None:
    """Make rows that are gone again, and write over whatever stands, in one transaction of the wedding's own."""
    repaired = AuditRow(action="wedding.repaired", subject=f"wedding/{wanted.wedding_id}")
    write = _recorded(wanted)
    async with db.tenant(wanted.organization_id) as conn:
        await projection.restore_rows(
            conn,
            organization_id=wanted.organization_id,
            wedding_id=wanted.wedding_id,
            steps=[row.model_dump() for row in wanted.planned],
            transactions=[{"id": n.transaction_id, "kind": n.kind} for n in wanted.transactions if n.kind is not None],
            now=wanted.now,
        )
        await projection.apply_writes(conn, [write.model_copy(update={"audit": (repaired, *write.audit)})])
