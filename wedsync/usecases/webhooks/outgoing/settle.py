"""Record attempts: the deliveries, their endpoints' health, and what others must know of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.webhooks.outgoing.endpoint import Attempt, EndpointState, after_attempts, judge
from wedsync.kit import logs
from wedsync.store import deliveries as store
from wedsync.store.deliveries import Claimed, Settled
from wedsync.store.session import Database
from wedsync.usecases.webhooks.outgoing import metrics
from wedsync.usecases.webhooks.outgoing.announce import announce_endpoint, announce_failed

_log = logs.get(__name__)


class Outcome(NamedTuple):
    """A result of recording attempts."""

    states: dict[str, EndpointState]
    #: Endpoints with something to be done about later.
    to_retry: tuple[str, ...]


async def settle(db: Database, made: Sequence[tuple[Claimed, Attempt]], now: datetime) -> Outcome:
    """Record attempts in one transaction. Raises StoreUnavailable: they will then be made again, with the same ids."""
    async with db.system() as conn:
        before = await store.endpoints(conn, {attempt.subscription_id for _, attempt in made}, lock=True)
        settled, states = await _judge(conn, made, before, now)
        await store.settle(conn, settled, now)
        await store.write_endpoints(conn, list(states.values()), settled)
        for state in states.values():
            await announce_failed(conn, state, _given_up(state, made, settled), now)
            if state.status == "disabled" != before[state.id].status:
                await announce_endpoint(conn, "endpoint.disabled", state, now)
            if state.status == "recovering" != before[state.id].status:
                await store.hurry(conn, state.id, now)
    to_retry = {item.attempt.subscription_id for item in settled if item.verdict.status == "retrying"}
    to_retry |= {state.id for state in states.values() if state.status in ("failing", "recovering")}
    _count(settled, before, states)
    return Outcome(states, tuple(sorted(to_retry)))


async def _judge(
    conn: AsyncConnection,
    made: Sequence[tuple[Claimed, Attempt]],
    before: dict[str, EndpointState],
    now: datetime,
) -> tuple[list[Settled], dict[str, EndpointState]]:
    settled: list[Settled] = []
    states: dict[str, EndpointState] = {}
    for endpoint_id, state in before.items():
        own = sorted((pair for pair in made if pair[1].subscription_id == endpoint_id), key=lambda pair: pair[1].at)
        jitter = random.random()  # noqa: S311 - spreads load, protects nothing
        settled += [
            Settled(attempt, judge(claimed.open, attempt, state.policy, jitter=jitter, now=now))
            for claimed, attempt in own
        ]
        attempts = [attempt for _, attempt in own]
        urgent = None
        if any(attempt.error for attempt in attempts):
            urgent = (await store.backlog(conn, endpoint_id, now)).useful_until
        states[endpoint_id] = after_attempts(state, attempts, jitter=jitter, now=now, useful_until=urgent)
    return settled, states


def _given_up(
    state: EndpointState, made: Sequence[tuple[Claimed, Attempt]], settled: Sequence[Settled]
) -> list[tuple[Claimed, Attempt]]:
    failed = {item.attempt.delivery_id for item in settled if item.verdict.status == "failed"}
    return [pair for pair in made if pair[0].id in failed and pair[0].subscription_id == state.id]


def _count(settled: Sequence[Settled], before: dict[str, EndpointState], after: dict[str, EndpointState]) -> None:
    for item in settled:
        metrics.ATTEMPTS.add(1, {"status": item.verdict.status})
        metrics.DURATION.record(item.attempt.duration_ms / 1000, {"status": item.verdict.status})
    for state in after.values():
        if state.status != before[state.id].status:
            metrics.ENDPOINTS.add(1, {"status": state.status})
            _log.warning("webhook_endpoint", endpoint_id=state.id, status=state.status, reason=state.reason)
