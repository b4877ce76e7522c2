"""Works off one batch of the inbox, or one event that is tried again: decided, settled, counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from wedsync.domain.webhooks.inbox import ClaimedRow, Verdict
from wedsync.domain.webhooks.messages import DrainedBatch, DrainTotals, Lane, RetriedEvent, RetryStart
from wedsync.kit import logs
from wedsync.store import inbox
from wedsync.store.session import Database
from wedsync.usecases.webhooks import metrics
from wedsync.usecases.webhooks.decide import decide
from wedsync.usecases.webhooks.retry import start_retries
from wedsync.usecases.webhooks.tell import ClientProvider

_log = logs.get(__name__)


async def drain_batch(
    db: Database, client_provider: ClientProvider, lane: Lane, limit: int, now: datetime
) -> DrainedBatch:
    """Take up to `limit` due events of a lane in hand, tell their weddings and settle them, in one transaction.

    At least once: a crash after the tell and before the commit tells again, and the wedding drops what it knows.
    A fault of an event itself is noted on its row alone, which then has a `RetryWebhook` of its own. Raises
    StoreUnavailable, TemporalUnreachable, and RPCError when no wedding of the batch could be told; all rows are then
    as before.
    """
    started = time.monotonic()
    async with db.system() as connection:
        rows = await inbox.claim(connection, lane, limit, now)
        if not rows:
            due_at = await inbox.next_due_at(connection, lane)
            wait = None if due_at is None else max(0.0, (due_at - now).total_seconds())
            return DrainedBatch(claimed=0, next_due_seconds=wait)
        verdicts = await decide(connection, client_provider, rows, now)
        # What statistics call latency ends when the weddings were told.
        told_at = now + timedelta(seconds=time.monotonic() - started)
        await inbox.settle(connection, verdicts, told_at)
    _count(lane, rows, verdicts, told_at)
    await start_retries(client_provider, _retries(rows, verdicts, now))
    return DrainedBatch(claimed=len(rows), totals=_totals(verdicts))


async def retry_event(db: Database, client_provider: ClientProvider, row_id: int, now: datetime) -> RetriedEvent:
    """Try one event again whose own processing failed; one that was settled or replayed meanwhile is left alone.

    Raises StoreUnavailable, TemporalUnreachable, RPCError.
    """
    async with db.system() as connection:
        row = await inbox.claim_retrying(connection, row_id)
        if row is None:
            state, attempts = await inbox.state_of(connection, row_id)
            return RetriedEvent(state=state, attempts=attempts)
        verdicts = await decide(connection, client_provider, [row], now)
        await inbox.settle(connection, verdicts, now)
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
