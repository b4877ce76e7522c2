"""Read the audit log, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import decode_cursor, encode_cursor
from wedsync.domain.errors import InvalidInput
from wedsync.store.access import queries as access
from wedsync.store.access.queries import AuditQuery

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_DIGITS = 18


class AuditEntry(BaseModel):
    """One action: who did what to what, when."""

    model_config = ConfigDict(frozen=True)

    id: int
    organization_id: str
    at: datetime
    #: `key:<id>`, or `system:<program>` for what a program did by itself.
    actor: str
    #: `service.configured`, `quota.limited`, `transaction.requested`, ...
    action: str
    #: `service/stripe`, `wedding/<id>`, ...
    subject: str
    detail: dict[str, JsonValue]


class AuditPage(BaseModel):
    """A page, newest first; `next_cursor` requests what follows, None: there is no more."""

    model_config = ConfigDict(frozen=True)

    data: tuple[AuditEntry, ...]
    next_cursor: str | None


async def list_audit(conn: AsyncConnection, query: AuditQuery, *, limit: int, cursor: str | None) -> AuditPage:
    """Read a page that the connection may see: within `tenant()` its organization's, within `system()` everybody's.

    Raises InvalidInput (`since` not before `until`, or reason="invalid_cursor").
    """
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise InvalidInput("`since` must be before `until`", field="since")
    rows = await access.page_audit(conn, query, before=_place(cursor) if cursor else None, limit=limit + 1)
    shown = rows[:limit]
    return AuditPage(
        data=tuple(AuditEntry.model_validate(dict(row._mapping)) for row in shown),
        next_cursor=_cursor(shown[-1]) if len(rows) > limit else None,
    )


def _cursor(row: Any) -> str:
    return encode_cursor(f"{(row.at - _EPOCH) // timedelta(microseconds=1)}-{row.id}")


def _place(cursor: str) -> tuple[datetime, int]:
    moment, _, row_id = decode_cursor(cursor).partition("-")
    if not all(part.isdigit() and len(part) <= _MOST_DIGITS for part in (moment, row_id)):
        raise InvalidInput("the cursor is not one that a list gave", field="cursor", reason="invalid_cursor")
    try:
        return _EPOCH + timedelta(microseconds=int(moment)), int(row_id)
    except OverflowError:
        raise InvalidInput("the cursor is not one that a list gave", field="cursor", reason="invalid_cursor") from None
