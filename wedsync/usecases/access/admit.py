"""Admit organizations: create them, give them API keys, and revoke keys.

Whoever holds the database's login and the pepper does so at a terminal: the API can't make its first key.
"""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import hash_api_key, new_api_key
from wedsync.kit.ids import new_id
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database

ACTOR = "system:cli"
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LONGEST_NAME = 200


class IssuedKey(BaseModel):
    """A new key, known here only: the database stores its HMAC."""

    model_config = ConfigDict(frozen=True)
    organization_id: str
    key_id: str
    key_name: str
    api_key: str


class KnownKey(BaseModel):
    """A key as it is stored."""

    model_config = ConfigDict(frozen=True)
    key_id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


class KnownOrganization(BaseModel):
    """An organization and its keys, the oldest first."""

    model_config = ConfigDict(frozen=True)
    organization_id: str
    name: str
    created_at: datetime
    keys: tuple[KnownKey, ...]


async def create_organization(
    db: Database, name: str, pepper: str, *, organization_id: str | None = None, key_name: str = "first"
) -> IssuedKey:
    """Create an organization with its first key.

    Its id is a new one unless `organization_id` is given. Raises InvalidInput, Conflict(reason="organization_taken"),
    StoreUnavailable.
    """
    if organization_id is not None and not _ID.fullmatch(organization_id):
        raise InvalidInput("an id is 1 to 64 letters, digits, `_` and `-`", field="id")
    label, now = _name(name, "name"), utc_now()
    chosen = organization_id or new_id()
    async with db.system() as conn:
        if not await access.add_organization(conn, chosen, label, now):
            raise Conflict(f"there is an organization {chosen} already", reason="organization_taken")
        await access.audit_as(
            conn, chosen, ACTOR, "organization.created", f"organization/{chosen}", {"name": label}, now
        )
        return await _issue(conn, chosen, key_name, pepper, now)


async def create_key(db: Database, organization_id: str, name: str, pepper: str) -> IssuedKey:
    """Give an organization another key; the others stay. Raises InvalidInput, NotFound, StoreUnavailable."""
    async with db.system() as conn:
        if not await access.has_organization(conn, organization_id):
            raise NotFound(f"there is no organization {organization_id}")
        return await _issue(conn, organization_id, name, pepper, utc_now())


async def revoke_key(db: Database, key_id: str) -> datetime:
    """Revoke a key and return since when; each process refuses it within `authenticate.KNOWN_SECONDS`.

    Idempotent. Raises NotFound, StoreUnavailable.
    """
    now = utc_now()
    async with db.system() as conn:
        row = await access.revoke_key(conn, key_id, now)
        if row is None:
            raise NotFound(f"there is no key {key_id}")
        if row.revoked_at == now:
            await access.audit_as(conn, row.organization_id, ACTOR, "key.revoked", f"key/{key_id}", {}, now)
    since: datetime = row.revoked_at
    return since


async def list_organizations(db: Database) -> list[KnownOrganization]:
    """List every organization with its keys, the oldest first. Raises StoreUnavailable."""
    async with db.system() as conn:
        organizations, keys = await access.read_organizations(conn), await access.read_keys(conn)
    by_owner: dict[str, list[KnownKey]] = {}
    for key in keys:
        known = KnownKey(key_id=key.id, name=key.name, created_at=key.created_at, revoked_at=key.revoked_at)
        by_owner.setdefault(key.organization_id, []).append(known)
    return [
        KnownOrganization(
            organization_id=one.id, name=one.name, created_at=one.created_at, keys=tuple(by_owner.get(one.id, ()))
        )
        for one in organizations
    ]


async def _issue(conn: AsyncConnection, organization_id: str, name: str, pepper: str, now: datetime) -> IssuedKey:
    label = _name(name, "key_name")
    key, key_id = new_api_key(), new_id()
    await access.add_key(conn, organization_id, key_id, label, hash_api_key(key, pepper), now)
    await access.audit_as(conn, organization_id, ACTOR, "key.created", f"key/{key_id}", {"name": label}, now)
    return IssuedKey(organization_id=organization_id, key_id=key_id, key_name=label, api_key=key)


def _name(text: str, field: str) -> str:
    name = text.strip()
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a name is 1 to {_LONGEST_NAME} characters on one line", field=field)
    return name
