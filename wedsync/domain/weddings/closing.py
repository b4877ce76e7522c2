"""Decide when a wedding that was cancelled, or whose time is over, really ends. Pure; time is an argument."""

from __future__ import annotations

from datetime import datetime, timedelta

from wedsync.domain.weddings.wedding_state import Closing, ClosingStatus, WeddingState

#: Open matters keep it so long after the wedding's own end, and no longer.
LONGEST_CLOSING = timedelta(days=60)


def open_matters(state: WeddingState) -> tuple[str, ...]:
    """List the steps with an open matter, sorted.

    A recheck, an undo that needs a person, a vendor event to come, or a decision.
    """
    found = {recheck.entry.step_id for recheck in state.rechecks}
    found |= {entry.step_id for entry in state.entries.values() if entry.state == "parked"}
    found |= {entry.step_id for entry in state.leftovers}
    for step in state.states.values():
        needs_attention = step.compensation is not None and step.compensation.status == "needs_attention"
        if needs_attention or step.status in ("waiting", "held"):
            found.add(step.step_id)
    return tuple(sorted(found))


def closing_as(becomes: ClosingStatus, ends_at: datetime, now: datetime) -> Closing:
    """Make a closing that begins now."""
    return Closing(becomes=becomes, until=max(now, ends_at) + LONGEST_CLOSING)


def end(state: WeddingState, becomes: ClosingStatus, now: datetime) -> WeddingState:
    """End the wedding now; it lives on as `closing` while a matter is open."""
    if not open_matters(state):
        return state.ending_as(becomes, None)
    return state.ending_as("closing", closing_as(becomes, state.compiled.ends_at, now))


def is_closed(state: WeddingState, now: datetime) -> bool:
    """Tell whether nothing keeps a closing wedding any longer: no open matter, or no more time for it."""
    return state.closing is not None and (now >= state.closing.until or not open_matters(state))
