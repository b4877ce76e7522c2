"""Newest answers to reads, for the time when no vendor can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.store.weddings.tables import read_answers


@dataclass(frozen=True)
class KnownAnswer:
    """A vendor's answer, and its time."""

    vendor: str
    facts: dict[str, Any]
    answered_at: datetime


async def remember(
    conn: AsyncConnection, organization_id: str, question: str, vendor: str, facts: Mapping[str, Any], now: datetime
) -> None:
    """Keep an answer; an older one never replaces a newer."""
    values = {"vendor": vendor, "facts": dict(facts), "answered_at": now}
    made = insert(read_answers).values(organization_id=organization_id, question=question, **values)
    newer = made.on_conflict_do_update(
        index_elements=["organization_id", "question"], set_=values, where=read_answers.c.answered_at <= now
    )
    await conn.execute(newer)


async def recall(conn: AsyncConnection, question: str, since: datetime) -> KnownAnswer | None:
    """Return the newest answer to a question, if it is not older than `since`."""
    found = select(read_answers.c.vendor, read_answers.c.facts, read_answers.c.answered_at).where(
        read_answers.c.question == question, read_answers.c.answered_at >= since
    )
    row = (await conn.execute(found)).one_or_none()
    return None if row is None else KnownAnswer(row.vendor, row.facts, row.answered_at)
