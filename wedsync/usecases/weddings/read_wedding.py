"""Show a wedding: its state, its steps, its transactions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import NotFound
from wedsync.domain.weddings.messages import StepStatus, TransactionKind, TransactionStatus
from wedsync.domain.weddings.step import CompensationResult, StepError
from wedsync.store.db.session import Database
from wedsync.store.weddings import queries as store

_WEDDING = re.compile(r"[0-9A-Za-z-]{1,63}")


class View(BaseModel):
    """A frozen view for the API."""

    model_config = ConfigDict(frozen=True)


class StepView(View):
    """One step as it is now."""

    id: str
    service: str
    capability: str
    action: str
    status: StepStatus
    vendor: str | None
    fallback_used: bool
    attempts: int
    external_id: str | None
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    error: StepError | None
    compensation: CompensationResult | None
    #: The transaction that last worked on it.
    transaction_id: str | None


class CeremonyView(View):
    """A time: the clock on the venue's wall, its zone, and the instant last resolved from them."""

    local: str
    zone: str
    instant: datetime


class TransactionSummary(View):
    """One transaction in a wedding's list."""

    id: str
    kind: TransactionKind
    status: TransactionStatus
    requested_at: datetime
    ended_at: datetime | None


class WeddingSummary(View):
    """One wedding in the list."""

    id: str
    #: The plan's own id.
    reference: str
    #: planned, active, closing, cancelled, ended
    status: str
    #: preparation, ceremony, reception, cleanup
    phase: str
    #: normal, wedding_day
    mode: str
    ceremony: CeremonyView
    plan_version: int
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class WeddingView(WeddingSummary):
    """A wedding with its steps in plan order and its transactions, oldest first."""

    steps: tuple[StepView, ...]
    transactions: tuple[TransactionSummary, ...]


def step_view(row: Any) -> StepView:
    """Return a step's row as it is shown."""
    values = {name: getattr(row, name) for name in StepView.model_fields if name != "id"}
    return StepView(id=row.step_id, **values)


def summary_values(row: Any) -> dict[str, Any]:
    """Return a wedding's row by the names of WeddingSummary."""
    names = [name for name in WeddingSummary.model_fields if name != "ceremony"]
    ceremony = CeremonyView(local=row.ceremony_local, zone=row.zone, instant=row.ceremony_at)
    return {"ceremony": ceremony, **{name: getattr(row, name) for name in names}}


async def wedding_row(conn: AsyncConnection, wedding: str, *, lock: bool = False) -> Any:
    """Read the row of a wedding named by its id or its plan's own id; raises NotFound."""
    _require_name(wedding)
    row = await store.find_wedding(conn, wedding, lock=lock)
    if row is None:
        raise NotFound("no such wedding")
    return row


async def read_wedding(db: Database, organization_id: str, wedding: str) -> WeddingView:
    """Return the wedding as it is now; raises NotFound."""
    _require_name(wedding)
    found, steps, transactions = await db.read(
        organization_id, store.finding(wedding), store.finding_steps(wedding), store.finding_transactions(wedding)
    )
    return WeddingView(
        **summary_values(_one(found)),
        steps=tuple(step_view(step) for step in steps),
        transactions=tuple(_transaction_summary(row) for row in transactions),
    )


async def read_steps(db: Database, organization_id: str, wedding: str) -> tuple[StepView, ...]:
    """List the wedding's steps in plan order; raises NotFound."""
    _require_name(wedding)
    found, steps = await db.read(organization_id, store.finding(wedding), store.finding_steps(wedding))
    _one(found)
    return tuple(step_view(step) for step in steps)


def _transaction_summary(row: Any) -> TransactionSummary:
    return TransactionSummary(**{name: getattr(row, name) for name in TransactionSummary.model_fields})


def _require_name(wedding: str) -> None:
    if not _WEDDING.fullmatch(wedding):
        raise NotFound("no such wedding")


def _one(found: list[Any]) -> Any:
    if not found:
        raise NotFound("no such wedding")
    return found[0]
