"""Register webhook sources and keep them: create, list, show, change, pause, rotate the secret, delete."""

from __future__ import annotations

import secrets as random
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.inbox.source import SourceAccount, SourceConfig
from wedsync.domain.value import Value
from wedsync.kit.crypto import Keyring
from wedsync.kit.ids import new_id
from wedsync.store.access import queries as access
from wedsync.store.inbox import sources as store
from wedsync.usecases.inbox.reconcile import reconcilable
from wedsync.usecases.inbox.sources import SERVICES
from wedsync.usecases.weddings.read_wedding import View
from wedsync.vendors.registry import Registry

#: The secret of a source without one of its own: 256 random bits.
SECRET_PREFIX = "whsec_"  # noqa: S105
#: The newest secrets stay; nobody needs more overlapping ones.
MAX_SECRETS = 10


class SecretView(View):
    """A secret's dates, without the secret itself."""

    id: str
    created_at: datetime
    #: When it ceases to be valid; None: it is the newest.
    expires_at: datetime | None


class SourceView(View):
    """A registered source."""

    id: str
    name: str
    state: str
    #: Where it posts to.
    url: str
    #: The same by its id, whatever its name.
    connection_url: str
    config: SourceConfig
    #: Whether it has an account by which its vendor's list can be read.
    has_account: bool = False
    secrets: tuple[SecretView, ...]
    created_at: datetime
    updated_at: datetime
    #: Shown once, when it is made.
    secret: str | None = None


class SourceList(View):
    """An organization's sources by name."""

    data: tuple[SourceView, ...]


class Clerk(Value):
    """One request's actor and time, and what its answer needs."""

    model_config = {**Value.model_config, "arbitrary_types_allowed": True}

    principal: Principal
    now: datetime
    api_url: str
    keyring: Keyring = Field(repr=False)
    registry: Registry = Field(repr=False)


async def register(
    conn: AsyncConnection,
    clerk: Clerk,
    *,
    source_id: str,
    name: str,
    config: SourceConfig,
    secret: str | None,
    account: SourceAccount | None = None,
) -> SourceView:
    """Register a source; within `tenant()`. Raises Conflict(reason="webhook_name_taken"), InvalidInput."""
    _check_list(clerk, config, has_account=account is not None)
    values = {
        "id": source_id,
        "organization_id": clerk.principal.organization_id,
        "name": name,
        "state": "active",
        "config": config.model_dump(mode="json"),
        "account": _sealed(clerk, source_id, account),
        "created_at": clerk.now,
        "updated_at": clerk.now,
    }
    is_reserved = name in clerk.registry.manifests or name in SERVICES
    # Another organization may hold the name: its address is then one of our own.
    paths = [f"{name}-{source_id[-10:].lower()}"] if is_reserved else [name, f"{name}-{source_id[-10:].lower()}"]
    for path in paths:
        if await store.find_source(conn, name) is not None:
            raise Conflict(f"a webhook source {name!r} is registered already", reason="webhook_name_taken")
        if await store.add_source(conn, {**values, "path": path}):
            break
    else:
        raise Conflict(f"a webhook source {name!r} is registered already", reason="webhook_name_taken")
    used_secret = secret or _new_secret()
    await _add_secret(conn, clerk, source_id, used_secret)
    detail = {"name": name, "scheme": config.scheme}
    await access.audit(
        conn, clerk.principal, "webhook_source.created", f"webhook_source/{source_id}", detail, clerk.now
    )
    return await show_source(conn, clerk, source_id, secret=used_secret)


async def show_source(conn: AsyncConnection, clerk: Clerk, source: str, *, secret: str | None = None) -> SourceView:
    """Return the source by its id or name; raises NotFound."""
    return await _view(conn, clerk, await _row(conn, source), secret)


async def list_sources(conn: AsyncConnection, clerk: Clerk) -> SourceList:
    """List the organization's sources."""
    return SourceList(data=tuple([await _view(conn, clerk, row, None) for row in await store.list_sources(conn)]))


async def change(
    conn: AsyncConnection,
    clerk: Clerk,
    source: str,
    *,
    state: str | None,
    changes: dict[str, Any],
    account: SourceAccount | None = None,
) -> SourceView:
    """Pause, resume, or overwrite fields of the configuration; raises NotFound, InvalidInput."""
    row = await _row(conn, source, lock=True)
    config = SourceConfig.model_validate(row.config)
    if "scheme" in changes and changes["scheme"] != config.scheme:
        raise InvalidInput("a source keeps its scheme: register another one", field="scheme")
    merged = SourceConfig.model_validate({**config.model_dump(mode="json"), **changes})
    _check_list(clerk, merged, has_account=account is not None or row.account is not None)
    values = {"config": merged.model_dump(mode="json"), "state": state or row.state, "updated_at": clerk.now}
    if account is not None:
        values["account"] = _sealed(clerk, row.id, account)
    await store.change_source(conn, row.id, values)
    detail = {"state": values["state"], "fields": sorted([*changes, *(["account"] if account else [])])}
    await _audit(conn, clerk, "changed", row.id, detail)
    return await show_source(conn, clerk, row.id)


async def rotate(
    conn: AsyncConnection, clerk: Clerk, source: str, *, secret: str | None, overlap: timedelta
) -> SourceView:
    """Add a secret and have the older ones end after the overlap; raises NotFound, Conflict."""
    row = await _row(conn, source, lock=True)
    alive = [
        one for one in await store.list_secrets(conn, row.id) if one.expires_at is None or one.expires_at > clerk.now
    ]
    if len(alive) >= MAX_SECRETS:
        raise Conflict(f"{len(alive)} secrets of this source still overlap: rotate once they have ended")
    await store.expire_secrets(conn, row.id, clerk.now + overlap)
    used_secret = secret or _new_secret()
    await _add_secret(conn, clerk, row.id, used_secret)
    detail = {"overlap_seconds": int(overlap.total_seconds())}
    await _audit(conn, clerk, "rotated", row.id, detail)
    return await show_source(conn, clerk, row.id, secret=used_secret)


async def delete(conn: AsyncConnection, clerk: Clerk, source: str) -> None:
    """Delete a source and its secrets; what it sent stays. Raises NotFound."""
    row = await _row(conn, source, lock=True)
    await store.delete_source(conn, row.id)
    detail = {"name": row.name}
    await _audit(conn, clerk, "deleted", row.id, detail)


async def _audit(conn: AsyncConnection, clerk: Clerk, action: str, source_id: str, detail: dict[str, Any]) -> None:
    subject = f"webhook_source/{source_id}"
    await access.audit(conn, clerk.principal, f"webhook_source.{action}", subject, detail, clerk.now)


def _check_list(clerk: Clerk, config: SourceConfig, *, has_account: bool) -> None:
    """Raise InvalidInput when a list is to be read that does not exist, or without an account."""
    if config.reconcile_every_minutes is None:
        return
    field = "config.reconcile_every_minutes"
    if config.paths is not None or config.scheme not in reconcilable(clerk.registry):
        raise InvalidInput("the events of this scheme can't be listed, or are not read as its vendor's", field=field)
    if not has_account:
        raise InvalidInput("name the `account` by which its events can be listed", field="account")


def _sealed(clerk: Clerk, source_id: str, account: SourceAccount | None) -> bytes | None:
    if account is None:
        return None
    return clerk.keyring.seal(account.model_dump_json().encode(), tenant=clerk.principal.organization_id, row=source_id)


def _is_alive(secret: Any, now: datetime) -> bool:
    return secret.expires_at is None or secret.expires_at > now


def _new_secret() -> str:
    return SECRET_PREFIX + random.token_hex(32)


async def _row(conn: AsyncConnection, source: str, *, lock: bool = False) -> Any:
    row = await store.find_source(conn, source, lock=lock)
    if row is None:
        raise NotFound("no such webhook source")
    return row


async def _add_secret(conn: AsyncConnection, clerk: Clerk, source_id: str, secret: str) -> None:
    secret_id, owner = new_id(), clerk.principal.organization_id
    values = {
        "id": secret_id,
        "organization_id": owner,
        "source_id": source_id,
        "sealed": clerk.keyring.seal(secret.encode(), tenant=owner, row=secret_id),
        "created_at": clerk.now,
    }
    await store.add_secret(conn, values)


async def _view(conn: AsyncConnection, clerk: Clerk, row: Any, secret: str | None) -> SourceView:
    address = f"{clerk.api_url.rstrip('/')}/api/integrations/webhooks"
    secrets = await store.list_secrets(conn, row.id)
    return SourceView(
        id=row.id,
        name=row.name,
        state=row.state,
        url=f"{address}/{row.path}",
        connection_url=f"{address}/{row.name}/{row.id}",
        config=SourceConfig.model_validate(row.config),
        has_account=row.account is not None,
        secrets=tuple(
            SecretView(id=one.id, created_at=one.created_at, expires_at=one.expires_at)
            for one in secrets
            if _is_alive(one, clerk.now)
        ),
        created_at=row.created_at,
        updated_at=row.updated_at,
        secret=secret,
    )
