"""External quotas in Postgres: one statement compares, acquires and returns the present row. Inside `system()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.quotas.quota import Quota, QuotaPolicy
from wedsync.store.db.stored import value_of, values_of
from wedsync.store.routing.circuits import CHANNEL

Key = tuple[str, str]

_TAKE = text("""
INSERT INTO quotas (service, account, version, nonce, state)
VALUES (:service, :account, 1, :nonce, CAST(:state AS jsonb))
ON CONFLICT (service, account) DO UPDATE SET
  state = CASE WHEN quotas.version = :seen THEN excluded.state ELSE quotas.state END,
  nonce = CASE WHEN quotas.version = :seen THEN excluded.nonce ELSE quotas.nonce END,
  version = CASE WHEN quotas.version = :seen THEN quotas.version + 1 ELSE quotas.version END
RETURNING version, state, nonce = :nonce AS is_ours, clock_timestamp() AS at,
  CASE WHEN :hurries THEN set_config('synchronous_commit', 'off', true) END
""")
_ALL = text("SELECT service, account, version, state FROM quotas")
_POLICIES = text("SELECT service, account, policy FROM quota_policies")
_PUT_POLICY = text("""
INSERT INTO quota_policies (service, account, policy, updated_at, updated_by)
VALUES (:service, :account, CAST(:policy AS jsonb), :now, :actor)
ON CONFLICT (service, account) DO UPDATE
SET policy = excluded.policy, updated_at = excluded.updated_at, updated_by = excluded.updated_by
""")
# The calls of steps that have not begun, by the minute: by the vendor of a bound step, else its service's.
_PLANNED = text("""
SELECT date_trunc('minute', s.due_at) AS at, coalesce(s.vendor, v.vendor) AS service,
  coalesce(v.account, 'default') AS account, s.action, count(*) AS steps, count(DISTINCT s.wedding_id) AS weddings
FROM steps s
JOIN weddings w ON w.id = s.wedding_id
JOIN plans p ON p.wedding_id = w.id AND p.version = w.plan_version
LEFT JOIN LATERAL (
  SELECT one ->> 'vendor' AS vendor, coalesce(one ->> 'account',
    CASE WHEN one ->> 'vendor' = 'generic' THEN one ->> 'id' ELSE 'default' END) AS account
  FROM jsonb_array_elements(p.body -> 'services') one WHERE one ->> 'id' = s.service
) v ON true
WHERE s.status IN ('pending', 'scheduled') AND w.ended_at IS NULL AND s.due_at >= :since AND s.due_at < :until
GROUP BY 1, 2, 3, 4 HAVING coalesce(s.vendor, v.vendor) IS NOT NULL
""")
_UNDATED = text("""
SELECT count(*) FROM steps s JOIN weddings w ON w.id = s.wedding_id
WHERE s.status IN ('pending', 'scheduled') AND w.ended_at IS NULL AND s.due_at IS NULL
""")
_CEREMONIES = text("SELECT id, ceremony_at FROM weddings WHERE id = ANY(:ids) AND ceremony_at IS NOT NULL")
_PUBLISH = text("SELECT pg_notify(:channel, :service)")


@dataclass(frozen=True)
class Written:
    """Result of a write: whether it took effect, and the present row, by Postgres' clock."""

    is_ours: bool
    quota: Quota
    at: datetime


async def swap(conn: AsyncConnection, wanted: Quota, nonce: str, *, hurries: bool = False) -> Written:
    """Write `wanted` if the row still has the version it was made from (`wanted.version`; 0: no row).

    `hurries`: the commit doesn't wait for the disk; after a crash some milliseconds of counts may be gone.
    """
    state = wanted.model_dump_json(exclude={"service", "account", "version"})
    values = {"service": wanted.service, "account": wanted.account, "nonce": nonce, "state": state}
    row = (await conn.execute(_TAKE, {**values, "seen": wanted.version, "hurries": hurries})).one()
    key = {"service": wanted.service, "account": wanted.account, "version": row.version}
    return Written(row.is_ours, value_of(Quota, {**row.state, **key}), row.at)


async def publish(conn: AsyncConnection, service: str) -> None:
    """Have every process read the quotas anew."""
    await conn.execute(_PUBLISH, {"channel": CHANNEL, "service": service})


async def read_all(conn: AsyncConnection, known: Mapping[Key, Quota] | None = None) -> dict[Key, Quota]:
    """Read every account that has ever acquired a call; an unreadable one stays as it was `known`."""
    rows = await conn.execute(_ALL)
    stored = (
        (
            (row.service, row.account),
            {**row.state, "service": row.service, "account": row.account, "version": row.version},
        )
        for row in rows
    )
    return values_of(Quota, stored, known)


async def read_policies(
    conn: AsyncConnection, known: Mapping[Key, QuotaPolicy] | None = None
) -> dict[Key, QuotaPolicy]:
    """Read the policies that operators have set; an unreadable one stays as it was `known`."""
    rows = await conn.execute(_POLICIES)
    return values_of(QuotaPolicy, (((row.service, row.account), row.policy) for row in rows), known)


async def put_policy(conn: AsyncConnection, key: Key, policy: QuotaPolicy, actor: str, now: datetime) -> None:
    """Set an account's limits and tell every process."""
    values = {"service": key[0], "account": key[1], "policy": policy.model_dump_json(), "now": now, "actor": actor}
    await conn.execute(_PUT_POLICY, values)
    await publish(conn, key[0])


async def read_planned(conn: AsyncConnection, since: datetime, until: datetime) -> Sequence[Any]:
    """Return `at, service, account, action, steps, weddings` of all steps to come, by the minute."""
    return (await conn.execute(_PLANNED, {"since": since, "until": until})).all()


async def count_undated(conn: AsyncConnection) -> int:
    """Count the steps to come that wait for the end of another and have no time yet."""
    return int((await conn.execute(_UNDATED)).scalar_one())


async def read_ceremonies(conn: AsyncConnection, wedding_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the weddings take place; also inside `tenant()`."""
    rows = await conn.execute(_CEREMONIES, {"ids": list(wedding_ids)})
    return {row.id: row.ceremony_at for row in rows}
