"""Claim, settle and find deliveries, and keep their endpoints' health. All within `system()`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Event, Payload
from wedsync.domain.outbox.subscription import DeliveryAttempt, OpenDelivery, SubscriptionState, Verdict
from wedsync.domain.value import Value


class Claimed(Value):
    """A claimed delivery, with everything that its sending needs."""

    id: str
    subscription_id: str
    tries: int
    url: str
    sealed_secrets: bytes
    payload: Payload
    api_version: str
    rate_per_second: float | None
    pace_per_second: float | None
    policy: DeliveryRetryPolicy
    event: Event
    useful_until: datetime | None
    due_at: datetime | None = None

    @property
    def open(self) -> OpenDelivery:
        """Return the delivery in the form that the rules read."""
        return OpenDelivery(id=self.id, tries=self.tries, useful_until=self.useful_until, due_at=self.due_at)


class JudgedAttempt(NamedTuple):
    """An attempt with its verdict."""

    attempt: DeliveryAttempt
    verdict: Verdict


class Backlog(NamedTuple):
    """Deliveries that wait for an endpoint."""

    waiting: int
    #: When the first of those that were tried is due again; None: none was.
    retry_at: datetime | None
    #: Of the most urgent one.
    useful_until: datetime | None


# In order: a delivery waits while an earlier one of its wedding is open.
_IN_ORDER = """(NOT s.ordered OR d.wedding_id IS NULL OR NOT EXISTS (
  SELECT FROM deliveries e WHERE e.subscription_id = d.subscription_id AND e.wedding_id = d.wedding_id
    AND e.status IN ('pending', 'retrying') AND e.number < d.number))"""
_FREE = "(d.leased_until IS NULL OR d.leased_until <= :now)"
_TAKEN = """
  UPDATE deliveries d SET leased_until = :lease FROM picked p WHERE d.id = p.id
  RETURNING d.id, d.number, d.subscription_id, d.event_id, d.tries, d.due_at"""
_SHOWN = """t.id, t.subscription_id, t.tries, t.due_at, s.url, s.secrets, s.payload, s.api_version, s.rate_per_second,
  s.pace_per_second, s.max_attempts, s.backoff, e.id AS event_id, e.type, e.data, e.occurred_at, e.organization_id,
  e.wedding_id, e.sequence, e.useful_until"""
_JOINED = """JOIN webhook_subscriptions s ON s.id = t.subscription_id JOIN outgoing_events e ON e.id = t.event_id"""

# A loose index scan finds the endpoints with pending rows; the cursor goes around them, so that none waits for the
# others' backlogs.
_CLAIM_PENDING = text(f"""
WITH RECURSIVE waiting(id, place) AS (
  (SELECT d.subscription_id, 1 FROM deliveries d WHERE d.status = 'pending' AND d.subscription_id > :after
   ORDER BY d.subscription_id LIMIT 1)
  UNION ALL
  SELECT (SELECT d.subscription_id FROM deliveries d WHERE d.status = 'pending' AND d.subscription_id > w.id
          ORDER BY d.subscription_id LIMIT 1), w.place + 1
  FROM waiting w WHERE w.id IS NOT NULL AND w.place < :most
), visited AS MATERIALIZED (SELECT id FROM waiting WHERE id IS NOT NULL ORDER BY id), picked AS (
  SELECT p.id FROM visited v JOIN webhook_subscriptions s ON s.id = v.id AND s.status = 'active'
  CROSS JOIN LATERAL (
    SELECT d.id FROM deliveries d
    WHERE d.subscription_id = s.id AND d.status = 'pending' AND d.due_at <= :now AND {_FREE} AND {_IN_ORDER}
    ORDER BY d.due_at, d.number LIMIT coalesce(CAST(CAST(:room AS jsonb) ->> s.id AS integer), :each)
    FOR UPDATE OF d SKIP LOCKED) p
  LIMIT :most_rows
), taken AS ({_TAKEN})
SELECT {_SHOWN}, (SELECT max(id) FROM visited) AS last_visited, (SELECT count(*) FROM visited) AS visited
FROM (SELECT 1) one LEFT JOIN (taken t {_JOINED}) ON true ORDER BY t.number
""")  # noqa: S608 - texts of our own

_CLAIM_OPEN = """
WITH picked AS (
  SELECT d.id FROM deliveries d JOIN webhook_subscriptions s ON s.id = d.subscription_id
  WHERE d.subscription_id = :endpoint_id AND {condition} AND {free} AND {in_order}
  ORDER BY {order} LIMIT :most_rows FOR UPDATE OF d SKIP LOCKED
), taken AS ({taken})
SELECT {shown} FROM taken t {joined} ORDER BY t.number
"""


def _claim_open(condition: str, order: str) -> Any:
    parts = {"free": _FREE, "in_order": _IN_ORDER, "taken": _TAKEN, "shown": _SHOWN, "joined": _JOINED}
    return text(_CLAIM_OPEN.format(condition=condition, order=order, **parts))


#: The one that was sent least: an event that alone is refused must not keep its endpoint from being found well.
_CLAIM_PROBE = _claim_open("d.status IN ('pending', 'retrying')", "d.attempts, d.number")
_CLAIM_PARKED = _claim_open("d.status IN ('pending', 'retrying') AND d.due_at <= :now", "d.number")
_CLAIM_RETRYING = _claim_open("d.status = 'retrying' AND d.due_at <= :now", "d.number")


def _claimed(row: Any) -> Claimed:
    event = Event(
        id=row.event_id,
        type=row.type,
        data=row.data,
        occurred_at=row.occurred_at,
        organization_id=row.organization_id,
        wedding_id=row.wedding_id,
        sequence=row.sequence,
    )
    return Claimed(
        id=row.id,
        subscription_id=row.subscription_id,
        tries=row.tries,
        url=row.url,
        sealed_secrets=row.secrets,
        payload=row.payload,
        api_version=row.api_version,
        rate_per_second=row.rate_per_second,
        pace_per_second=row.pace_per_second,
        policy=DeliveryRetryPolicy(max_attempts=row.max_attempts, backoff=row.backoff),
        event=event,
        useful_until=row.useful_until,
        due_at=row.due_at,
    )


async def claim_pending(
    conn: AsyncConnection,
    *,
    after: str,
    limit: int,
    each: int,
    room: Mapping[str, int],
    now: datetime,
    lease_until: datetime,
    most_subscriptions: int = 500,
) -> tuple[list[Claimed], str]:
    """Claim up to `limit` due first attempts of active endpoints with ids above `after`, and return where to go on.

    An endpoint gives at most its `room`, if it has one, else `each`. The cursor is empty after the last endpoint.
    """
    rows = (
        await conn.execute(
            _CLAIM_PENDING,
            {
                "after": after,
                "most": most_subscriptions,
                "most_rows": limit,
                "each": each,
                "room": json.dumps(dict(room)),
                "now": now,
                "lease": lease_until,
            },
        )
    ).all()
    found = [_claimed(row) for row in rows if row.id is not None]
    if len(found) == limit:
        return found, max(item.subscription_id for item in found)
    return found, rows[0].last_visited if rows[0].visited == most_subscriptions else ""


async def claim_probe(
    conn: AsyncConnection, subscription_id: str, now: datetime, lease_until: datetime
) -> list[Claimed]:
    """Claim the one delivery that finds out whether a failing endpoint is well again, due or not."""
    return await _claim(conn, _CLAIM_PROBE, subscription_id, 1, now, lease_until)


async def claim_parked(
    conn: AsyncConnection, subscription_id: str, limit: int, now: datetime, lease_until: datetime
) -> list[Claimed]:
    """Claim up to `limit` due deliveries of an endpoint, the oldest first, tried before or not."""
    return await _claim(conn, _CLAIM_PARKED, subscription_id, limit, now, lease_until)


async def claim_retrying(
    conn: AsyncConnection, subscription_id: str, limit: int, now: datetime, lease_until: datetime
) -> list[Claimed]:
    """Claim up to `limit` deliveries of an endpoint that were tried and are due again, the oldest first."""
    return await _claim(conn, _CLAIM_RETRYING, subscription_id, limit, now, lease_until)


async def _claim(
    conn: AsyncConnection, statement: Any, subscription_id: str, limit: int, now: datetime, lease_until: datetime
) -> list[Claimed]:
    values = {"endpoint_id": subscription_id, "most_rows": limit, "now": now, "lease": lease_until}
    return [_claimed(row) for row in await conn.execute(statement, values)]


_PUT_OFF = text("""
UPDATE deliveries d SET leased_until = NULL, due_at = r.due_at
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, due_at timestamptz)
WHERE d.id = r.id AND d.status IN ('pending', 'retrying')
""")


async def put_off(conn: AsyncConnection, due: Mapping[str, datetime]) -> None:
    """Give claimed deliveries back, due later: their endpoints' rate leaves no room now."""
    if due:
        rows = [{"id": name, "due_at": at.isoformat()} for name, at in sorted(due.items())]
        await conn.execute(_PUT_OFF, {"rows": json.dumps(rows)})


_RECORD_ATTEMPTS = text("""
WITH given AS (
  SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, status text, tries int, due_at timestamptz,
    at timestamptz, duration_ms int, answer int, response text, error text)
), changed AS (
  UPDATE deliveries d SET attempts = d.attempts + 1, tries = g.tries, leased_until = NULL,
    status = CASE WHEN d.status IN ('pending', 'retrying') THEN g.status ELSE d.status END,
    due_at = coalesce(g.due_at, d.due_at), last_status = g.answer, last_error = g.error,
    delivered_at = CASE WHEN g.status = 'delivered' THEN coalesce(d.delivered_at, :now) ELSE d.delivered_at END
  FROM given g WHERE d.id = g.id
  RETURNING d.id, d.organization_id, d.attempts
)
INSERT INTO delivery_attempts (organization_id, delivery_id, number, at, duration_ms, status, response, error)
SELECT c.organization_id, c.id, c.attempts, g.at, g.duration_ms, g.answer, g.response, g.error
FROM changed c JOIN given g ON g.id = c.id
""")


async def record_attempts(conn: AsyncConnection, judged: Sequence[JudgedAttempt], now: datetime) -> None:
    """Record attempts and the outcomes of their deliveries."""
    rows = [
        {
            "id": item.attempt.delivery_id,
            "status": item.verdict.status,
            "tries": item.verdict.tries,
            "due_at": item.verdict.due_at.isoformat() if item.verdict.due_at else None,
            "at": item.attempt.at.isoformat(),
            "duration_ms": item.attempt.duration_ms,
            "answer": item.attempt.status,
            "response": item.attempt.response,
            "error": item.attempt.error,
        }
        for item in sorted(judged, key=lambda item: item.attempt.delivery_id)
    ]
    await conn.execute(_RECORD_ATTEMPTS, {"rows": json.dumps(rows), "now": now})


_STATE = """SELECT id, organization_id, url, status, reason, max_attempts, backoff, consecutive_failures, round,
  failing_since, next_probe_at, warned, pace_per_second FROM webhook_subscriptions WHERE id = ANY (:ids) ORDER BY id"""
_READ_STATES = text(_STATE)
_LOCK_STATES = text(f"{_STATE} FOR NO KEY UPDATE")
_WRITE_STATES = text("""
UPDATE webhook_subscriptions s SET status = r.status, reason = r.reason, consecutive_failures = r.consecutive_failures,
  round = r.round, failing_since = r.failing_since, next_probe_at = r.next_probe_at, warned = r.warned,
  pace_per_second = r.pace_per_second, success_count = s.success_count + r.successes,
  failure_count = s.failure_count + r.failures, last_delivery_at = coalesce(r.last_delivery_at, s.last_delivery_at)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id text, status text, reason text, consecutive_failures int,
  round int, failing_since timestamptz, next_probe_at timestamptz, warned int, pace_per_second float,
  successes bigint, failures bigint, last_delivery_at timestamptz)
WHERE s.id = r.id
""")


def _state(row: Any) -> SubscriptionState:
    names = SubscriptionState.model_fields.keys() - {"policy"}
    policy = DeliveryRetryPolicy(max_attempts=row.max_attempts, backoff=row.backoff)
    return SubscriptionState(policy=policy, **{name: getattr(row, name) for name in names})


async def subscriptions(
    conn: AsyncConnection, ids: Collection[str], *, lock: bool = False
) -> dict[str, SubscriptionState]:
    """Read the health of endpoints by id; with `lock` nobody else changes them until this transaction ends."""
    found = await conn.execute(_LOCK_STATES if lock else _READ_STATES, {"ids": sorted(ids)})
    return {row.id: _state(row) for row in found}


async def write_subscriptions(
    conn: AsyncConnection, states: Sequence[SubscriptionState], judged: Sequence[JudgedAttempt]
) -> None:
    """Write endpoints' health and count their attempts."""
    rows = []
    for state in states:
        own = [item for item in judged if item.attempt.subscription_id == state.id]
        successes = sum(item.verdict.status == "delivered" for item in own)
        row = state.model_dump(mode="json", exclude={"policy", "organization_id", "url"})
        last = max((item.attempt.at for item in own), default=None)
        row |= {"successes": successes, "failures": len(own) - successes}
        rows.append({**row, "last_delivery_at": last.isoformat() if last else None})
    await conn.execute(_WRITE_STATES, {"rows": json.dumps(rows)})


_BACKLOG = text("""
SELECT count(*) AS waiting, min(d.due_at) FILTER (WHERE d.status = 'retrying') AS retry_at,
  min(e.useful_until) FILTER (WHERE e.useful_until > :now) AS useful_until
FROM deliveries d JOIN outgoing_events e ON e.id = d.event_id
WHERE d.subscription_id = :endpoint_id AND d.status IN ('pending', 'retrying')
""")
_HURRY = text("UPDATE deliveries SET due_at = :now WHERE subscription_id = :endpoint_id AND status = 'retrying'")
_MISSED = text("""
SELECT EXISTS (SELECT FROM deliveries d JOIN webhook_subscriptions s ON s.id = d.subscription_id AND s.status = 'active'
  WHERE d.status = 'pending' AND d.due_at < :before AND (d.leased_until IS NULL OR d.leased_until < :before))
""")
_FORGOTTEN = text("""
SELECT s.id FROM webhook_subscriptions s
WHERE (s.status = 'failing' AND coalesce(s.next_probe_at, :before) <= :before)
   OR (s.status IN ('active', 'recovering') AND EXISTS (
         SELECT FROM deliveries d WHERE d.subscription_id = s.id AND d.status = 'retrying' AND d.due_at < :before
           AND (d.leased_until IS NULL OR d.leased_until < :before)))
   OR (s.status = 'recovering' AND s.updated_at < :before)
LIMIT :limit
""")


async def backlog(conn: AsyncConnection, subscription_id: str, now: datetime) -> Backlog:
    """Count what waits for an endpoint."""
    row = (await conn.execute(_BACKLOG, {"endpoint_id": subscription_id, "now": now})).one()
    return Backlog(waiting=row.waiting, retry_at=row.retry_at, useful_until=row.useful_until)


async def hurry(conn: AsyncConnection, subscription_id: str, now: datetime) -> None:
    """Make every delivery due that waits to be tried again: its endpoint answers."""
    await conn.execute(_HURRY, {"endpoint_id": subscription_id, "now": now})


async def is_anything_missed(conn: AsyncConnection, before: datetime) -> bool:
    """Tell whether first attempts have been due since before that moment, claimed by nobody."""
    return bool((await conn.execute(_MISSED, {"before": before})).scalar_one())


async def forgotten_subscriptions(conn: AsyncConnection, before: datetime, limit: int) -> list[str]:
    """Find endpoints that were due for a check before that moment."""
    return [row.id for row in await conn.execute(_FORGOTTEN, {"before": before, "limit": limit})]
