"""Answer a wedding's queries. Pure functions on its carried state."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from wedsync.domain.weddings.agenda import UNBEGUN
from wedsync.domain.weddings.step import StepState
from wedsync.domain.weddings.wedding_state import Waiting, WeddingState


def plan(state: WeddingState, running: Iterable[StepState]) -> dict[str, JsonValue]:
    """Give each step's status, vendor and object; those of a running transaction as they stand now."""
    steps = {**state.states, **{step.step_id: step for step in running}}
    return {
        step_id: {"status": s.status, "vendor": s.vendor, "object": s.external_id, "round": s.round}
        for step_id, s in steps.items()
    }


def ledger(state: WeddingState) -> dict[str, JsonValue]:
    """Say what is booked, where, and by which transaction."""
    return {
        entry.step_id: {
            "vendor": entry.binding.vendor,
            "account": entry.binding.account,
            "state": entry.state,
            "fields": {name: field.model_dump(mode="json") for name, field in entry.fields.items()},
        }
        for entry in state.entries.values()
    }


def agenda(state: WeddingState) -> list[dict[str, JsonValue]]:
    """Say what is due when."""
    later = [s for s in state.states.values() if s.status in UNBEGUN]
    return [s.model_dump(mode="json", include={"step_id", "status", "due_at"}) for s in later]


def waiting(state: WeddingState) -> list[Waiting]:
    """Say what is waited for: vendors' events, decisions, rechecks."""
    steps = state.states.values()
    events = [
        Waiting(step_id=s.step_id, what=s.waits_for, object_id=s.external_id, until=s.deadline_at)
        for s in steps
        if s.status == "waiting"
    ]
    holds = [Waiting(step_id=s.step_id, what="decision", until=s.deadline_at) for s in steps if s.status == "held"]
    rechecks = [Waiting(step_id=r.entry.step_id, what="recheck", until=r.due_at) for r in state.rechecks]
    return [*events, *holds, *rechecks]
