"""Circuits, their probe permits and the services' configurations, in Postgres. Inside `system()`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.vendor_config import ServiceConfig
from wedsync.store.db.stored import value_of, values_of

#: Notified on each transition of a circuit and each change of a configuration, with the service's name.
CHANNEL = "wedsync_routing"

_COLUMNS = (
    "service, endpoint, state, epoch, round, trips, open_until, stage, stage_since, probes_ok, forced, held, reason, "
    '"window", failed_calls, failed_probe, changed_at, noisy_from, noisy_until'
)
_PUBLISH = text("SELECT pg_notify(:channel, :service)")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('wedsync circuits', 0))")
_CLOCK = text("SELECT clock_timestamp()")
_ALL = text(f"SELECT {_COLUMNS} FROM circuits")  # noqa: S608 - names of our own
_ENSURE = text("""
INSERT INTO circuits (service, endpoint, state, "window") VALUES (:service, :endpoint, 'closed', '[]')
ON CONFLICT DO NOTHING
""")
_ONE = text(
    f"SELECT {_COLUMNS} FROM circuits WHERE service = :service AND endpoint = :endpoint FOR UPDATE"  # noqa: S608
)
_COUNT = text("""
UPDATE circuits SET "window" = CAST(:window AS jsonb), failed_calls = CAST(:failed_calls AS jsonb)
WHERE service = :service AND endpoint = :endpoint
""")
_MOVE = text("""
UPDATE circuits SET state = :state, epoch = :epoch, round = :round, trips = :trips, open_until = :open_until,
  stage = :stage, stage_since = :stage_since, probes_ok = :probes_ok, forced = :forced, held = :held,
  reason = :reason, "window" = CAST(:window AS jsonb), failed_calls = CAST(:failed_calls AS jsonb),
  failed_probe = :failed_probe, changed_at = :changed_at, noisy_from = :noisy_from,
  noisy_until = :noisy_until, version = version + 1
WHERE service = :service AND endpoint = :endpoint AND state = :was AND epoch = :was_epoch AND round = :was_round
  AND stage = :was_stage
""")
_NEW_PERMITS = text("""
WITH gone AS (
  DELETE FROM probe_permits WHERE service = :service AND endpoint = :endpoint AND round < :round
)
INSERT INTO probe_permits (service, endpoint, round, slot)
SELECT :service, :endpoint, :round, slot FROM generate_series(1, :probes) AS slot ON CONFLICT DO NOTHING
""")
_MORE_PERMITS = text("""
INSERT INTO probe_permits (service, endpoint, round, slot)
SELECT c.service, c.endpoint, c.round, slot FROM circuits c, generate_series(1, :probes) AS slot
WHERE c.service = :service AND c.endpoint = :endpoint AND c.round = :round AND c.state = 'open' ON CONFLICT DO NOTHING
""")
_LEASE = text("""
WITH t AS MATERIALIZED (SELECT greatest(CAST(:now AS timestamptz), clock_timestamp()) AS now)
UPDATE probe_permits p SET holder = :holder, caller = :caller, leased_until = t.now + make_interval(secs => :seconds)
FROM circuits c, t
WHERE c.service = :service AND c.endpoint = :endpoint AND c.round = :round AND c.state = 'open'
  AND NOT c.held AND c.forced IS NULL AND c.open_until <= t.now
  AND (c.noisy_until IS NULL OR t.now < c.noisy_from OR t.now >= c.noisy_until)
  AND NOT (CAST(:caller AS text) <> '' AND EXISTS (SELECT FROM probe_permits
    WHERE service = :service AND endpoint = :endpoint AND round = :round AND caller = :caller
      AND outcome IS NULL AND leased_until >= t.now))
  AND (p.service, p.endpoint, p.round, p.slot) = (
    SELECT service, endpoint, round, slot FROM probe_permits
    WHERE service = :service AND endpoint = :endpoint AND round = :round AND outcome IS NULL
      AND (leased_until IS NULL OR leased_until < (SELECT now FROM t))
    ORDER BY slot LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING p.slot
""")
_END = text("""
UPDATE probe_permits SET outcome = :outcome, leased_until = NULL
WHERE service = :service AND endpoint = :endpoint AND round = :round AND slot = :slot AND holder = :holder
  AND outcome IS NULL
""")


async def lock_transitions(conn: AsyncConnection) -> None:
    """Allow one transition of the fleet at a time, so that two services that back one another don't both leave."""
    await conn.execute(_LOCK)


async def read_clock(conn: AsyncConnection) -> datetime:
    """Read Postgres' clock."""
    published: datetime = (await conn.execute(_CLOCK)).scalar_one()
    return published


async def read_all(conn: AsyncConnection, known: Mapping[tuple[str, str], Circuit] | None = None) -> list[Circuit]:
    """Read every circuit that was ever counted; an unreadable one stays as it was `known`."""
    rows = await conn.execute(_ALL)
    stored = (((row.service, row.endpoint), dict(row._mapping)) for row in rows)
    return list(values_of(Circuit, stored, known).values())


async def lock_one(conn: AsyncConnection, service: str, endpoint: str) -> Circuit:
    """Lock the circuit, made when it is new, until the transaction ends."""
    where = {"service": service, "endpoint": endpoint}
    row = (await conn.execute(_ONE, where)).first()
    if row is None:
        await conn.execute(_ENSURE, where)
        row = (await conn.execute(_ONE, where)).one()
    return _circuit(row)


def _circuit(row: Any) -> Circuit:
    return value_of(Circuit, dict(row._mapping))


def _counters(circuit: Circuit) -> dict[str, str]:
    return {
        "window": json.dumps([bucket.model_dump() for bucket in circuit.window]),
        "failed_calls": json.dumps([call.model_dump(mode="json") for call in circuit.failed_calls]),
    }


async def count(conn: AsyncConnection, circuit: Circuit) -> None:
    """Write the counters of a locked circuit; nobody is notified."""
    await conn.execute(_COUNT, {"service": circuit.service, "endpoint": circuit.endpoint, **_counters(circuit)})


async def move(conn: AsyncConnection, was: Circuit, now_is: Circuit, probes: int) -> bool:
    """Compare and set: write the transition unless another came first; a new round gets `probes` permits."""
    values = now_is.model_dump(exclude={"window", "failed_calls"})
    compared = {"was": was.state, "was_epoch": was.epoch, "was_round": was.round, "was_stage": was.stage}
    done = await conn.execute(_MOVE, {**values, **compared, **_counters(now_is)})
    if done.rowcount != 1:
        return False
    where = {"service": was.service, "endpoint": was.endpoint}
    if now_is.round != was.round:
        await conn.execute(_NEW_PERMITS, {**where, "round": now_is.round, "probes": probes})
    await publish(conn, was.service)
    return True


async def publish(conn: AsyncConnection, service: str) -> None:
    """Have every process read anew, on commit."""
    await conn.execute(_PUBLISH, {"channel": CHANNEL, "service": service})


async def lease_permit(
    conn: AsyncConnection,
    circuit: Circuit,
    holder: str,
    lease: timedelta,
    now: datetime | None = None,
    *,
    probes: int = 0,
    caller: str = "",
) -> int | None:
    """Lease a permit to probe in the circuit's present round; None when all are taken, or it must not be probed now.

    `caller`: whose call will be the probe, which gets one permit at a time; empty: the vendor's own health probe.

    Leases begin and end by Postgres' clock, whatever a process' own says; `now` is of a clock that runs ahead of it.
    `probes`: how many must succeed now. A round that began with fewer permits gets more.
    """
    where = {"service": circuit.service, "endpoint": circuit.endpoint, "round": circuit.round}
    values = {**where, "holder": holder, "caller": caller, "now": now, "seconds": lease.total_seconds()}
    slot: int | None = (await conn.execute(_LEASE, values)).scalar()
    if slot is None and (await conn.execute(_MORE_PERMITS, {**where, "probes": probes})).rowcount:
        slot = (await conn.execute(_LEASE, values)).scalar()
    return slot


async def end_permit(conn: AsyncConnection, circuit: Circuit, slot: int, holder: str, outcome: str | None) -> bool:
    """Record a probe's outcome; None: it has none, the permit is free again. False: it was another holder's by then."""
    where = {"service": circuit.service, "endpoint": circuit.endpoint, "round": circuit.round}
    done = await conn.execute(_END, {**where, "slot": slot, "holder": holder, "outcome": outcome})
    return done.rowcount == 1


_CONFIGS = text("""
SELECT s.service, s.config, coalesce(jsonb_agg(jsonb_build_object('name', e.name, 'base_url', e.base_url,
  'version', e.version, 'region', e.region, 'weight', e.weight, 'capacity', e.capacity, 'dedicated', e.dedicated)
  ORDER BY e.position) FILTER (WHERE e.name IS NOT NULL), '[]') AS endpoints
FROM services s LEFT JOIN service_endpoints e USING (service) GROUP BY s.service, s.config
""")
_PUT = text("""
INSERT INTO services (service, config, version, updated_at, updated_by)
VALUES (:service, CAST(:config AS jsonb), 1, :now, :actor)
ON CONFLICT (service) DO UPDATE SET config = excluded.config, version = services.version + 1,
  updated_at = excluded.updated_at, updated_by = excluded.updated_by
""")
_CLEAR = text("DELETE FROM service_endpoints WHERE service = :service")
_PUT_ENDPOINTS = text("""
INSERT INTO service_endpoints (service, name, position, base_url, version, region, weight, capacity, dedicated)
SELECT :service, e.name, e.position, e.base_url, e.version, e.region, e.weight, e.capacity, e.dedicated
FROM jsonb_to_recordset(CAST(:endpoints AS jsonb)) AS e(name text, position integer, base_url text, version text,
  region text, weight integer, capacity integer, dedicated boolean)
""")


async def read_configs(
    conn: AsyncConnection, known: Mapping[str, ServiceConfig] | None = None
) -> dict[str, ServiceConfig]:
    """Read the configurations that operators have made, by service; an unreadable one stays as it was `known`."""
    rows = await conn.execute(_CONFIGS)
    return values_of(ServiceConfig, ((row.service, {**row.config, "endpoints": row.endpoints}) for row in rows), known)


async def put_config(conn: AsyncConnection, config: ServiceConfig, actor: str, now: datetime) -> None:
    """Write a configuration and tell every process."""
    body = config.model_dump_json(exclude={"endpoints"})
    await conn.execute(_PUT, {"service": config.service, "config": body, "now": now, "actor": actor})
    await conn.execute(_CLEAR, {"service": config.service})
    endpoints: Iterable[dict[str, Any]] = (
        {**endpoint.model_dump(), "position": position} for position, endpoint in enumerate(config.endpoints)
    )
    await conn.execute(_PUT_ENDPOINTS, {"service": config.service, "endpoints": json.dumps(list(endpoints))})
    await publish(conn, config.service)
