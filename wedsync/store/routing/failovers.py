"""Failover records, the weddings they affect, and records of vendor calls, in Postgres. Inside `system()`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: Ceremonies so near to now count when a quiet moment is sought.
_NEAR = timedelta(hours=12)

_BEGIN = text("""
INSERT INTO failovers (id, from_service, endpoint, epoch, to_service, reason, strategy, status, actor,
  estimated_downtime_ms, rollback_plan, started_at)
VALUES (:id, :from_service, :endpoint, :epoch, :to_service, :reason, :strategy, :status, :actor,
  :estimated_downtime_ms, CAST(:rollback_plan AS jsonb), :now)
ON CONFLICT (from_service, endpoint, epoch) WHERE status <> 'superseded' DO UPDATE SET status = excluded.status,
  actor = excluded.actor, reason = excluded.reason, to_service = excluded.to_service, started_at = excluded.started_at,
  estimated_downtime_ms = excluded.estimated_downtime_ms, rollback_plan = excluded.rollback_plan
  WHERE failovers.status = 'proposed' AND excluded.status <> 'proposed'
RETURNING id
""")
_SET = text("""
UPDATE failovers SET status = :status, fell_back = fell_back + :fell_back,
  restored_at = CASE WHEN :status = 'restored' THEN coalesce(restored_at, :now) ELSE restored_at END
WHERE from_service = :service AND endpoint = :endpoint AND epoch = :epoch AND status NOT IN ('restored', 'superseded')
""")
# The dependents of a service: weddings to come whose plan gives it a service.
_DEPENDENTS = """
SELECT w.id, w.organization_id, w.ceremony_at FROM weddings w
JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version
WHERE w.ended_at IS NULL AND w.ceremony_at > CAST(:after AS timestamptz)
  AND jsonb_path_exists(p.body, '$.services[*].vendor ? (@ == $vendor)',
    jsonb_build_object('vendor', CAST(:service AS text)))
"""
# The weddings that its outage hits: those to come with an unfinished step that is with it, whose first choice it is,
# or whose fallback it is while all that come before it are cut off.
#: The next ceremony or due step of the weddings that are hit.
_MOMENT = """
  next_moment_at = least((SELECT min(ceremony_at) FROM hit WHERE ceremony_at >= :now),
    (SELECT min(due_at) FROM hit WHERE status IN ('pending', 'scheduled') AND due_at >= :now))
"""
_HIT = """
WITH hit AS (
  SELECT w.id, w.organization_id, w.ceremony_at, s.status, s.due_at FROM weddings w
  JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version
  JOIN steps s ON s.wedding_id = w.id AND s.status NOT IN ('succeeded', 'failed', 'skipped')
  LEFT JOIN LATERAL (SELECT e AS said FROM jsonb_array_elements(p.body -> 'services') e
    WHERE e ->> 'id' = s.service) service ON true
  LEFT JOIN LATERAL (SELECT nullif(e -> 'fallbacks', 'null') AS fallbacks FROM jsonb_array_elements(p.body -> 'steps') e
    WHERE e ->> 'id' = s.step_id OR (e -> 'services' ? s.service AND s.step_id = (e ->> 'id') || '-' || s.service)
    LIMIT 1) own ON true
  CROSS JOIN LATERAL (SELECT jsonb_build_array(service.said -> 'vendor')
    || coalesce(own.fallbacks, service.said -> 'fallbacks', '[]') AS vendors) choice
  WHERE w.ended_at IS NULL AND w.ceremony_at > CAST(:after AS timestamptz)
    AND CASE WHEN s.vendor IS NOT NULL AND s.status NOT IN ('pending', 'scheduled') THEN s.vendor = :service
      ELSE EXISTS (
        SELECT FROM jsonb_array_elements_text(choice.vendors) WITH ORDINALITY v(name, place)
        WHERE v.name = :service AND NOT EXISTS (
          SELECT FROM jsonb_array_elements_text(choice.vendors) WITH ORDINALITY earlier(name, place)
          WHERE earlier.place < v.place AND NOT EXISTS (
            SELECT FROM circuits c WHERE c.service = earlier.name AND c.state = 'open'))) END
)"""
_AFFECT = text(
    f"""{_HIT}, affected AS (
  SELECT DISTINCT id, organization_id, ceremony_at FROM hit
), kept AS (
  INSERT INTO failover_weddings (failover_id, organization_id, wedding_id, ceremony_at)
  SELECT :id, organization_id, id, ceremony_at FROM affected ON CONFLICT DO NOTHING
)
UPDATE failovers SET affected_weddings = (SELECT count(*) FROM affected), {_MOMENT}
WHERE id = :id AND affected_weddings IS NULL
"""  # noqa: S608 - texts of our own
)
_REFRESH = text(f"{_HIT} UPDATE failovers SET {_MOMENT} WHERE id = :id")  # noqa: S608
_PASSED = text("""
SELECT id, from_service FROM failovers
WHERE status NOT IN ('restored', 'superseded') AND next_moment_at < :now ORDER BY id LIMIT 100
""")
_CEREMONIES = text(f"SELECT ceremony_at FROM ({_DEPENDENTS}) d WHERE ceremony_at < CAST(:before AS timestamptz)")  # noqa: S608
_DEPENDENTS_OF_ALL = text("""
SELECT s.vendor AS service, count(*) AS weddings, min(s.ceremony_at) FILTER (WHERE s.ceremony_at >= :now) AS next_at
FROM (SELECT DISTINCT w.id, w.ceremony_at, v.vendor FROM weddings w
  JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version
  CROSS JOIN LATERAL (SELECT jsonb_array_elements(p.body -> 'services') ->> 'vendor' AS vendor) v
  WHERE w.ended_at IS NULL AND w.ceremony_at > CAST(:now AS timestamptz) - interval '1 day') s
GROUP BY s.vendor
""")
_COUNT_CEREMONIES = text("""
SELECT count(*) FROM weddings WHERE ended_at IS NULL AND ceremony_at >= :since AND ceremony_at < :until
""")
_PAST = text("""
SELECT CAST(extract(epoch FROM restored_at - started_at) * 1000 AS bigint) FROM failovers
WHERE from_service = :service AND restored_at IS NOT NULL ORDER BY started_at DESC LIMIT 20
""")
_WITHOUT_RECOVERY = text("""
SELECT f.id, f.from_service, f.endpoint, f.epoch FROM failovers f
WHERE f.status IN ('active', 'restoring', 'held')
  AND coalesce(f.guard_due_at, f.started_at + interval '10 seconds') < :now
ORDER BY f.started_at LIMIT 100
""")
_NOTE_RECOVERY = text("""
UPDATE failovers SET guarded_at = coalesce(guarded_at, :now), guard_due_at = :due WHERE id = :id
""")
_AWAITS = text("""
UPDATE failovers SET guard_due_at = :due
WHERE from_service = :service AND endpoint = :endpoint AND epoch = :epoch AND status <> 'superseded'
""")
_PROPOSED = text(
    "SELECT id, from_service, endpoint, reason FROM failovers WHERE status = 'proposed' ORDER BY id LIMIT 100"
)
_SUPERSEDE = text("UPDATE failovers SET status = 'superseded' WHERE id = ANY(:ids) AND status = 'proposed'")
_READ = """
SELECT f.id, f.from_service, f.endpoint, f.epoch, f.to_service, f.reason, f.strategy, f.status, f.actor,
  coalesce(f.affected_weddings, 0) AS affected_weddings, f.next_moment_at, f.estimated_downtime_ms, f.rollback_plan,
  f.started_at, f.restored_at, f.fell_back,
  coalesce((SELECT jsonb_agg(w.wedding_id ORDER BY w.ceremony_at) FROM (
    SELECT wedding_id, ceremony_at FROM failover_weddings WHERE failover_id = f.id ORDER BY ceremony_at LIMIT 100) w),
    '[]') AS weddings
FROM failovers f
"""
_LIST = text(
    _READ
    + """
WHERE f.started_at >= :since AND f.started_at < :until AND (CAST(:service AS text) IS NULL OR f.from_service = :service)
ORDER BY f.started_at DESC, f.id DESC LIMIT 200
"""
)
_LATEST = text(
    _READ
    + """
WHERE f.from_service = :service AND f.endpoint = :endpoint AND f.epoch = :epoch
ORDER BY f.status = 'superseded', f.started_at DESC LIMIT 1
"""
)
_STATISTICS = text("""
SELECT count(*) AS failovers, count(*) FILTER (WHERE restored_at IS NOT NULL) AS restored,
  count(*) FILTER (WHERE status = 'proposed') AS proposed, coalesce(sum(fell_back), 0) AS fell_back,
  coalesce(sum(affected_weddings), 0) AS affected_weddings,
  CAST(percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM restored_at - started_at) * 1000) AS bigint)
    AS median_downtime_ms,
  CAST(max(extract(epoch FROM restored_at - started_at) * 1000) AS bigint) AS longest_downtime_ms
FROM failovers WHERE started_at >= :since AND started_at < :until
  AND (CAST(:service AS text) IS NULL OR from_service = :service)
""")
_VENUE = text("""
SELECT p.body #> '{wedding,ceremony}' AS ceremony FROM weddings w
JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version WHERE w.id = :wedding_id
""")
_CALLS = text("""
INSERT INTO vendor_calls (organization_id, wedding_id, transaction_id, step_id, service, endpoint, version, operation,
  ask, outcome, reason, duration_ms, quota_left, at)
SELECT organization_id, wedding_id, transaction_id, step_id, service, endpoint, version, operation, ask, outcome,
  reason, duration_ms, quota_left, at
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(organization_id text, wedding_id text, transaction_id text,
  step_id text, service text, endpoint text, version text, operation text, ask text, outcome text, reason text,
  duration_ms double precision, quota_left bigint, at timestamptz)
""")
_FORGET = text("""
DELETE FROM vendor_calls WHERE id IN (SELECT id FROM vendor_calls WHERE at < :before ORDER BY id LIMIT 10000)
""")


async def begin(conn: AsyncConnection, record: Mapping[str, Any], now: datetime) -> str | None:
    """Write a failover's record, once for each epoch; a proposed one becomes active. None: it exists already."""
    values = {**record, "rollback_plan": json.dumps(record["rollback_plan"]), "now": now}
    found: str | None = (await conn.execute(_BEGIN, values)).scalar()
    return found


async def set_status(
    conn: AsyncConnection, service: str, endpoint: str, epoch: int, status: str, now: datetime, *, fell_back: int = 0
) -> None:
    """Set the status of an epoch's failover; a restored one stays restored."""
    where = {"service": service, "endpoint": endpoint, "epoch": epoch}
    await conn.execute(_SET, {**where, "status": status, "now": now, "fell_back": fell_back})


async def affect(conn: AsyncConnection, failover_id: str, service: str, now: datetime) -> None:
    """Find out, once, which weddings it affects and when the next moment is that matters."""
    values = {"id": failover_id, "service": service, "now": now, "after": now - timedelta(days=1)}
    await conn.execute(_AFFECT, values)


async def refresh_moment(conn: AsyncConnection, failover_id: str, service: str, now: datetime) -> None:
    """Find the next moment that matters: plans change, moments pass."""
    values = {"id": failover_id, "service": service, "now": now, "after": now - timedelta(days=1)}
    await conn.execute(_REFRESH, values)


async def refresh_moments(conn: AsyncConnection, now: datetime) -> None:
    """Find the next moment of each open failover whose moment has passed."""
    for row in (await conn.execute(_PASSED, {"now": now})).all():
        await refresh_moment(conn, row.id, row.from_service, now)


async def ceremonies_near(conn: AsyncConnection, service: str, now: datetime) -> list[datetime]:
    """Read the ceremonies of weddings that depend on the service, from some hours ago to some hours ahead."""
    values = {"service": service, "after": now - _NEAR, "before": now + _NEAR}
    return list(await conn.scalars(_CEREMONIES, values))


async def dependents(conn: AsyncConnection, now: datetime) -> dict[str, tuple[int, datetime | None]]:
    """Return, by service, how many weddings to come depend on it, and the next ceremony of them."""
    rows = await conn.execute(_DEPENDENTS_OF_ALL, {"now": now})
    return {row.service: (row.weddings, row.next_at) for row in rows}


async def count_ceremonies(conn: AsyncConnection, since: datetime, until: datetime) -> int:
    """Count the weddings in a range. Also inside `tenant()`: its own."""
    return int((await conn.execute(_COUNT_CEREMONIES, {"since": since, "until": until})).scalar_one())


async def past_downtimes_ms(conn: AsyncConnection, service: str) -> list[int]:
    """Return how long the newest failovers of a service lasted."""
    return list(await conn.scalars(_PAST, {"service": service}))


async def without_recovery(conn: AsyncConnection, now: datetime) -> Sequence[Any]:
    """Find failovers that should have a guard and have none: older than its start takes, or not checked in time."""
    return (await conn.execute(_WITHOUT_RECOVERY, {"now": now})).all()


async def note_recovery(conn: AsyncConnection, failover_id: str, now: datetime, due: datetime) -> None:
    """Note that its guard was started, or is awake, and will check again by `due`."""
    await conn.execute(_NOTE_RECOVERY, {"id": failover_id, "now": now, "due": due})


async def expect_wake(conn: AsyncConnection, service: str, endpoint: str, epoch: int, due: datetime) -> None:
    """Note that an epoch's guard sleeps and will check again by `due`."""
    await conn.execute(_AWAITS, {"service": service, "endpoint": endpoint, "epoch": epoch, "due": due})


async def proposed(conn: AsyncConnection) -> Sequence[Any]:
    """Find failovers that a person may decide on."""
    return (await conn.execute(_PROPOSED)).all()


async def supersede(conn: AsyncConnection, failover_ids: Sequence[str]) -> None:
    """Withdraw proposals, but none that was begun meanwhile."""
    if failover_ids:
        await conn.execute(_SUPERSEDE, {"ids": list(failover_ids)})


async def read_range(
    conn: AsyncConnection, since: datetime, until: datetime, service: str | None
) -> tuple[Sequence[Any], Any]:
    """Read the newest 200 failovers that began in the range, and statistics of them all. Also inside `tenant()`."""
    where = {"since": since, "until": until, "service": service}
    rows = (await conn.execute(_LIST, where)).all()
    return rows, (await conn.execute(_STATISTICS, where)).one()


async def read_epoch(conn: AsyncConnection, service: str, endpoint: str, epoch: int) -> Any | None:
    """Read the failover of one epoch. Also inside `tenant()`."""
    where = {"service": service, "endpoint": endpoint, "epoch": epoch}
    return (await conn.execute(_LATEST, where)).first()


async def write_calls(conn: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append records of vendor calls."""
    await conn.execute(_CALLS, {"rows": json.dumps(list(rows))})


async def forget_calls(conn: AsyncConnection, before: datetime) -> int:
    """Delete some older records; returns how many."""
    return (await conn.execute(_FORGET, {"before": before})).rowcount


async def read_venue(conn: AsyncConnection, wedding_id: str) -> tuple[float, float] | None:
    """Return the wedding's place, (latitude, longitude), when its plan gives it. Inside `tenant()`."""
    ceremony = (await conn.execute(_VENUE, {"wedding_id": wedding_id})).scalar() or {}
    latitude, longitude = ceremony.get("latitude"), ceremony.get("longitude")
    return None if latitude is None or longitude is None else (float(latitude), float(longitude))
