"""Find the newest known answer to a read whose vendors are all down."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import JsonValue

from wedsync.domain.plans import when_down
from wedsync.domain.weddings.messages import Message
from wedsync.store.db.session import Database
from wedsync.store.weddings import answers


class RecallAnswer(Message):
    """A question, and how old its answer may be."""

    organization_id: str
    action: str
    inputs: dict[str, JsonValue]
    max_age_seconds: int
    now: datetime


class RecalledAnswer(Message):
    """An answer; `results` is None when there is none that is young enough."""

    results: dict[str, JsonValue] | None = None
    vendor: str = ""
    age_seconds: float = 0.0


async def recall_answer(db: Database, wanted: RecallAnswer) -> RecalledAnswer:
    """Return the organization's newest answer to the same question, whoever gave it. Raises StoreUnavailable."""
    since = wanted.now - timedelta(seconds=wanted.max_age_seconds)
    async with db.tenant(wanted.organization_id) as conn:
        known = await answers.recall(conn, when_down.question(wanted.action, wanted.inputs), since)
    if known is None:
        return RecalledAnswer()
    age_seconds = max((wanted.now - known.answered_at).total_seconds(), 0.0)
    return RecalledAnswer(results=known.facts, vendor=known.vendor, age_seconds=age_seconds)
