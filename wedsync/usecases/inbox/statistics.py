"""Count what a source sent over a time: received, refused by reason, processed, retried, dead, how quickly."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.inbox import sources as store
from wedsync.usecases.weddings.read_wedding import View

#: Counted by reason beside refusals.
_NO_REFUSALS = ("duplicate", "ignored")


class TypeCounts(View):
    """Counts of one of the source's own types, or of all."""

    type: str
    received: int = 0
    processed: int = 0
    #: Those whose own processing failed at least once.
    retried: int = 0
    #: Those that wait to be tried again.
    retrying: int = 0
    dead: int = 0
    unmatched: int = 0


class Latency(View):
    """Seconds from recorded to processed."""

    p50: float
    p95: float
    p99: float


class Statistics(View):
    """Counts of one source over `[since, until)`; refusals by whole hours."""

    source: str
    since: datetime
    until: datetime
    total: TypeCounts
    by_type: tuple[TypeCounts, ...]
    refused: dict[str, int]
    duplicates: int
    #: Of types that the source is not registered for.
    ignored: int
    latency_seconds: Latency | None


async def read_statistics(
    conn: AsyncConnection, key: str, name: str, since: datetime, until: datetime, kind: str | None
) -> Statistics:
    """Return the statistics of the source named `key` in the inbox, of what the session may see."""
    rows, found = await store.statistics(conn, key, since, until, kind)
    counted = await store.counts(conn, key, since, until)
    by_type = tuple(TypeCounts(**{**row, "type": row["type"] or "unknown"}) for row in rows)
    fields = [field for field in TypeCounts.model_fields if field != "type"]
    total = TypeCounts(type="*", **{field: sum(getattr(one, field) for one in by_type) for field in fields})
    return Statistics(
        source=name,
        since=since,
        until=until,
        total=total,
        by_type=by_type,
        refused={reason: count for reason, count in sorted(counted.items()) if reason not in _NO_REFUSALS},
        duplicates=counted.get("duplicate", 0),
        ignored=counted.get("ignored", 0),
        latency_seconds=None if found is None else Latency(p50=found[0], p95=found[1], p99=found[2]),
    )
