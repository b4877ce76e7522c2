"""What users list and ask for, in Postgres: weddings, steps, transactions, events. All within `tenant()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, or_, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.tables.weddings import plans, steps, transactions, wedding_events, weddings

_NEXT_SEQ = text("UPDATE weddings SET transaction_seq = transaction_seq + 1 WHERE id = :id RETURNING transaction_seq")


async def add_wedding(conn: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Insert a wedding; False when its reference, or its id, is taken."""
    statement = upsert(weddings).values(dict(values)).on_conflict_do_nothing().returning(weddings.c.id)
    return (await conn.execute(statement)).first() is not None


async def add_plan(conn: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Insert a version of a plan."""
    await conn.execute(insert(plans).values(dict(values)))


async def add_steps(conn: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert a wedding's steps."""
    await conn.execute(insert(steps), [dict(row) for row in rows])


async def find_wedding(conn: AsyncConnection, wedding: str, *, lock: bool = False) -> Any | None:
    """The wedding's row by its id or by its plan's own id; None when there is none.

    With `lock` nobody else changes the wedding until this transaction ends.
    """
    query = select(weddings).where(or_(weddings.c.id == wedding, weddings.c.reference == wedding))
    if lock:
        query = query.with_for_update(key_share=True)
    return (await conn.execute(query)).first()


async def page_weddings(conn: AsyncConnection, organization_id: str, limit: int, before: str | None) -> list[Any]:
    """Up to `limit` weddings, newest first, with ids below `before`."""
    query = select(weddings).where(weddings.c.organization_id == organization_id)
    if before is not None:
        query = query.where(weddings.c.id < before)
    return list((await conn.execute(query.order_by(weddings.c.id.desc()).limit(limit))).all())


async def read_steps(conn: AsyncConnection, wedding_id: str, step_ids: Sequence[str] | None = None) -> list[Any]:
    """The wedding's steps in plan order; only `step_ids` when they are given."""
    query = select(steps).where(steps.c.wedding_id == wedding_id).order_by(steps.c.position)
    if step_ids is not None:
        query = query.where(steps.c.step_id.in_(step_ids))
    return list((await conn.execute(query)).all())


async def read_transactions(conn: AsyncConnection, wedding_id: str) -> list[Any]:
    """The wedding's transactions, oldest first."""
    query = select(transactions).where(transactions.c.wedding_id == wedding_id)
    return list((await conn.execute(query.order_by(transactions.c.requested_at, transactions.c.id))).all())


async def find_transaction(conn: AsyncConnection, wedding_id: str, transaction_id: str) -> Any | None:
    """One transaction of the wedding; None when there is none."""
    query = select(transactions).where(transactions.c.wedding_id == wedding_id, transactions.c.id == transaction_id)
    return (await conn.execute(query)).first()


async def next_seq(conn: AsyncConnection, wedding_id: str) -> int:
    """The number of the wedding's next transaction; locks the wedding."""
    return int((await conn.execute(_NEXT_SEQ, {"id": wedding_id})).scalar_one())


async def add_transaction(conn: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Insert a transaction that nobody was told of yet."""
    await conn.execute(insert(transactions).values(dict(values)))


async def read_events(conn: AsyncConnection, wedding_id: str, after: int, limit: int) -> list[Any]:
    """Up to `limit` events of the wedding with ids above `after`, in order."""
    query = select(wedding_events.c.id, wedding_events.c.type, wedding_events.c.data).where(
        wedding_events.c.wedding_id == wedding_id, wedding_events.c.id > after
    )
    return list((await conn.execute(query.order_by(wedding_events.c.id).limit(limit))).all())


async def read_revision(conn: AsyncConnection) -> str | None:
    """The migration that the database stands at."""
    found = (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    return None if found is None else str(found)


def opening(now: datetime) -> dict[str, Any]:
    """What every new wedding's row begins with."""
    return {"status": "planned", "phase": "preparation", "mode": "normal", "plan_version": 1,
            "created_at": now, "updated_at": now}  # fmt: skip
