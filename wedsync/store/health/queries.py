"""Services' health and its history, in Postgres. Inside `system()`, unless a function says otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.health.status import Health
from wedsync.domain.health.trend import Concern, Sample, Warned

_FIELDS = "status, since, checked_at, error_rate, response_ms, failures_in_row, successes_in_row, error_count, detail"
_ENSURE = text("""
INSERT INTO service_health (service, status, since, error_rate, response_ms, due_at)
SELECT name, 'healthy', :now, 0, 0, :now FROM unnest(CAST(:services AS text[])) AS name ON CONFLICT DO NOTHING
""")
# Whoever claims a probe moves its time on, so that of several watchers one probes.
_CLAIM = text(f"""
UPDATE service_health h SET due_at = CAST(:now AS timestamptz) + d.seconds * interval '1 second'
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS d(service text, seconds double precision)
WHERE h.service = d.service AND h.due_at <= CAST(:now AS timestamptz)
RETURNING h.service, {", ".join("h." + name for name in _FIELDS.split(", "))}
""")  # noqa: S608 - names of our own
_WRITE = text("""
UPDATE service_health SET status = :status, since = :since, checked_at = :checked_at, error_rate = :error_rate,
  response_ms = :response_ms, failures_in_row = :failures_in_row, successes_in_row = :successes_in_row,
  error_count = :error_count, detail = :detail, due_at = least(due_at, :due_at)
WHERE service = :service AND (checked_at IS NULL OR checked_at <= :checked_at)
""")
_CHANGED = text("""
INSERT INTO health_changes (service, source, from_status, status, at, error_rate, response_ms, detail)
VALUES (:service, :source, :from_status, :status, :at, :error_rate, :response_ms, :detail)
""")
_NOTE_CALLS = text("""
INSERT INTO health_changes (service, source, from_status, status, at, error_rate, response_ms, detail)
SELECT :service, 'calls', was.status, :status, :at, :error_rate, 0, :detail
FROM (SELECT coalesce((SELECT status FROM health_changes WHERE service = :service AND source = 'calls'
  ORDER BY at DESC, id DESC LIMIT 1), 'healthy') AS status) was
WHERE was.status <> :status
""")
_IS_WELL = text("""
SELECT status = 'healthy' AND checked_at IS NOT NULL AND failures_in_row = 0 FROM service_health
WHERE service = :service
""")
_ALL = text(f"SELECT service, {_FIELDS} FROM service_health ORDER BY service")  # noqa: S608
_CHANGES = text("""
SELECT source, from_status, status, at, error_rate, response_ms, detail FROM health_changes
WHERE service = :service AND at >= :since AND at < :until ORDER BY at DESC, id DESC LIMIT 500
""")
_COUNT_CHANGES = text("""
SELECT count(*) FROM health_changes WHERE service = :service AND at >= :since AND at < :until
""")
# A source's state at the range's begin comes from its last change before. Spans of several may overlap.
_DOWN = text("""
WITH chains AS (
  SELECT s.service, c.source, (SELECT max(b.at) FROM health_changes b
    WHERE b.service = s.service AND b.source = c.source AND b.at <= :since) AS begins
  FROM unnest(CAST(:services AS text[])) AS s(service)
  CROSS JOIN (VALUES ('probe'), ('circuit'), ('calls')) AS c(source)
), marks AS (
  SELECT h.service, h.status, h.at,
    lead(h.at, 1, CAST(:until AS timestamptz)) OVER (PARTITION BY h.service, h.source ORDER BY h.at, h.id) AS ends
  FROM chains c JOIN health_changes h ON h.service = c.service AND h.source = c.source
    AND h.at >= coalesce(c.begins, '-infinity') AND h.at < :until
), down AS (
  SELECT service, range_agg(tstzrange(greatest(at, :since), ends)) AS spans
  FROM marks WHERE status = 'down' AND ends > :since GROUP BY service
)
SELECT service, sum(extract(epoch FROM upper(span) - lower(span))) AS seconds
FROM down CROSS JOIN LATERAL unnest(spans) AS span GROUP BY service
""")
_CALLS = text("""
SELECT service, count(*) AS calls,
  count(*) FILTER (WHERE outcome IN ('vendor_unavailable', 'outcome_unknown')) AS failed,
  count(*) FILTER (WHERE outcome = 'vendor_throttled') AS throttled,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
FROM vendor_calls WHERE at >= :since AND ask <> 'trial' AND reason IS DISTINCT FROM 'circuit_open' GROUP BY service
""")
_ADD_SAMPLE = text("""
UPDATE service_health SET samples = (SELECT jsonb_agg(e.look ORDER BY e.place) FROM (
  SELECT look, place FROM jsonb_array_elements(samples || CAST(:sample AS jsonb)) WITH ORDINALITY t(look, place)
  ORDER BY place DESC LIMIT :keep) e)
WHERE service = :service RETURNING samples, concerns
""")
_WRITE_CONCERNS = text("UPDATE service_health SET concerns = CAST(:concerns AS jsonb) WHERE service = :service")
_CONCERNS = text("SELECT service, concerns FROM service_health WHERE concerns @? '$[*].warned.metric'")
_FAILING = text("""
SELECT count(*) FILTER (WHERE outcome IN ('vendor_unavailable', 'outcome_unknown')) / greatest(count(*), 10)::float
FROM vendor_calls WHERE service = :service AND at >= :since AND ask <> 'trial'
  AND reason IS DISTINCT FROM 'circuit_open'
""")
_samples = TypeAdapter(tuple[Sample, ...])
_concerns = TypeAdapter(tuple[Concern, ...])


async def ensure(conn: AsyncConnection, services: Sequence[str], now: datetime) -> None:
    """Make a row for each service, due at once."""
    await conn.execute(_ENSURE, {"services": list(services), "now": now})


async def claim(conn: AsyncConnection, intervals: Mapping[str, float], now: datetime) -> dict[str, Health]:
    """Claim the services, with their health, whose probe is due; the next is due after so many seconds."""
    rows = [{"service": service, "seconds": seconds} for service, seconds in intervals.items()]
    found = await conn.execute(_CLAIM, {"rows": json.dumps(rows), "now": now})
    return {row.service: health_of(row) for row in found}


async def write(conn: AsyncConnection, service: str, was: Health, now_is: Health, due_at: datetime) -> None:
    """Write a probe's result; only a change of status makes history."""
    await conn.execute(_WRITE, {**now_is.model_dump(), "service": service, "due_at": due_at})
    if was.status != now_is.status or was.checked_at is None:
        values = {
            "service": service,
            "source": "probe",
            "from_status": None if was.checked_at is None else was.status,
            "status": now_is.status,
            "at": now_is.checked_at,
            "error_rate": now_is.error_rate,
            "response_ms": now_is.response_ms,
            "detail": now_is.detail,
        }
        await conn.execute(_CHANGED, values)


async def note_circuits(
    conn: AsyncConnection, service: str, was: str, now_is: str, at: datetime, *, error_rate: float, detail: str
) -> None:
    """Record a change of the status that a service's circuits give together."""
    values = {"service": service, "source": "circuit", "from_status": was, "status": now_is, "at": at}
    await conn.execute(_CHANGED, {**values, "error_rate": error_rate, "response_ms": 0.0, "detail": detail})


async def note_calls(
    conn: AsyncConnection, service: str, status: str, at: datetime, *, error_rate: float, detail: str
) -> None:
    """Record what real calls say of a service whose circuit stays closed; without a change nothing is written."""
    values = {"service": service, "status": status, "at": at, "error_rate": error_rate, "detail": detail}
    await conn.execute(_NOTE_CALLS, values)


async def add_sample(
    conn: AsyncConnection, service: str, sample: Sample, keep: int
) -> tuple[tuple[Sample, ...], tuple[Concern, ...]]:
    """Add a sample and keep the newest `keep`; returns all of them, oldest first, and the present concerns.

    Nobody else adds a sample of the service until the transaction ends.
    """
    values = {"service": service, "sample": json.dumps([sample.model_dump(mode="json")]), "keep": keep}
    row = (await conn.execute(_ADD_SAMPLE, values)).one()
    return _samples.validate_python(row.samples, extra="ignore"), _concerns.validate_python(
        row.concerns, extra="ignore"
    )


async def write_concerns(conn: AsyncConnection, service: str, concerns: Sequence[Concern]) -> None:
    """Write the concerns that a service's samples raise."""
    document = json.dumps([concern.model_dump(mode="json") for concern in concerns])
    await conn.execute(_WRITE_CONCERNS, {"service": service, "concerns": document})


async def read_warnings(conn: AsyncConnection) -> dict[str, tuple[Warned, ...]]:
    """Read the present warnings, by service. Also inside `tenant()`."""
    found = await conn.execute(_CONCERNS)
    return {
        row.service: tuple(
            c.warned for c in _concerns.validate_python(row.concerns, extra="ignore") if c.warned is not None
        )
        for row in found
    }


async def failing(conn: AsyncConnection, service: str, since: datetime) -> float:
    """Return the share, 0 to 1, of a service's real calls since a moment that failed; a few calls say little."""
    return float((await conn.execute(_FAILING, {"service": service, "since": since})).scalar_one())


async def is_well(conn: AsyncConnection, service: str) -> bool:
    """Tell whether the vendor's last probe found it well; False, too, when nobody has probed it."""
    return bool((await conn.execute(_IS_WELL, {"service": service})).scalar())


async def read_all(conn: AsyncConnection) -> dict[str, Health]:
    """Read every service's health. Also inside `tenant()`."""
    return {row.service: health_of(row) for row in await conn.execute(_ALL)}


async def read_changes(conn: AsyncConnection, service: str, since: datetime, until: datetime) -> Sequence[Any]:
    """Read a service's newest 500 changes of status in a range, newest first. Also inside `tenant()`."""
    return (await conn.execute(_CHANGES, {"service": service, "since": since, "until": until})).all()


async def count_changes(conn: AsyncConnection, service: str, since: datetime, until: datetime) -> int:
    """Count the changes of status in a range. Also inside `tenant()`."""
    found = await conn.execute(_COUNT_CHANGES, {"service": service, "since": since, "until": until})
    return int(found.scalar_one())


async def down_seconds(
    conn: AsyncConnection, services: Sequence[str], since: datetime, until: datetime
) -> dict[str, float]:
    """Return, by service, the seconds of `[since, until)` in which any source said down. Also inside `tenant()`."""
    rows = await conn.execute(_DOWN, {"services": list(services), "since": since, "until": until})
    return {row.service: float(row.seconds) for row in rows}


async def read_calls(conn: AsyncConnection, since: datetime) -> dict[str, Any]:
    """Return the calls by service since a moment: how many, how many failed or were throttled, how long they took."""
    return {row.service: row for row in await conn.execute(_CALLS, {"since": since})}


def health_of(row: Any) -> Health:
    """Read a row's health."""
    return Health.model_validate({name: getattr(row, name) for name in _FIELDS.split(", ")})
