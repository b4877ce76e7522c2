"""Versions, pins and migrations in Postgres. Inside `system()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import NotFound
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions.migration import FREEZE_AFTER, Migration
from wedsync.domain.versions.selection import NOTICE, REMEMBERED, Pin
from wedsync.store.db.stored import value_of, values_of
from wedsync.store.routing import circuits

_KNOWN = text("SELECT 1 FROM organizations WHERE id = :id")
_SPECS = text("SELECT service, name, spec FROM vendor_versions ORDER BY service, name")
_PUT_SPEC = text("""
INSERT INTO vendor_versions (service, name, spec, updated_at, updated_by)
VALUES (:service, :name, CAST(:spec AS jsonb), :now, :actor)
ON CONFLICT (service, name) DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at,
  updated_by = excluded.updated_by
""")
_PINS = text("""
SELECT service, organization_id, version, share_percent, since, until, migration_id FROM version_pins
WHERE until IS NULL OR until > :since ORDER BY since, id
""")
# One at a time for each service: two pins of one scope never stand at once.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('version_pins:' || :service, 0))")
_END_PINS = text("""
UPDATE version_pins SET until = greatest(CAST(:until AS timestamptz), since)
WHERE service = :service AND organization_id IS NOT DISTINCT FROM CAST(:organization_id AS text)
  AND migration_id = :migration_id AND until IS NULL
""")
_PIN = text("""
INSERT INTO version_pins (organization_id, service, version, share_percent, since, migration_id, pinned_by)
VALUES (:organization_id, :service, :version, :share_percent, :since, :migration_id, :actor)
""")
_FORGET = text("DELETE FROM version_pins WHERE until < :before")
_BEGIN = text("""
INSERT INTO version_migrations (id, organization_id, service, stage, state, started_at, started_by)
VALUES (:id, :organization_id, :service, :stage, CAST(:state AS jsonb), :started_at, :actor)
ON CONFLICT DO NOTHING
""")
_READ = "SELECT state, paused, rollback_asked, started_by FROM version_migrations WHERE id = :id"
_ONE, _LOCKED = text(_READ), text(_READ + " FOR UPDATE")
_LIST = text("""
SELECT state, paused, rollback_asked, started_by FROM version_migrations
WHERE CAST(:service AS text) IS NULL OR service = :service ORDER BY started_at DESC, id DESC LIMIT 200
""")
_SAVE = text("""
UPDATE version_migrations SET stage = :stage, state = CAST(:state AS jsonb), ended_at = :ended_at WHERE id = :id
""")
_REQUEST = text("""
UPDATE version_migrations SET paused = coalesce(CAST(:paused AS boolean), paused),
  rollback_asked = rollback_asked OR :rollback
WHERE id = :id AND ended_at IS NULL
""")
_FAILED = "outcome IN ('vendor_unavailable', 'outcome_unknown', 'vendor_rejected', 'not_authorized', 'internal')"
_CALLS = text(f"""
SELECT version, count(*) AS calls, count(*) FILTER (
  WHERE {_FAILED} AND reason IS DISTINCT FROM 'circuit_open') AS failed
FROM vendor_calls WHERE service = :service AND at >= :since
  AND (CAST(:organization_id AS text) IS NULL OR organization_id = :organization_id)
GROUP BY version
""")  # noqa: S608 - a text of our own
_USAGE = text(f"""
SELECT service, version, count(*) AS calls, count(*) FILTER (WHERE {_FAILED}) AS failed,
  count(DISTINCT wedding_id) AS weddings, min(at) AS first_at, max(at) AS last_at
FROM vendor_calls WHERE at >= :since AND at < :until AND (CAST(:service AS text) IS NULL OR service = :service)
GROUP BY service, version ORDER BY service, calls DESC, version
""")  # noqa: S608 - a text of our own
_CEREMONIES = text("""
SELECT w.ceremony_at FROM weddings w JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version
WHERE w.ended_at IS NULL AND w.ceremony_at > :after AND w.ceremony_at < :before
  AND (CAST(:organization_id AS text) IS NULL OR w.organization_id = :organization_id)
  AND jsonb_path_exists(p.body, '$.services[*].vendor ? (@ == $vendor)',
    jsonb_build_object('vendor', CAST(:service AS text)))
""")
# The newest objects that are still at the vendor.
_OBJECTS = text("""
SELECT r.organization_id, r.wedding_id, r.transaction_id, r.step_id, r.account, r.object_id, s.action
FROM external_refs r JOIN steps s ON s.wedding_id = r.wedding_id AND s.step_id = r.step_id
WHERE r.vendor = :service AND s.vendor = :service AND s.external_id = r.object_id AND s.status = 'succeeded'
  AND (CAST(:organization_id AS text) IS NULL OR r.organization_id = :organization_id)
ORDER BY r.created_at DESC, r.object_id LIMIT :most
""")


async def require_organization(conn: AsyncConnection, organization_id: str | None) -> None:
    """Raise NotFound for an unknown organization; None is all of them."""
    if organization_id is not None and (await conn.execute(_KNOWN, {"id": organization_id})).first() is None:
        raise NotFound("there is no such organization")


async def read_specs(
    conn: AsyncConnection, known: Mapping[str, Mapping[str, VersionSpec]] | None = None
) -> dict[str, dict[str, VersionSpec]]:
    """Read the versions that operators have added or changed, by service and name; unreadable ones stay as `known`."""
    were = {(service, name): spec for service, specs in (known or {}).items() for name, spec in specs.items()}
    found: dict[str, dict[str, VersionSpec]] = {}
    stored = (((row.service, row.name), row.spec) for row in await conn.execute(_SPECS))
    for (service, name), spec in values_of(VersionSpec, stored, were).items():
        found.setdefault(service, {})[name] = spec
    return found


async def put_spec(conn: AsyncConnection, service: str, spec: VersionSpec, actor: str, now: datetime) -> None:
    """Add or change a version and tell every process."""
    values = {"service": service, "name": spec.name, "spec": spec.model_dump_json(), "now": now, "actor": actor}
    await conn.execute(_PUT_SPEC, values)
    await circuits.publish(conn, service)


async def read_pins(conn: AsyncConnection, now: datetime) -> dict[str, tuple[Pin, ...]]:
    """Read the pins that hold, and those that a retry may still need, by service, oldest first."""
    found: dict[str, list[Pin]] = {}
    rows = await conn.execute(_PINS, {"since": now - REMEMBERED})
    for pin in values_of(Pin, enumerate(dict(row._mapping) for row in rows)).values():
        found.setdefault(pin.service, []).append(pin)
    return {service: tuple(pins) for service, pins in found.items()}


async def pin(
    conn: AsyncConnection,
    service: str,
    organization_id: str | None,
    version: str | None,
    actor: str,
    now: datetime,
    *,
    share_percent: int = 100,
    migration_id: str = "",
) -> None:
    """Replace the scope's earlier pin by this one; None: remove it. In force after `NOTICE`."""
    await conn.execute(_LOCK, {"service": service})
    scope = {"service": service, "organization_id": organization_id, "migration_id": migration_id}
    await conn.execute(_END_PINS, {**scope, "until": now + NOTICE})
    if version is not None:
        values = {**scope, "version": version, "share_percent": share_percent, "since": now + NOTICE, "actor": actor}
        await conn.execute(_PIN, values)
    await conn.execute(_FORGET, {"before": now - 2 * REMEMBERED})
    await circuits.publish(conn, service)


async def begin(conn: AsyncConnection, migration: Migration, actor: str) -> bool:
    """Write a new migration; False: it exists already, or another of the same service and scope is under way."""
    values = migration.model_dump(include={"id", "organization_id", "service", "stage", "started_at"})
    done = await conn.execute(_BEGIN, {**values, "state": migration.model_dump_json(), "actor": actor})
    return done.rowcount == 1


async def read(conn: AsyncConnection, migration_id: str, *, lock: bool = False) -> tuple[Migration, str] | None:
    """Read a migration and who started it; None: there is none."""
    row = (await conn.execute(_LOCKED if lock else _ONE, {"id": migration_id})).one_or_none()
    return None if row is None else (_migration(row), row.started_by)


async def listed(conn: AsyncConnection, service: str | None) -> list[Migration]:
    """List the newest 200, of one service or of all."""
    return [_migration(row) for row in await conn.execute(_LIST, {"service": service})]


def _migration(row: Any) -> Migration:
    return value_of(Migration, {**row.state, "paused": row.paused, "rollback_asked": row.rollback_asked})


async def save(conn: AsyncConnection, migration: Migration) -> None:
    """Write the present state of a locked migration."""
    values = migration.model_dump(include={"id", "stage", "ended_at"})
    await conn.execute(_SAVE, {**values, "state": migration.model_dump_json()})


async def request_move(
    conn: AsyncConnection, migration_id: str, *, paused: bool | None = None, rollback: bool = False
) -> bool:
    """Note an operator's wish; False: the migration has ended, or there is none."""
    done = await conn.execute(_REQUEST, {"id": migration_id, "paused": paused, "rollback": rollback})
    return done.rowcount == 1


async def calls_since(
    conn: AsyncConnection, service: str, organization_id: str | None, since: datetime
) -> dict[str, tuple[int, int]]:
    """Return, by version, how many calls were made since then, and how many of them failed."""
    values = {"service": service, "organization_id": organization_id, "since": since}
    return {row.version: (row.calls, row.failed) for row in await conn.execute(_CALLS, values)}


async def usage(conn: AsyncConnection, service: str | None, since: datetime, until: datetime) -> Sequence[Any]:
    """Return the calls by service and version within a range."""
    return (await conn.execute(_USAGE, {"service": service, "since": since, "until": until})).all()


async def ceremonies(
    conn: AsyncConnection, service: str, organization_id: str | None, now: datetime, ahead: timedelta
) -> tuple[datetime, ...]:
    """Read the ceremonies, from `FREEZE_AFTER` ago to `ahead`, of weddings whose plan names the service."""
    values = {
        "service": service,
        "organization_id": organization_id,
        "after": now - FREEZE_AFTER,
        "before": now + ahead,
    }
    return tuple(await conn.scalars(_CEREMONIES, values))


async def objects(conn: AsyncConnection, service: str, organization_id: str | None, most: int) -> Sequence[Any]:
    """List the newest objects that are still at the vendor, at most so many."""
    values = {"service": service, "organization_id": organization_id, "most": most}
    return (await conn.execute(_OBJECTS, values)).all()
