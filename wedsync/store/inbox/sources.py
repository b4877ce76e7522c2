"""Registered webhook sources, their secrets and their refusal counts, in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.inbox.tables import webhook_counts, webhook_secrets, webhook_sources

_DUE = sql("""
SELECT s.id FROM webhook_sources s LEFT JOIN webhook_checks c ON c.source = s.id
WHERE s.state = 'active' AND s.account IS NOT NULL AND s.config->>'reconcile_every_minutes' IS NOT NULL
  AND (c.checked_at IS NULL OR c.checked_at <= CAST(:now AS timestamptz)
    - CAST(s.config->>'reconcile_every_minutes' AS integer) * interval '1 minute')
ORDER BY c.checked_at NULLS FIRST LIMIT :most
""")
_STATISTICS = sql("""
SELECT event->>'vendor_type' AS type, count(*) AS received,
       count(*) FILTER (WHERE state = 'processed') AS processed,
       count(*) FILTER (WHERE attempts > 0) AS retried,
       count(*) FILTER (WHERE state = 'retrying') AS retrying,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       count(*) FILTER (WHERE state = 'unmatched') AS unmatched
FROM inbox WHERE source = :source AND received_at >= :since AND received_at < :until
  AND (CAST(:type AS text) IS NULL OR event->>'vendor_type' = :type)
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 200
""")
_LATENCIES = sql("""
SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
         ORDER BY EXTRACT(EPOCH FROM processed_at - received_at))
FROM inbox WHERE source = :source AND received_at >= :since AND received_at < :until AND state = 'processed'
  AND (CAST(:type AS text) IS NULL OR event->>'vendor_type' = :type)
""")


async def add_source(conn: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Insert a source; False when its name or its path is taken."""
    statement = upsert(webhook_sources).values(dict(values)).on_conflict_do_nothing().returning(webhook_sources.c.id)
    return (await conn.execute(statement)).first() is not None


async def find_source(conn: AsyncConnection, source: str, *, lock: bool = False) -> Any | None:
    """Find the organization's source by its id or name; within `tenant()`."""
    query = select(webhook_sources).where(or_(webhook_sources.c.id == source, webhook_sources.c.name == source))
    return (await conn.execute(query.with_for_update() if lock else query)).first()


async def list_sources(conn: AsyncConnection) -> list[Any]:
    """List the organization's sources by name; within `tenant()`."""
    return list((await conn.execute(select(webhook_sources).order_by(webhook_sources.c.name).limit(500))).all())


async def change_source(conn: AsyncConnection, source_id: str, values: Mapping[str, Any]) -> None:
    """Overwrite the columns in `values`."""
    await conn.execute(update(webhook_sources).where(webhook_sources.c.id == source_id).values(dict(values)))


async def delete_source(conn: AsyncConnection, source_id: str) -> None:
    """Delete a source with its secrets; what it sent stays."""
    await conn.execute(delete(webhook_sources).where(webhook_sources.c.id == source_id))


async def add_secret(conn: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Insert a sealed secret."""
    await conn.execute(insert(webhook_secrets).values(dict(values)))


async def expire_secrets(conn: AsyncConnection, source_id: str, at: datetime) -> None:
    """Have the source's secrets end at that moment, unless they end before; delete those that are over."""
    table = webhook_secrets.c
    await conn.execute(
        update(webhook_secrets)
        .where(table.source_id == source_id)
        .values(expires_at=func.least(func.coalesce(table.expires_at, at), at))
    )


async def list_secrets(conn: AsyncConnection, source_id: str) -> list[Any]:
    """List the source's secrets, newest first."""
    table = webhook_secrets.c
    query = (
        select(webhook_secrets).where(table.source_id == source_id).order_by(table.created_at.desc(), table.id.desc())
    )
    return list((await conn.execute(query.limit(20))).all())


async def by_id(conn: AsyncConnection, source_id: str) -> Any | None:
    """Find the source with an id; within `system()`."""
    return (await conn.execute(select(webhook_sources).where(webhook_sources.c.id == source_id))).first()


async def due_to_reconcile(conn: AsyncConnection, now: datetime, most: int) -> list[str]:
    """Find sources whose vendors' lists are due for a comparison, those that wait longest first; within `system()`."""
    return list((await conn.execute(_DUE, {"now": now, "most": most})).scalars())


async def at_path(conn: AsyncConnection, path: str) -> Any | None:
    """Find the active or paused source at an address; within `system()`."""
    return (await conn.execute(select(webhook_sources).where(webhook_sources.c.path == path))).first()


async def by_connection(conn: AsyncConnection, name: str, connection: str) -> Any | None:
    """Find the source whose id is `connection`, when `name` is its name or path; within `system()`."""
    table = webhook_sources.c
    query = select(webhook_sources).where(table.id == connection, or_(table.name == name, table.path == name))
    return (await conn.execute(query)).first()


async def add_counts(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add to the counts by {organization_id, source, reason, hour, count}; within `system()`."""
    ordered = sorted((dict(row) for row in rows), key=lambda row: (row["source"], row["reason"], row["hour"]))
    statement = upsert(webhook_counts).values(ordered)
    await conn.execute(
        statement.on_conflict_do_update(
            index_elements=("source", "reason", "hour"),
            set_={"count": webhook_counts.c.count + statement.excluded.count},
        )
    )


async def counts(conn: AsyncConnection, source: str, since: datetime, until: datetime) -> dict[str, int]:
    """Return the source's counts by reason, over the hours that touch the range."""
    table = webhook_counts.c
    query = (
        select(table.reason, func.sum(table.count))
        .where(table.source == source, table.hour >= func.date_trunc("hour", since), table.hour < until)
        .group_by(table.reason)
    )
    return {reason: int(count) for reason, count in await conn.execute(query)}


async def statistics(
    conn: AsyncConnection, source: str, since: datetime, until: datetime, kind: str | None
) -> tuple[list[dict[str, Any]], list[float] | None]:
    """Return `(a row for each type, [p50, p95, p99] in seconds)` of the source's visible events in the range."""
    params = {"source": source, "since": since, "until": until, "type": kind}
    rows = [dict(row._mapping) for row in await conn.execute(_STATISTICS, params)]
    found = (await conn.execute(_LATENCIES, params)).scalar_one_or_none()
    return rows, None if found is None or found[0] is None else [float(one) for one in found]
