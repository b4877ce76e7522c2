"""Decide what a wedding does next: due steps, the next wake, the phase. Pure; time is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.plans.plan import PlannedStep, Window
from wedsync.domain.weddings.ledger import Recheck
from wedsync.domain.weddings.messages import StepStatus, TransactionStatus
from wedsync.domain.weddings.saga import FINAL, gaps
from wedsync.domain.weddings.step import StepState

#: The reception begins so long after the ceremony, the clean-up so long after that.
RECEPTION_AFTER = timedelta(hours=1)
CLEANUP_AFTER = timedelta(hours=9)
#: Wedding-day mode is on from so long before the ceremony until so long after it.
WEDDING_DAY_BEFORE = timedelta(hours=24)
WEDDING_DAY_AFTER = timedelta(hours=12)

#: Statuses of a step that has not begun.
UNBEGUN: frozenset[StepStatus] = frozenset({"pending", "scheduled"})


def phase_at(now: datetime, ceremony_at: datetime) -> Window:
    """Return the service window that `now` falls in."""
    if now < ceremony_at:
        return "preparation"
    if now < ceremony_at + RECEPTION_AFTER:
        return "ceremony"
    return "reception" if now < ceremony_at + CLEANUP_AFTER else "cleanup"


def mode_at(now: datetime, ceremony_at: datetime) -> Literal["normal", "wedding_day"]:
    """Return the mode: `wedding_day` around the ceremony."""
    near = ceremony_at - WEDDING_DAY_BEFORE <= now < ceremony_at + WEDDING_DAY_AFTER
    return "wedding_day" if near else "normal"


def turning_points(ceremony_at: datetime, ends_at: datetime) -> tuple[datetime, ...]:
    """Return, in order, the moments when the phase or the mode changes, and the end."""
    points = {
        ceremony_at - WEDDING_DAY_BEFORE,
        ceremony_at,
        ceremony_at + RECEPTION_AFTER,
        ceremony_at + CLEANUP_AFTER,
        ceremony_at + WEDDING_DAY_AFTER,
        ends_at,
    }
    return tuple(sorted(points))


def due_steps(
    steps: Iterable[PlannedStep],
    states: Mapping[str, StepState],
    now: datetime,
    settling: Iterable[str] = (),
) -> list[PlannedStep]:
    """Return the steps that a transaction started now would carry out, in plan order.

    A step is due when its own time has come (or it has none) and each of its needs is over or due with it. `settling`
    names steps whose answer this transaction brings.
    """
    chosen: dict[str, PlannedStep] = {}
    over = {step_id for step_id, state in states.items() if state.status in FINAL} | set(settling)
    for step in steps:
        state = states[step.id]
        if state.status not in UNBEGUN or step.id in over:
            continue
        if step.at is not None and (state.due_at is None or state.due_at > now):
            continue
        if all(need in over or need in chosen for need in step.needs):
            chosen[step.id] = step
    return list(chosen.values())


def next_wake(
    states: Iterable[StepState],
    rechecks: Iterable[Recheck],
    points: Iterable[datetime],
    now: datetime,
    longest: timedelta,
) -> datetime:
    """Return the next instant at which something is due, at most `longest` from now."""
    instants = [recheck.due_at for recheck in rechecks]
    for state in states:
        if state.status in UNBEGUN and state.due_at is not None:
            instants.append(state.due_at)
        if state.status in ("waiting", "held"):
            instants += [instant for instant in (state.deadline_at, state.remind_at) if instant is not None]
    ahead = [instant for instant in (*instants, *points) if instant > now]
    return min([*ahead, now + longest])


def overdue(states: Iterable[StepState], status: Literal["waiting", "held"], now: datetime) -> list[StepState]:
    """Return the waiting or held steps whose deadline has passed."""
    return [s for s in states if s.status == status and s.deadline_at is not None and s.deadline_at <= now]


def to_remind(states: Iterable[StepState], now: datetime) -> list[StepState]:
    """Return the held steps whose people are to be reminded."""
    return [s for s in states if s.status == "held" and s.remind_at is not None and s.remind_at <= now]


def folded_status(states: Iterable[StepState]) -> TransactionStatus:
    """Return the status of a settled transaction, now that later ones answered what it waited for.

    Steps that have not begun belong to the agenda and don't count.
    """
    statuses = {state.status for state in states}
    if "held" in statuses:
        return "held"
    return "waiting" if "waiting" in statuses else "completed"


def folded_gaps(states: Iterable[StepState]) -> tuple[str, ...]:
    """Return the failed steps of a folded transaction."""
    return gaps(states)


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def own_transaction_id(wedding_id: str, number: int) -> str:
    """Name the transaction that a wedding's own agenda begins: a ULID's shape, the same for the same number.

    A run that an operator has reset begins it under the same name, so that its effects are known.
    """
    digest = hashlib.sha256(f"{wedding_id}/{number}".encode()).digest()
    value = (number << 80) | int.from_bytes(digest[:10], "big")
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))
