"""List, assign and replay the inbox's rows for operators. Within `system()`; the scope says whose rows count."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, false, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.inbox.tables import inbox


class Scope(NamedTuple):
    """Whose rows are visible: an organization's own, and, to the platform's operators, those that are nobody's yet."""

    organization_id: str
    is_operator: bool

    def covers(self) -> ColumnElement[bool]:
        """Select the rows in it."""
        nobodys = inbox.c.organization_id.is_(null()) if self.is_operator else false()
        return or_(inbox.c.organization_id == self.organization_id, nobodys)


async def page(
    conn: AsyncConnection, scope: Scope, *, state: str | None, source: str | None, before: int | None, limit: int
) -> list[Any]:
    """Read up to `limit` rows, newest first, with ids below `before`."""
    query = select(inbox).where(scope.covers())
    if state is not None:
        query = query.where(inbox.c.state == state)
    if source is not None:
        query = query.where(inbox.c.source == source)
    if before is not None:
        query = query.where(inbox.c.id < before)
    return list((await conn.execute(query.order_by(inbox.c.id.desc()).limit(limit))).all())


async def find(conn: AsyncConnection, scope: Scope, row_id: int, *, lock: bool = False) -> Any | None:
    """Read one row; None: there is none in the scope."""
    query = select(inbox).where(scope.covers(), inbox.c.id == row_id)
    return (await conn.execute(query.with_for_update() if lock else query)).first()


async def assign(
    conn: AsyncConnection, row_id: int, organization_id: str, wedding_id: str, step_id: str | None, now: datetime
) -> int:
    """Have the row's event name this wedding and step, due at once; returns its priority."""
    named = func.jsonb_build_object("wedding_id", wedding_id, "step_id", step_id, type_=JSONB)
    statement = (
        update(inbox)
        .where(inbox.c.id == row_id)
        .values(
            event=inbox.c.event.op("||")(named),
            organization_id=organization_id,
            state="received",
            attempts=0,
            error=None,
            first_looked_at=None,
            due_at=now,
        )
        .returning(inbox.c.priority)
    )
    return int((await conn.execute(statement)).scalar_one())


async def replay(
    conn: AsyncConnection,
    scope: Scope,
    now: datetime,
    *,
    states: Sequence[str],
    ids: Sequence[int] | None,
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[tuple[int, int]]:
    """Make rows due again with no attempts: returns `(id, priority)` of each. Rows claimed elsewhere are left out."""
    conditions = [scope.covers(), inbox.c.state.in_(states)]
    if ids is not None:
        conditions.append(inbox.c.id.in_(ids))
    if source is not None:
        conditions.append(inbox.c.source == source)
    if since is not None:
        conditions.append(inbox.c.received_at >= since)
    if until is not None:
        conditions.append(inbox.c.received_at < until)
    chosen = (
        select(inbox.c.id)
        .where(and_(*conditions))
        .order_by(inbox.c.priority, inbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(inbox)
        .where(inbox.c.id.in_(chosen.scalar_subquery()))
        .values(state="received", attempts=0, error=None, first_looked_at=None, due_at=now)
        .returning(inbox.c.id, inbox.c.priority)
    )
    return [(row.id, row.priority) for row in await conn.execute(statement)]
