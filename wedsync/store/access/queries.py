"""Organizations, API keys, the audit log and remembered answers, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer, Once, Principal
from wedsync.store.access.tables import api_keys, audit_log, idempotency_keys, organizations

_LOCK_KEY = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


async def find_key(conn: AsyncConnection, key_hmac: bytes) -> Principal | None:
    """Find whose key this is, unless it was revoked. Within `system()`."""
    query = select(api_keys.c.organization_id, api_keys.c.id).where(
        api_keys.c.key_hmac == key_hmac, api_keys.c.revoked_at.is_(None)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else Principal(organization_id=row.organization_id, key_id=row.id)


async def add_organization(conn: AsyncConnection, organization_id: str, name: str, now: datetime) -> bool:
    """Create an organization; an existing one stays, and False is returned. Within `system()`."""
    values = {"id": organization_id, "name": name, "created_at": now}
    statement = upsert(organizations).values(values).on_conflict_do_nothing().returning(organizations.c.id)
    return (await conn.execute(statement)).first() is not None


async def has_organization(conn: AsyncConnection, organization_id: str) -> bool:
    """Tell whether this organization exists. Within `system()`."""
    return (await conn.execute(select(organizations.c.id).filter_by(id=organization_id))).first() is not None


async def read_organizations(conn: AsyncConnection) -> list[Any]:
    """Read every organization, the oldest first: `id`, `name`, `created_at`. Within `system()`."""
    table = organizations.c
    query = select(table.id, table.name, table.created_at).order_by(table.created_at, table.id)
    return list((await conn.execute(query)).all())


async def read_keys(conn: AsyncConnection) -> list[Any]:
    """Read keys, the oldest first: `id`, `organization_id`, `name`, `created_at`, `revoked_at`. Within `system()`."""
    table = api_keys.c
    query = select(table.id, table.organization_id, table.name, table.created_at, table.revoked_at)
    return list((await conn.execute(query.order_by(table.created_at, table.id))).all())


async def revoke_key(conn: AsyncConnection, key_id: str, now: datetime) -> Any | None:
    """Revoke a key; an earlier revocation stands. Returns `organization_id`, `revoked_at`; None for an unknown key.

    Within `system()`.
    """
    since = func.coalesce(api_keys.c.revoked_at, now)
    statement = update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=since)
    return (await conn.execute(statement.returning(api_keys.c.organization_id, api_keys.c.revoked_at))).first()


async def add_key(
    conn: AsyncConnection, organization_id: str, key_id: str, name: str, key_hmac: bytes, now: datetime
) -> None:
    """Store a key's HMAC; an existing one stays. Within `system()`."""
    values = {
        "id": key_id,
        "organization_id": organization_id,
        "name": name,
        "key_hmac": key_hmac,
        "created_at": now,
    }
    await conn.execute(upsert(api_keys).values(values).on_conflict_do_nothing())


async def audit(
    conn: AsyncConnection,
    principal: Principal,
    action: str,
    subject: str,
    detail: dict[str, Any],
    now: datetime,
) -> None:
    """Append to the audit log."""
    await audit_as(conn, principal.organization_id, principal.actor, action, subject, detail, now)


async def audit_as(
    conn: AsyncConnection,
    organization_id: str,
    actor: str,
    action: str,
    subject: str,
    detail: dict[str, Any],
    now: datetime,
) -> None:
    """Append an act of a program itself; `actor` is `system:<program>`."""
    await conn.execute(
        insert(audit_log).values(
            organization_id=organization_id,
            at=now,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
        )
    )


@dataclass(frozen=True)
class AuditQuery:
    """A selection of the audit log; None: any value. `since` is included, `until` is not."""

    #: With everything beneath it.
    subject: str | None = None
    action: str | None = None
    actor: str | None = None
    organization_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def page_audit(
    conn: AsyncConnection, query: AuditQuery, *, before: tuple[datetime, int] | None, limit: int
) -> Sequence[Any]:
    """Read lines of the audit log, newest first, before the moment and id of the last one seen. Also in `tenant()`."""
    table = audit_log.c
    statement = select(audit_log).order_by(table.at.desc(), table.id.desc()).limit(limit)
    for column, value in (
        (table.action, query.action),
        (table.actor, query.actor),
        (table.organization_id, query.organization_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if query.subject is not None:
        beneath = table.subject.startswith(query.subject + "/", autoescape=True)
        statement = statement.where(or_(table.subject == query.subject, beneath))
    if query.since is not None:
        statement = statement.where(table.at >= query.since)
    if query.until is not None:
        statement = statement.where(table.at < query.until)
    if before is not None:
        statement = statement.where(tuple_(table.at, table.id) < tuple_(*before))
    return (await conn.execute(statement)).all()


async def lock_once(conn: AsyncConnection, organization_id: str, key: str) -> bool:
    """Take the key for this transaction; False when another request holds it."""
    name = f"idempotency {organization_id} {key}"
    return bool((await conn.execute(_LOCK_KEY, {"name": name})).scalar_one())


async def read_once(conn: AsyncConnection, organization_id: str, key: str) -> Any | None:
    """Read the remembered request: `fingerprint`, `status` (None: still being waited for), `headers`, `body`."""
    table = idempotency_keys.c
    query = select(table.fingerprint, table.status, table.headers, table.body).where(
        table.organization_id == organization_id, table.key == key
    )
    return (await conn.execute(query)).first()


async def remember_once(
    conn: AsyncConnection, organization_id: str, once: Once, answer: Answer, *, is_final: bool, now: datetime
) -> bool:
    """Remember the answer; False when the key was remembered meanwhile."""
    values = {
        "organization_id": organization_id,
        "key": once.key,
        "fingerprint": once.fingerprint,
        "status": answer.status if is_final else None,
        "headers": answer.headers,
        "body": answer.body,
        "created_at": now,
    }
    statement = upsert(idempotency_keys).values(values).on_conflict_do_nothing().returning(idempotency_keys.c.key)
    return (await conn.execute(statement)).first() is not None


async def finish_once(conn: AsyncConnection, organization_id: str, key: str, answer: Answer) -> None:
    """Replace what was remembered while the caller waited by the answer it got."""
    await conn.execute(
        update(idempotency_keys)
        .where(idempotency_keys.c.organization_id == organization_id, idempotency_keys.c.key == key)
        .values(status=answer.status, headers=answer.headers, body=answer.body)
    )
