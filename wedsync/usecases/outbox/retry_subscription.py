"""Wake for one endpoint with parked deliveries and do what is due: probe, send in order, resume, warn, or wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from wedsync.domain.outbox import subscription as rules
from wedsync.domain.outbox.messages import SubscriptionWakeResult
from wedsync.domain.outbox.subscription import SubscriptionState
from wedsync.store.db.session import Database, published
from wedsync.store.outbox import deliveries as store
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox.deliveries import Claimed
from wedsync.usecases.outbox.announce import announce_subscription
from wedsync.usecases.outbox.delivery_sender import LEASE
from wedsync.usecases.outbox.record_outcome import record_attempts
from wedsync.usecases.outbox.send import PUT_OFF, AttemptSender

#: Claimed at once, and sent one after another: what was parked keeps its order.
BATCH = 20
#: One wake goes on sending for so long.
WAKE_SECONDS = 8.0


class _Sent(NamedTuple):
    """A result of sending."""

    state: SubscriptionState
    #: Attempts made.
    attempts: int
    #: Nothing more could be tried for now.
    is_put_off: bool


async def wake_subscription(
    db: Database, sender: AttemptSender, subscription_id: str, now: datetime
) -> SubscriptionWakeResult:
    """Do what is due for an endpoint at `now`, and say when to wake again. Raises StoreUnavailable."""
    async with db.system() as conn:
        state = (await store.subscriptions(conn, [subscription_id])).get(subscription_id)
    if state is None or state.status not in ("active", "failing", "recovering"):
        return SubscriptionWakeResult(status=state.status if state else "deleted")
    if state.status == "failing":
        return await _probe_failing(db, sender, state, now)
    ends_at, result = time.monotonic() + WAKE_SECONDS, None
    while result is None or (result.wait_seconds == 0 and time.monotonic() < ends_at):
        claimed = await _claim(db, state, now)
        if not claimed:
            rest = await _rest(db, state, now)
            return rest.model_copy(update={"sent": result.sent if result else 0})
        sent = await _send(db, sender, state, claimed, now)
        state = sent.state
        result = _wake_result(sent, now, (result.sent if result else 0) + sent.attempts)
    return result


async def _claim(db: Database, state: SubscriptionState, now: datetime) -> list[Claimed]:
    claim = store.claim_parked if state.status == "recovering" else store.claim_retrying
    async with db.system() as conn:
        return await claim(conn, state.id, _batch(state), now, now + LEASE)


def _batch(state: SubscriptionState) -> int:
    """Return how many to send: after a 429 no more than a second's worth."""
    return BATCH if state.pace_per_second is None else max(1, min(BATCH, int(state.pace_per_second)))


async def _probe_failing(
    db: Database, sender: AttemptSender, state: SubscriptionState, now: datetime
) -> SubscriptionWakeResult:
    percent = rules.due_warning(state, now)
    if percent is not None:
        state = await _warn(db, state, percent, now)
    if state.next_probe_at is not None and now < state.next_probe_at:
        return SubscriptionWakeResult(status=state.status, wait_seconds=_wait(state, now))
    async with db.system() as conn:
        claimed = await store.claim_probe(conn, state.id, now, now + LEASE)
    if not claimed:
        # Nothing waits for it, or the sender still has it in hand: the next event is the probe.
        return await _rest(db, state, now)
    sent = await _send(db, sender, state, claimed, now)
    return _wake_result(sent, now, sent.attempts)


async def _warn(db: Database, state: SubscriptionState, percent: int, now: datetime) -> SubscriptionState:
    warned = state.model_copy(update={"warned": percent})
    async with db.system() as conn:
        current = (await store.subscriptions(conn, [state.id], lock=True)).get(state.id)
        if current is None or current.status != "failing" or current.warned >= percent:
            return current or state
        await store.write_subscriptions(conn, [warned], ())
        await announce_subscription(conn, "endpoint.warning", warned, now, percent)
    return warned


async def _send(
    db: Database, sender: AttemptSender, state: SubscriptionState, claimed: Sequence[Claimed], now: datetime
) -> _Sent:
    began, made, is_put_off = time.monotonic(), [], False
    for item in claimed:
        attempt = await sender.send(item, now)
        if attempt is None:
            is_put_off = True
            break
        made.append((item, attempt))
        # The others would fare no better, or would take too long.
        if rules.outcome_of(attempt) not in ("ok", "refused") or time.monotonic() - began > WAKE_SECONDS:
            break
    left = claimed[len(made) :]
    if left:
        async with db.system() as conn:
            await store.put_off(conn, {item.id: item.due_at or now for item in left})
    outcome = await record_attempts(db, made, now)
    return _Sent(outcome.states.get(state.id, state), len(made), is_put_off)


def _wake_result(after: _Sent, now: datetime, sent: int) -> SubscriptionWakeResult:
    state, wait = after.state, None
    if after.is_put_off:
        wait = PUT_OFF.total_seconds()
    elif state.status == "failing":
        wait = _wait(state, now)
    elif state.status in ("active", "recovering"):
        wait = 0.0 if state.pace_per_second is None else 1.0 / state.pace_per_second
    return SubscriptionWakeResult(status=state.status, sent=sent, wait_seconds=wait)


async def _rest(db: Database, state: SubscriptionState, now: datetime) -> SubscriptionWakeResult:
    """Make the endpoint active again, since nothing is due now, and wait for what is due later."""
    async with db.system() as conn:
        current = (await store.subscriptions(conn, [state.id], lock=True)).get(state.id, state)
        if current.status in ("failing", "recovering") and current.status == state.status:
            was_failing = current.failing_since is not None
            current = rules.recovered(current)
            await store.write_subscriptions(conn, [current], ())
            if was_failing:
                await announce_subscription(conn, "endpoint.resumed", current, now)
            # New events waited behind the parked ones.
            published(conn, outbox.NEWS)
        waiting = await store.backlog(conn, state.id, now)
    wait = None if waiting.retry_at is None else max(1.0, (waiting.retry_at - now).total_seconds())
    return SubscriptionWakeResult(status=current.status, wait_seconds=wait)


def _wait(state: SubscriptionState, now: datetime) -> float:
    times = [at for at in (state.next_probe_at, rules.next_warning_at(state)) if at is not None]
    return max(0.0, (min(times, default=now) - now).total_seconds())
