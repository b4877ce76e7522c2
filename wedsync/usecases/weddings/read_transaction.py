"""Show a transaction with the steps that it covers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import NotFound
from wedsync.domain.weddings.messages import TransactionKind, TransactionStatus, wedding_workflow_id
from wedsync.domain.weddings.refusals import RUNNING
from wedsync.domain.weddings.step import StepError
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_wedding import StepView, View, step_view, wedding_row

#: `temporal_url(workflow_id, run_id)`: return where an operator reads it; None without a UI.
TemporalUrl = Callable[[str, str | None], str | None]


class TransactionView(View):
    """One all-or-accounted-for change of a wedding."""

    id: str
    wedding_id: str
    kind: TransactionKind
    status: TransactionStatus
    #: Failed steps that were allowed to fail.
    gaps: tuple[str, ...]
    #: Of an undo: what it undoes; None: everything.
    target: str | None
    #: Of an undo: `step.field` of what it touched that a later transaction had set anew.
    superseded: tuple[str, ...]
    #: Why it was refused or rolled back.
    error: StepError | None
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    #: The run of its wedding's workflow in the Temporal UI.
    temporal_url: str | None
    steps: tuple[StepView, ...]

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing more of it happens at once."""
        return self.status not in RUNNING


def temporal_links(ui_url: str, namespace: str) -> TemporalUrl:
    """Return the links into a Temporal UI; none when it has no URL."""
    base = f"{ui_url.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows"

    def link(workflow_id: str, run_id: str | None) -> str | None:
        run = f"/{quote(run_id, safe='')}/history" if run_id else ""
        return f"{base}/{quote(workflow_id, safe='')}{run}" if ui_url else None

    return link


async def read_transaction(
    conn: AsyncConnection, wedding: str, transaction_id: str, temporal_url: TemporalUrl
) -> TransactionView:
    """Return the transaction as it is now; raises NotFound."""
    wedding_id = (await wedding_row(conn, wedding)).id
    row = await transaction_row(conn, wedding_id, transaction_id)
    return await view_of(conn, row, temporal_url)


async def transaction_row(conn: AsyncConnection, wedding_id: str, transaction_id: str) -> Any:
    """Read the row of a transaction of the wedding; raises NotFound."""
    is_id = transaction_id.isascii() and transaction_id.isalnum()
    row = await store.find_transaction(conn, wedding_id, transaction_id) if is_id else None
    if row is None:
        raise NotFound("the wedding has no such transaction")
    return row


async def view_of(conn: AsyncConnection, row: Any, temporal_url: TemporalUrl) -> TransactionView:
    """Return the transaction of a row, with its steps as they are now."""
    steps = await store.read_steps(conn, row.wedding_id, row.step_ids) if row.step_ids else []
    return view_with(row, steps, temporal_url)


def view_with(row: Any, steps: Sequence[Any], temporal_url: TemporalUrl) -> TransactionView:
    """Return the transaction of a row with the rows of its steps."""
    copied = ("id", "wedding_id", "kind", "status", "gaps", "error", "requested_at", "started_at", "ended_at")
    return TransactionView(
        **{name: getattr(row, name) for name in copied},
        target=row.request.get("target"),
        superseded=tuple((row.result or {}).get("superseded", ())),
        temporal_url=temporal_url(wedding_workflow_id(row.wedding_id), row.run_id),
        steps=tuple(step_view(step) for step in steps),
    )
