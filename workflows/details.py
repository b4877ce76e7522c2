"""Write what an operator reads in the Temporal UI: short Markdown, ids and states only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.weddings.step import StepState


def _row(state: StepState) -> str:
    what: list[str] = [state.status]
    if state.compensation is not None:
        what.append(f"undo: {state.compensation.status}")
    if state.error is not None:
        what.append(state.error.code)
    due = f"due {state.due_at:%Y-%m-%d %H:%M} UTC" if state.due_at and state.status == "scheduled" else ""
    return f"| {state.step_id} | {', '.join(what)} | {state.vendor or ''} | {state.external_id or due} |"


def steps_table(states: Iterable[StepState]) -> str:
    """Return a table of steps."""
    return "\n".join(("| step | state | vendor | object |", "|---|---|---|---|", *(_row(state) for state in states)))


def transaction_details(status: str, states: Iterable[StepState]) -> str:
    """Return a transaction's state and its steps."""
    return f"**{status}**\n\n{steps_table(states)}"


def wedding_details(headline: str, states: Iterable[StepState]) -> str:
    """Return a wedding's state and all its steps."""
    return f"{headline}\n\n{steps_table(states)}"


def upsert_changed(updates: Iterable[SearchAttributeUpdate[Any]]) -> None:
    """Upsert the search attributes that differ: each upsert is an event and a write of the visibility store."""
    known = workflow.info().typed_search_attributes
    changed = [update for update in updates if (known.get(update.key) or None) != (update.value or None)]
    if changed:
        workflow.upsert_search_attributes(changed)
