"""Operators' notification channels, and the messages that wait for them, in Postgres."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.incidents.notice import Notice, rank
from wedsync.store.incidents.tables import notification_channels

_MATCHING = """
SELECT c.id AS channel_id, c.organization_id, c.dedup_seconds FROM notification_channels c
WHERE (c.events = '[]' OR c.events ? :kind) AND c.least_severity <= :rank
  AND (CAST(:organization_id AS text) IS NULL OR c.organization_id = :organization_id)
"""
_ANNOUNCE = text(f"""
WITH matching AS ({_MATCHING}), known AS (
  SELECT * FROM (
    SELECT DISTINCT ON (m.channel_id) n.id, m.channel_id, n.dedup_key FROM matching m
    JOIN notifications n ON n.channel_id = m.channel_id AND n.dedup_key = ANY(CAST(:rivals AS text[]))
      AND n.created_at > CAST(:now AS timestamptz) - m.dedup_seconds * interval '1 second'
    ORDER BY m.channel_id, n.created_at DESC
  ) newest WHERE dedup_key = :key
), again AS (
  UPDATE notifications n SET repeats = repeats + 1 FROM known k WHERE n.id = k.id
)
INSERT INTO notifications (id, organization_id, channel_id, dedup_key, notice, created_at, due_at)
SELECT gen_random_uuid()::text, m.organization_id, m.channel_id, :key, CAST(:notice AS jsonb), :now, :now
FROM matching m WHERE m.channel_id NOT IN (SELECT channel_id FROM known)
""")  # noqa: S608 - a text of our own
_ADD = text("""
INSERT INTO notifications (id, organization_id, channel_id, dedup_key, notice, created_at, due_at)
SELECT :id, organization_id, id, :key, CAST(:notice AS jsonb), :now, :now FROM notification_channels WHERE id = :channel
""")
# Whoever claims a message moves its time on: one of several senders sends it, and another if that one is gone.
_CLAIM = text("""
UPDATE notifications n SET attempts = n.attempts + 1,
  due_at = CAST(:now AS timestamptz) + :lease_seconds * interval '1 second'
FROM (SELECT id FROM notifications WHERE ended_at IS NULL AND due_at <= CAST(:now AS timestamptz)
  ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED) d
JOIN notifications o ON o.id = d.id JOIN notification_channels c ON c.id = o.channel_id
WHERE n.id = d.id
RETURNING n.id, n.organization_id, n.channel_id, n.notice, n.attempts, n.created_at, c.kind, c.target, c.secret
""")
_COMPLETE = text("""
UPDATE notifications SET error = :error, ended_at = CASE WHEN CAST(:due_at AS timestamptz) IS NULL
    THEN CAST(:now AS timestamptz) END, due_at = coalesce(CAST(:due_at AS timestamptz), due_at)
WHERE id = :id AND attempts = :attempts AND ended_at IS NULL
""")
_FORGET = text("DELETE FROM notifications WHERE ended_at < :before")
_LIST = text("""
SELECT c.*, n.waiting, n.told_at, n.error FROM notification_channels c
LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE ended_at IS NULL) AS waiting,
    max(ended_at) FILTER (WHERE error IS NULL) AS told_at, (array_agg(error ORDER BY created_at DESC))[1] AS error
  FROM notifications WHERE channel_id = c.id) n ON true
WHERE CAST(:id AS text) IS NULL OR c.id = :id ORDER BY c.id
""")


async def announce(conn: AsyncConnection, notice: Notice, organization_id: str | None = None) -> int:
    """Notify every channel that wants the notice, of one organization if given, unless it just got the same one.

    Returns how many get it. Inside `system()`.
    """
    values = {
        "kind": notice.kind,
        "rank": rank(notice.severity),
        "key": notice.dedup_key,
        "rivals": list(notice.rivals),
        "notice": json.dumps(notice.model_dump(mode="json")),
        "now": notice.occurred_at,
        "organization_id": organization_id,
    }
    return (await conn.execute(_ANNOUNCE, values)).rowcount


async def announce_to(conn: AsyncConnection, channel_id: str, notification_id: str, notice: Notice) -> None:
    """Notify one channel, whatever it wants. Inside `system()`."""
    body = json.dumps(notice.model_dump(mode="json"))
    values = {"id": notification_id, "channel": channel_id, "key": notice.dedup_key, "notice": body}
    await conn.execute(_ADD, {**values, "now": notice.occurred_at})


async def claim(conn: AsyncConnection, now: datetime, lease: timedelta, most: int) -> Sequence[Any]:
    """Claim due messages for `lease`, with their channels. Inside `system()`."""
    values = {"now": now, "lease_seconds": lease.total_seconds(), "most": most}
    return (await conn.execute(_CLAIM, values)).all()


async def complete(
    conn: AsyncConnection, claimed: Any, now: datetime, error: str | None, due_at: datetime | None
) -> None:
    """Write a claim's outcome: sent, to be tried again at `due_at`, or given up. Inside `system()`."""
    values = {"id": claimed.id, "attempts": claimed.attempts, "error": error, "due_at": due_at, "now": now}
    await conn.execute(_COMPLETE, values)


async def forget(conn: AsyncConnection, before: datetime) -> int:
    """Delete what was sent or given up before; returns how many. Inside `system()`."""
    return (await conn.execute(_FORGET, {"before": before})).rowcount


async def add(conn: AsyncConnection, channel: Mapping[str, Any]) -> None:
    """Make a channel."""
    await conn.execute(insert(notification_channels).values(dict(channel)))


async def count(conn: AsyncConnection) -> int:
    """Count the organization's channels. Inside `tenant()`."""
    return int((await conn.execute(select(func.count()).select_from(notification_channels))).scalar_one())


async def read(conn: AsyncConnection, channel_id: str | None = None) -> Sequence[Any]:
    """Read the organization's channels, or the one, with their state. Inside `tenant()`."""
    return (await conn.execute(_LIST, {"id": channel_id})).all()


async def remove(conn: AsyncConnection, channel_id: str) -> bool:
    """Delete a channel with the messages that wait for it; False: there is none. Inside `tenant()`."""
    table = notification_channels
    return bool((await conn.execute(delete(table).where(table.c.id == channel_id))).rowcount)
