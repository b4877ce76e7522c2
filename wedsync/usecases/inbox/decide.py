"""Decide claimed events: find whose each is, whether a newer one was processed, and what their weddings answer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.inbox import triage as rules
from wedsync.domain.inbox.source import EventRetryPolicy, SourceConfig
from wedsync.domain.inbox.triage import ClaimedRow, Match, Verdict
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings.messages import VENDOR_EVENT_SIGNAL, wedding_workflow_id
from wedsync.kit.temporal import RPC_TIMEOUT, ClientProvider
from wedsync.store.inbox import queries as inbox
from wedsync.usecases.inbox.pushes import is_push

#: How long a row waits whose wedding could not be signalled while others could; it counts as no fault.
BUSY_WAIT = timedelta(seconds=5)
#: Temporal's answers that concern the event itself; every other one concerns Temporal.
_EVENT_FAULTS = (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION)
#: Temporal's answer (as INVALID_ARGUMENT) for a run that has its most signals; the next run takes more.
_SIGNALS_USED_UP = "limit for signal"
#: How long its events then wait.
FULL_WAIT = timedelta(minutes=1)
_OVERTAKEN = "a newer event of the same object was processed before"


@dataclass(frozen=True)
class _PendingSignal:
    """One event that may go to its wedding."""

    row: ClaimedRow
    event: VendorEvent
    match: Match
    policy: EventRetryPolicy | None

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the object and the topic of the event; a key of its own when it names no object or no time."""
        if self.event.object_id is None or self.event.occurred_at is None:
            return (self.row.source, "", str(self.row.id))
        return (self.row.source, self.event.object_id, rules.topic_of(self.event.type))


async def decide(
    connection: AsyncConnection, client_provider: ClientProvider, rows: Sequence[ClaimedRow], now: datetime
) -> dict[int, Verdict]:
    """Return the verdict on each row, by its id, and signal the weddings meanwhile.

    Raises RPCError when no wedding could be signalled, and what the client provider raises.
    """
    verdicts: dict[int, Verdict] = {}
    events: list[tuple[ClaimedRow, VendorEvent]] = []
    configs = await inbox.source_configs(connection, {row.source for row in rows if row.organization_id})
    for row in rows:
        try:
            events.append((row, VendorEvent.model_validate(row.event)))
        except ValidationError as error:
            verdicts[row.id] = rules.after_fault(row, _misfit(error), now, policy=policy_of(row, configs))
    matches = await _matches(connection, events, configs)
    to_signal: list[_PendingSignal] = []
    for row, event in events:
        match = matches.get(row.id)
        config = configs.get(row.source)
        is_uncorrelated = config is not None and not config.wedding_correlation
        if event.type == rules.OTHER or is_push(row.source, event.facts) or is_uncorrelated:
            verdicts[row.id] = rules.processed(row, match)
        elif match is None:
            verdicts[row.id] = rules.unclaimed(row, now)
        else:
            to_signal.append(_PendingSignal(row, event, match, policy_of(row, configs)))
    if to_signal:
        verdicts |= await _signal_newer(connection, client_provider, to_signal, now)
    return verdicts


def policy_of(row: ClaimedRow, configs: Mapping[str, SourceConfig]) -> EventRetryPolicy | None:
    """Return the retry policy of the row's registered source; None: the default one."""
    config = configs.get(row.source)
    return None if config is None else config.retry_policy


async def _matches(
    connection: AsyncConnection,
    events: Sequence[tuple[ClaimedRow, VendorEvent]],
    configs: Mapping[str, SourceConfig],
) -> dict[int, Match]:
    correlated = [
        pair for pair in events if pair[0].source not in configs or configs[pair[0].source].wedding_correlation
    ]
    references = await inbox.references(
        connection, {key for _, event in correlated for key in rules.object_keys(event)}
    )
    contacts = await inbox.contact_references(connection, {digest for row, _ in correlated for digest in row.contacts})
    wedding_ids = {event.wedding_id for _, event in correlated if event.wedding_id}
    wedding_ids |= {ref.wedding_id for held in references.values() for ref in held}
    wedding_ids |= {ref.wedding_id for ref in contacts}
    weddings = await inbox.wedding_rows(connection, wedding_ids)
    found = {
        row.id: rules.find_match(
            event,
            weddings,
            references,
            organization_id=row.organization_id,
            contacts=[ref for ref in contacts if ref.digest in row.contacts],
        )
        for row, event in correlated
    }
    return {row_id: match for row_id, match in found.items() if match is not None}


async def _signal_newer(
    connection: AsyncConnection, client_provider: ClientProvider, to_signal: Sequence[_PendingSignal], now: datetime
) -> dict[int, Verdict]:
    """Signal the events that no newer event of the same object has overtaken, the older of one batch first."""
    known = await inbox.newest_events(connection, {pending.key for pending in to_signal if pending.key[1]})
    verdicts: dict[int, Verdict] = {}
    lines: dict[tuple[str, str, str], list[_PendingSignal]] = defaultdict(list)
    for pending in to_signal:
        if rules.is_overtaken(pending.event, known.get(pending.key)):
            verdicts[pending.row.id] = rules.processed(pending.row, pending.match, _OVERTAKEN)
        else:
            lines[pending.key].append(pending)
    if lines:
        verdicts |= await _signal_all(await client_provider(), list(lines.values()), now)
    await inbox.note_newest_events(connection, _newest_of(lines, verdicts))
    return verdicts


def _newest_of(
    lines: Mapping[tuple[str, str, str], Sequence[_PendingSignal]], verdicts: Mapping[int, Verdict]
) -> list[dict[str, Any]]:
    noted = []
    for (source, object_id, topic), line in lines.items():
        done = [pending for pending in line if object_id and verdicts[pending.row.id].state == "processed"]
        if done:
            newest = max(done, key=lambda pending: pending.event.occurred_at or pending.row.received_at)
            noted.append(
                {
                    "organization_id": newest.match.organization_id,
                    "source": source,
                    "object_id": object_id,
                    "topic": topic,
                    "occurred_at": newest.event.occurred_at,
                    "event_id": newest.event.event_id,
                }
            )
    return noted


async def _signal_all(client: Client, lines: Sequence[Sequence[_PendingSignal]], now: datetime) -> dict[int, Verdict]:
    answered = await asyncio.gather(*(_signal_in_order(client, line, now) for line in lines))
    answers = [pair for line in answered for pair in line]
    verdicts = {pending.row.id: answer for pending, answer in answers if isinstance(answer, Verdict)}
    failed = [answer for _, answer in answers if isinstance(answer, RPCError)]
    if failed and not verdicts:
        raise failed[0]
    for pending, answer in answers:
        if isinstance(answer, RPCError):
            verdicts[pending.row.id] = _put_off(
                pending, f"the wedding could not be told ({answer.status.name})", now + BUSY_WAIT
            )
    return verdicts


def _put_off(pending: _PendingSignal, reason: str, until: datetime) -> Verdict:
    """Put the event off: it was not signalled, and that is not its fault."""
    return Verdict(state="received", attempts=pending.row.attempts, error=reason, match=pending.match, due_at=until)


async def _signal_in_order(
    client: Client, line: Sequence[_PendingSignal], now: datetime
) -> list[tuple[_PendingSignal, Verdict | RPCError]]:
    """Signal the events of one object in the order in which they occurred."""
    ordered = sorted(line, key=lambda pending: (pending.event.occurred_at or pending.row.received_at, pending.row.id))
    return [(pending, await _signal(client, pending, now)) for pending in ordered]


async def _signal(client: Client, pending: _PendingSignal, now: datetime) -> Verdict | RPCError:
    """Signal the wedding; return the RPCError when Temporal fails."""
    row, match = pending.row, pending.match
    event = pending.event.model_copy(update={"wedding_id": match.wedding_id, "step_id": match.step_id})
    handle = client.get_workflow_handle(wedding_workflow_id(match.wedding_id))
    try:
        await handle.signal(VENDOR_EVENT_SIGNAL, event, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND and "namespace" not in error.message.lower():
            return rules.after_silence(row, match, now, pending.policy)
        if _SIGNALS_USED_UP in error.message:
            return _put_off(pending, "the wedding's run has taken all the signals it may", now + FULL_WAIT)
        if error.status in _EVENT_FAULTS:
            return rules.after_fault(
                row, f"Temporal refused the event: {error.status.name}", now, match, pending.policy
            )
        return error
    return rules.processed(row, match)


def _misfit(error: ValidationError) -> str:
    # Where and what kind, without the values: they may be a guest's.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"the stored event does not fit: {'.'.join(str(part) for part in first['loc'])}: {first['type']}"
