"""Process one batch of the inbox, or one event that is tried again: decide, record the verdict, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio.service import RPCError

from wedsync.domain.errors import StoreUnavailable, TemporalUnreachable
from wedsync.domain.inbox.messages import DrainedBatch, DrainTotals, Lane, RetriedEvent, RetryStart
from wedsync.domain.inbox.triage import ClaimedRow, Verdict, after_fault
from wedsync.kit import logs
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.store.inbox import queries as inbox
from wedsync.usecases.inbox import metrics
from wedsync.usecases.inbox.decide import decide, policy_of
from wedsync.usecases.inbox.pushes import is_push, reconcile_now
from wedsync.usecases.inbox.retry import start_retries

#: After signals to so many weddings of a failed batch have failed, Temporal counts as away.
_MOST_UNSIGNALLED = 3

_log = logs.get(__name__)


async def drain_batch(
    db: Database, client_provider: ClientProvider, lane: Lane, limit: int, now: datetime
) -> DrainedBatch:
    """Claim up to `limit` due events of a lane, signal their weddings and record the verdicts, in one transaction.

    At least once: a crash after the signal and before the commit signals again, and the wedding drops what it knows.
    A fault of an event itself is recorded on its row alone, which then has a `RetryWebhook` of its own. Raises
    StoreUnavailable, TemporalUnreachable, and RPCError when no wedding of the batch could be signalled; then all rows
    are as before.
    """
    started = time.monotonic()
    rows: list[ClaimedRow] = []
    try:
        async with db.system() as connection:
            rows = await inbox.claim(connection, lane, limit, now)
            if not rows:
                due_at = await inbox.next_due_at(connection, lane)
                wait = None if due_at is None else max(0.0, (due_at - now).total_seconds())
                return DrainedBatch(claimed=0, next_due_seconds=wait)
            verdicts = await decide(connection, client_provider, rows, now)
            # Statistics count latency up to the signals to the weddings.
            signalled_at = now + timedelta(seconds=time.monotonic() - started)
            await inbox.record_outcomes(connection, verdicts, signalled_at)
    except Exception as error:
        if not rows or _is_infrastructure(error):
            raise
        _log.error("webhook_batch_fault", lane=lane, rows=len(rows), error=_name(error))
        verdicts = await _drain_each(db, client_provider, rows, now)
        signalled_at = now + timedelta(seconds=time.monotonic() - started)
    decided = [row for row in rows if row.id in verdicts]
    _count(lane, decided, verdicts, signalled_at)
    await start_retries(client_provider, _retries(decided, verdicts, now))
    await reconcile_now(client_provider, {row.source for row in decided if is_push(row.source, row.event.get("facts"))})
    return DrainedBatch(claimed=len(rows), totals=_totals(verdicts))


async def _drain_each(
    db: Database, client_provider: ClientProvider, rows: Sequence[ClaimedRow], now: datetime
) -> dict[int, Verdict]:
    """Process the rows of a failed batch, each in its own transaction: the culprit's fault is recorded on it alone.

    Leaves rows whose weddings could not be signalled as they are. Raises as `drain_batch`.
    """
    verdicts: dict[int, Verdict] = {}
    unsignalled: list[RPCError] = []
    for row in rows:
        try:
            verdict = await _drain_one(db, client_provider, row.id, now)
        except RPCError as error:
            unsignalled.append(error)
            if len(unsignalled) == _MOST_UNSIGNALLED:
                break
        else:
            verdicts |= {} if verdict is None else {row.id: verdict}
    if unsignalled and not verdicts:
        raise unsignalled[0]
    return verdicts


async def _drain_one(db: Database, client_provider: ClientProvider, row_id: int, now: datetime) -> Verdict | None:
    """Process one due row and return its verdict; None: another drain has claimed it."""
    row: ClaimedRow | None = None
    try:
        async with db.system() as connection:
            row = await inbox.claim_one(connection, row_id, now)
            if row is None:
                return None
            verdicts = await decide(connection, client_provider, [row], now)
            await inbox.record_outcomes(connection, verdicts, now)
    except Exception as error:
        if row is None or _is_infrastructure(error):
            raise
        return await _note_fault(db, row, error, now)
    return verdicts[row_id]


async def _note_fault(db: Database, row: ClaimedRow, error: Exception, now: datetime) -> Verdict:
    """Record the failure of a row that we or Postgres could not process; only the error's kind: no guest's data."""
    _log.error("webhook_event_fault", source=row.source, event_id=row.event_id, error=_name(error))
    async with db.system() as connection:
        configs = await inbox.source_configs(connection, {row.source} if row.organization_id else ())
        verdict = after_fault(
            row, f"the event could not be processed: {_name(error)}", now, policy=policy_of(row, configs)
        )
        await inbox.record_outcomes(connection, {row.id: verdict}, now)
    return verdict


def _is_infrastructure(error: Exception) -> bool:
    """Tell whether an error comes from Temporal or Postgres, and not from the claimed events."""
    if isinstance(error, RecursionError):
        return False
    # Temporal's client says RuntimeError when it reaches no server.
    return isinstance(error, StoreUnavailable | TemporalUnreachable | RPCError | OSError | RuntimeError)


def _name(error: Exception) -> str:
    return type(getattr(error, "orig", None) or error).__name__


async def retry_event(db: Database, client_provider: ClientProvider, row_id: int, now: datetime) -> RetriedEvent:
    """Try again one event whose processing failed; leave it alone if it was completed or replayed meanwhile.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    row: ClaimedRow | None = None
    try:
        async with db.system() as connection:
            row = await inbox.claim_retrying(connection, row_id)
            if row is None:
                state, attempts = await inbox.state_of(connection, row_id)
                return RetriedEvent(state=state, attempts=attempts)
            verdicts = await decide(connection, client_provider, [row], now)
            await inbox.record_outcomes(connection, verdicts, now)
    except Exception as error:
        if row is None or _is_infrastructure(error):
            raise
        verdicts = {row_id: await _note_fault(db, row, error, now)}
    _count("retry", [row], verdicts, now)
    verdict = verdicts[row_id]
    waits = verdict.state == "retrying" and verdict.due_at is not None
    return RetriedEvent(
        state=verdict.state,
        attempts=verdict.attempts,
        error=verdict.error or "",
        wait_seconds=(verdict.due_at - now).total_seconds() if waits and verdict.due_at else None,
    )


def _retries(rows: Sequence[ClaimedRow], verdicts: dict[int, Verdict], now: datetime) -> list[RetryStart]:
    return [
        RetryStart(
            row_id=row.id,
            source=row.source,
            event_type=str(row.event.get("type", "")),
            attempts=verdict.attempts,
            error=verdict.error or "",
            wait_seconds=(verdict.due_at - now).total_seconds(),
            organization_id=(verdict.match.organization_id if verdict.match else row.organization_id) or "",
            wedding_id=(verdict.match.wedding_id if verdict.match else "") or "",
        )
        for row in rows
        if (verdict := verdicts[row.id]).state == "retrying" and verdict.due_at is not None
    ]


def _totals(verdicts: dict[int, Verdict]) -> DrainTotals:
    states = Counter(verdict.state for verdict in verdicts.values())
    return DrainTotals(
        processed=states["processed"],
        unmatched=states["unmatched"],
        put_off=states["received"] + states["retrying"],
        dead=states["dead"],
    )


def _count(lane: str, rows: Sequence[ClaimedRow], verdicts: dict[int, Verdict], now: datetime) -> None:
    for row in rows:
        verdict = verdicts[row.id]
        metrics.PROCESSED.add(1, {"lane": lane, "state": verdict.state})
        if verdict.state == "processed":
            metrics.LAG.record(max(0.0, (now - row.received_at).total_seconds()), {"lane": lane})
        elif verdict.state == "dead":
            _log.error("webhook_dead", source=row.source, event_id=row.event_id, reason=verdict.error)
        elif verdict.state in ("received", "retrying"):
            _log.warning("webhook_put_off", source=row.source, event_id=row.event_id, reason=verdict.error)
