"""Record attempts: the deliveries, their endpoints' health, and what others must know of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.outbox.subscription import DeliveryAttempt, SubscriptionState, after_attempts, judge
from wedsync.kit import logs
from wedsync.store.db.session import Database
from wedsync.store.outbox import deliveries as store
from wedsync.store.outbox.deliveries import Claimed, JudgedAttempt
from wedsync.usecases.outbox import metrics
from wedsync.usecases.outbox.announce import announce_failed, announce_subscription

_log = logs.get(__name__)


class RecordedAttempts(NamedTuple):
    """A result of recording attempts."""

    states: dict[str, SubscriptionState]
    #: Endpoints with something to be done about later.
    to_retry: tuple[str, ...]


async def record_attempts(
    db: Database, made: Sequence[tuple[Claimed, DeliveryAttempt]], now: datetime
) -> RecordedAttempts:
    """Record attempts in one transaction. Raises StoreUnavailable: they will then be made again, with the same ids."""
    async with db.system() as conn:
        before = await store.subscriptions(conn, {attempt.subscription_id for _, attempt in made}, lock=True)
        judged, states = await _judge(conn, made, before, now)
        await store.record_attempts(conn, judged, now)
        await store.write_subscriptions(conn, list(states.values()), judged)
        for state in states.values():
            await announce_failed(conn, state, _given_up(state, made, judged), now)
            if state.status == "disabled" != before[state.id].status:
                await announce_subscription(conn, "endpoint.disabled", state, now)
            if state.status == "recovering" != before[state.id].status:
                await store.hurry(conn, state.id, now)
    to_retry = {item.attempt.subscription_id for item in judged if item.verdict.status == "retrying"}
    to_retry |= {state.id for state in states.values() if state.status in ("failing", "recovering")}
    _count(judged, before, states)
    return RecordedAttempts(states, tuple(sorted(to_retry)))


async def _judge(
    conn: AsyncConnection,
    made: Sequence[tuple[Claimed, DeliveryAttempt]],
    before: dict[str, SubscriptionState],
    now: datetime,
) -> tuple[list[JudgedAttempt], dict[str, SubscriptionState]]:
    judged: list[JudgedAttempt] = []
    states: dict[str, SubscriptionState] = {}
    for subscription_id, state in before.items():
        own = sorted((pair for pair in made if pair[1].subscription_id == subscription_id), key=lambda pair: pair[1].at)
        jitter = random.random()  # noqa: S311 - spreads load, protects nothing
        judged += [
            JudgedAttempt(attempt, judge(claimed.open, attempt, state.policy, jitter=jitter, now=now))
            for claimed, attempt in own
        ]
        attempts = [attempt for _, attempt in own]
        urgent = None
        if any(attempt.error for attempt in attempts):
            urgent = (await store.backlog(conn, subscription_id, now)).useful_until
        states[subscription_id] = after_attempts(state, attempts, jitter=jitter, now=now, useful_until=urgent)
    return judged, states


def _given_up(
    state: SubscriptionState, made: Sequence[tuple[Claimed, DeliveryAttempt]], judged: Sequence[JudgedAttempt]
) -> list[tuple[Claimed, DeliveryAttempt]]:
    failed = {item.attempt.delivery_id for item in judged if item.verdict.status == "failed"}
    return [pair for pair in made if pair[0].id in failed and pair[0].subscription_id == state.id]


def _count(
    judged: Sequence[JudgedAttempt], before: dict[str, SubscriptionState], after: dict[str, SubscriptionState]
) -> None:
    for item in judged:
        metrics.ATTEMPTS.add(1, {"status": item.verdict.status})
        metrics.DURATION.record(item.attempt.duration_ms / 1000, {"status": item.verdict.status})
    for state in after.values():
        if state.status != before[state.id].status:
            metrics.SUBSCRIPTIONS.add(1, {"status": state.status})
            _log.warning("webhook_endpoint", subscription_id=state.id, status=state.status, reason=state.reason)
