"""Works off one batch of the inbox: whose event it is, tell that wedding, settle the row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.routing.vendor import VendorEvent
from wedsync.domain.webhooks import inbox as rules
from wedsync.domain.webhooks.inbox import ClaimedRow, Match, Verdict
from wedsync.domain.webhooks.messages import DrainedBatch, DrainTotals, Lane
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, wedding_workflow_id
from wedsync.kit import logs
from wedsync.store import inbox
from wedsync.store.session import Database
from wedsync.usecases.webhooks import metrics
from wedsync.usecases.webhooks.tell import ClientProvider

_RPC_TIMEOUT = timedelta(seconds=5)
#: How long a row waits whose wedding could not be told while others could; it counts as no fault.
BUSY_WAIT = timedelta(seconds=5)
#: Answers of Temporal that speak of the event itself; every other one speaks of Temporal.
_EVENT_FAULTS = (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION)

_log = logs.get(__name__)


async def drain_batch(
    db: Database, client_provider: ClientProvider, lane: Lane, limit: int, now: datetime
) -> DrainedBatch:
    """Take up to `limit` due events of a lane in hand, tell their weddings and settle them, in one transaction.

    At least once: a crash after the tell and before the commit tells again, and the wedding drops what it knows.
    A fault of an event itself is noted on its row alone. Raises StoreUnavailable, TemporalUnreachable, and RPCError
    when no wedding of the batch could be told; all rows are then as before.
    """
    async with db.system() as connection:
        rows = await inbox.claim(connection, lane, limit, now)
        if not rows:
            due_at = await inbox.next_due_at(connection, lane)
            wait = None if due_at is None else max(0.0, (due_at - now).total_seconds())
            return DrainedBatch(claimed=0, next_due_seconds=wait)
        verdicts = await _decide(connection, client_provider, rows, now)
        await inbox.settle(connection, verdicts, now)
    _count(lane, rows, verdicts, now)
    return DrainedBatch(claimed=len(rows), totals=_totals(verdicts))


async def _decide(
    connection: AsyncConnection, client_provider: ClientProvider, rows: Sequence[ClaimedRow], now: datetime
) -> dict[int, Verdict]:
    verdicts: dict[int, Verdict] = {}
    events: list[tuple[ClaimedRow, VendorEvent]] = []
    for row in rows:
        try:
            events.append((row, VendorEvent.model_validate(row.event)))
        except ValidationError as error:
            verdicts[row.id] = rules.after_fault(row, _misfit(error), now)
    to_tell: list[tuple[ClaimedRow, VendorEvent, Match]] = []
    matches = await _matches(connection, events)
    for row, event in events:
        match = matches.get(row.id)
        if event.type == rules.OTHER:
            verdicts[row.id] = rules.processed(row, match)
        elif match is None:
            verdicts[row.id] = rules.unclaimed(row, now)
        else:
            to_tell.append((row, event, match))
    if to_tell:
        verdicts |= await _tell_all(await client_provider(), to_tell, now)
    return verdicts


async def _matches(connection: AsyncConnection, events: Sequence[tuple[ClaimedRow, VendorEvent]]) -> dict[int, Match]:
    objects = {(row.source, event.object_id) for row, event in events if event.object_id}
    references = await inbox.references(connection, objects)
    wedding_ids = {event.wedding_id for _, event in events if event.wedding_id}
    wedding_ids |= {ref.wedding_id for held in references.values() for ref in held}
    weddings = await inbox.wedding_rows(connection, wedding_ids)
    found = ((row.id, rules.find_match(row.source, event, weddings, references)) for row, event in events)
    return {row_id: match for row_id, match in found if match is not None}


async def _tell_all(
    client: Client, to_tell: Sequence[tuple[ClaimedRow, VendorEvent, Match]], now: datetime
) -> dict[int, Verdict]:
    answers = await asyncio.gather(*(_tell(client, row, event, match, now) for row, event, match in to_tell))
    verdicts = {
        row.id: answer for (row, _, _), answer in zip(to_tell, answers, strict=True) if isinstance(answer, Verdict)
    }
    failed = [answer for answer in answers if isinstance(answer, RPCError)]
    if failed and not verdicts:
        raise failed[0]
    for (row, _, match), answer in zip(to_tell, answers, strict=True):
        if isinstance(answer, RPCError):
            verdicts[row.id] = Verdict(
                state="received",
                attempts=row.attempts,
                error=f"the wedding could not be told ({answer.status.name})",
                match=match,
                due_at=now + BUSY_WAIT,
            )
    return verdicts


async def _tell(client: Client, row: ClaimedRow, event: VendorEvent, match: Match, now: datetime) -> Verdict | RPCError:
    """Signal the wedding; the RPCError when it is Temporal that fails."""
    told = event.model_copy(update={"source": row.source, "wedding_id": match.wedding_id, "step_id": match.step_id})
    handle = client.get_workflow_handle(wedding_workflow_id(match.wedding_id))
    try:
        await handle.signal(VENDOR_EVENT_SIGNAL, told, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND and "namespace" not in error.message.lower():
            return rules.after_silence(row, match, now)
        if error.status in _EVENT_FAULTS:
            return rules.after_fault(row, f"Temporal refused the event: {error.status.name}", now, match)
        return error
    return rules.processed(row, match)


def _misfit(error: ValidationError) -> str:
    # Where and what kind, without the values: they may be a guest's.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"the stored event does not fit: {'.'.join(str(part) for part in first['loc'])}: {first['type']}"


def _totals(verdicts: dict[int, Verdict]) -> DrainTotals:
    states = Counter(verdict.state for verdict in verdicts.values())
    return DrainTotals(
        processed=states["processed"],
        unmatched=states["unmatched"],
        put_off=states["received"],
        dead=states["dead"],
    )


def _count(lane: Lane, rows: Sequence[ClaimedRow], verdicts: dict[int, Verdict], now: datetime) -> None:
    for row in rows:
        verdict = verdicts[row.id]
        metrics.PROCESSED.add(1, {"lane": lane, "state": verdict.state})
        if verdict.state == "processed":
            metrics.LAG.record(max(0.0, (now - row.received_at).total_seconds()), {"lane": lane})
        elif verdict.state == "dead":
            _log.error("webhook_dead", source=row.source, event_id=row.event_id, reason=verdict.error)
        elif verdict.state == "received":
            _log.warning("webhook_put_off", source=row.source, event_id=row.event_id, reason=verdict.error)
