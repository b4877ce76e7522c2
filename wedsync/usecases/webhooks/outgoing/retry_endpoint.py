"""Wake for one endpoint with parked deliveries and do what is due: probe, send in order, resume, warn, or wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from wedsync.domain.webhooks.outgoing import endpoint as rules
from wedsync.domain.webhooks.outgoing.endpoint import EndpointState
from wedsync.domain.webhooks.outgoing.messages import EndpointLook
from wedsync.store import deliveries as store
from wedsync.store import outbox
from wedsync.store.deliveries import Claimed
from wedsync.store.session import Database, told
from wedsync.usecases.webhooks.outgoing.announce import announce_endpoint
from wedsync.usecases.webhooks.outgoing.pump import LEASE
from wedsync.usecases.webhooks.outgoing.send import PUT_OFF, Sender
from wedsync.usecases.webhooks.outgoing.settle import settle

#: Claimed at once, and sent one after another: what was parked keeps its order.
BATCH = 20
#: One wake goes on sending for so long.
LOOK_SECONDS = 8.0


class _Sent(NamedTuple):
    """A result of sending."""

    state: EndpointState
    #: Attempts made.
    attempts: int
    #: Nothing more could be tried for now.
    is_put_off: bool


async def look_at_endpoint(db: Database, sender: Sender, endpoint_id: str, now: datetime) -> EndpointLook:
    """Do what is due for an endpoint at `now`, and say when to wake again. Raises StoreUnavailable."""
    async with db.system() as conn:
        state = (await store.endpoints(conn, [endpoint_id])).get(endpoint_id)
    if state is None or state.status not in ("active", "failing", "recovering"):
        return EndpointLook(status=state.status if state else "deleted")
    if state.status == "failing":
        return await _look_at_failing(db, sender, state, now)
    ends_at, look = time.monotonic() + LOOK_SECONDS, None
    while look is None or (look.wait_seconds == 0 and time.monotonic() < ends_at):
        claimed = await _claim(db, state, now)
        if not claimed:
            rest = await _rest(db, state, now)
            return rest.model_copy(update={"sent": look.sent if look else 0})
        sent = await _send(db, sender, state, claimed, now)
        state = sent.state
        look = _next_look(sent, now, (look.sent if look else 0) + sent.attempts)
    return look


async def _claim(db: Database, state: EndpointState, now: datetime) -> list[Claimed]:
    claim = store.claim_parked if state.status == "recovering" else store.claim_retrying
    async with db.system() as conn:
        return await claim(conn, state.id, _batch(state), now, now + LEASE)


def _batch(state: EndpointState) -> int:
    """Return how many to send: after a 429 no more than a second's worth."""
    return BATCH if state.pace_per_second is None else max(1, min(BATCH, int(state.pace_per_second)))


async def _look_at_failing(db: Database, sender: Sender, state: EndpointState, now: datetime) -> EndpointLook:
    percent = rules.due_warning(state, now)
    if percent is not None:
        state = await _warn(db, state, percent, now)
    if state.next_probe_at is not None and now < state.next_probe_at:
        return EndpointLook(status=state.status, wait_seconds=_wait(state, now))
    async with db.system() as conn:
        claimed = await store.claim_probe(conn, state.id, now, now + LEASE)
    if not claimed:
        # Nothing waits for it, or the sender still has it in hand: the next event is the probe.
        return await _rest(db, state, now)
    sent = await _send(db, sender, state, claimed, now)
    return _next_look(sent, now, sent.attempts)


async def _warn(db: Database, state: EndpointState, percent: int, now: datetime) -> EndpointState:
    warned = state.model_copy(update={"warned": percent})
    async with db.system() as conn:
        current = (await store.endpoints(conn, [state.id], lock=True)).get(state.id)
        if current is None or current.status != "failing" or current.warned >= percent:
            return current or state
        await store.write_endpoints(conn, [warned], ())
        await announce_endpoint(conn, "endpoint.warning", warned, now, percent)
    return warned


async def _send(db: Database, sender: Sender, state: EndpointState, claimed: Sequence[Claimed], now: datetime) -> _Sent:
    began, made, is_put_off = time.monotonic(), [], False
    for item in claimed:
        attempt = await sender.send(item, now)
        if attempt is None:
            is_put_off = True
            break
        made.append((item, attempt))
        # The others would fare no better, or would take too long.
        if rules.outcome_of(attempt) not in ("ok", "refused") or time.monotonic() - began > LOOK_SECONDS:
            break
    left = claimed[len(made) :]
    if left:
        async with db.system() as conn:
            await store.put_off(conn, {item.id: item.due_at or now for item in left})
    outcome = await settle(db, made, now)
    return _Sent(outcome.states.get(state.id, state), len(made), is_put_off)


def _next_look(after: _Sent, now: datetime, sent: int) -> EndpointLook:
    state, wait = after.state, None
    if after.is_put_off:
        wait = PUT_OFF.total_seconds()
    elif state.status == "failing":
        wait = _wait(state, now)
    elif state.status in ("active", "recovering"):
        wait = 0.0 if state.pace_per_second is None else 1.0 / state.pace_per_second
    return EndpointLook(status=state.status, sent=sent, wait_seconds=wait)


async def _rest(db: Database, state: EndpointState, now: datetime) -> EndpointLook:
    """Make the endpoint active again, since nothing is due now, and wait for what is due later."""
    async with db.system() as conn:
        current = (await store.endpoints(conn, [state.id], lock=True)).get(state.id, state)
        if current.status in ("failing", "recovering") and current.status == state.status:
            was_failing = current.failing_since is not None
            current = rules.recovered(current)
            await store.write_endpoints(conn, [current], ())
            if was_failing:
                await announce_endpoint(conn, "endpoint.resumed", current, now)
            # New events waited behind the parked ones.
            told(conn, outbox.NEWS)
        waiting = await store.backlog(conn, state.id, now)
    wait = None if waiting.retry_at is None else max(1.0, (waiting.retry_at - now).total_seconds())
    return EndpointLook(status=current.status, wait_seconds=wait)


def _wait(state: EndpointState, now: datetime) -> float:
    times = [at for at in (state.next_probe_at, rules.next_warning_at(state)) if at is not None]
    return max(0.0, (min(times, default=now) - now).total_seconds())
