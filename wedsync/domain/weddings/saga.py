"""Rules of the saga: which steps run, what a failure leads to, what is undone when. Pure; time is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.plans.plan import OnFailure, PlannedStep
from wedsync.domain.vendors.manifest import OperationSpec
from wedsync.domain.weddings.ledger import LedgerEntry
from wedsync.domain.weddings.messages import CompensationStatus, StepStatus, TransactionKind, TransactionStatus
from wedsync.domain.weddings.step import CompensationResult, StepState

#: Statuses that let a dependent step run.
SATISFYING: frozenset[StepStatus] = frozenset({"succeeded", "skipped"})
#: Statuses that no longer change by themselves.
FINAL: frozenset[StepStatus] = frozenset({"succeeded", "failed", "skipped"})

#: After an unknown outcome "it is not there" counts only this long after the call's own time-out.
SETTLING_SECONDS = 60.0

#: Waits between attempts on one vendor: doubling from the first to the cap, then jittered.
FIRST_DELAY_SECONDS = 0.5
DELAY_CAP_SECONDS = 30.0
#: After so many tries an outage is a long one: each further wait is a tenth longer than the one before.
TRIES_OF_A_SHORT_OUTAGE = 20
LONGEST_DELAY_SECONDS = 600.0
#: A run whose history has grown so long is continued as a new one at the next quiet point.
LONG_HISTORY_EVENTS = 4_000
#: A wedding with so many events behind it continues as new before it sleeps for over an hour: an evicted sleeper must
#: not replay months.
SLEEPY_HISTORY_EVENTS = 500
LONG_SLEEP = timedelta(hours=1)

#: How many attempts a vendor gets when another one stands ready.
ATTEMPTS_WITH_FALLBACK = 4

#: A vendor's full quota is waited for so long although another vendor stands ready.
LONGEST_QUOTA_WAIT_SECONDS = 60.0

_BASE32HEX = "0123456789abcdefghijklmnopqrstuv"


def idempotency_key(wedding_id: str, tx: str, step_id: str, operation: str, vendor: str, round_: int) -> str:
    """Make the key under which a vendor does a call once: 43 characters, the same for every attempt of a round."""
    text = "\x1f".join((wedding_id, tx, step_id, operation, vendor, str(round_)))
    return "ws-" + hashlib.sha256(text.encode()).hexdigest()[:40]


def reference(wedding_id: str, tx: str, step_id: str, vendor: str, round_: int) -> str:
    """Name an effect: 32 characters of [0-9a-v], the alphabet of the strictest vendor (Google's event ids)."""
    digest = hashlib.sha256("\x1f".join((wedding_id, tx, step_id, vendor, str(round_))).encode()).digest()
    return "".join(_BASE32HEX[byte & 31] for byte in digest[:32])


def delay_seconds(attempt: int, jitter: float) -> float:
    """Return the wait after failed attempt number `attempt` (1, 2, ...); `jitter` in [0, 1) takes off up to a fifth."""
    short = min(attempt, TRIES_OF_A_SHORT_OUTAGE)
    full = min(FIRST_DELAY_SECONDS * 2 ** (short - 1), DELAY_CAP_SECONDS)
    # The power's exponent is bounded: a step may be tried for days.
    full = min(full * 1.1 ** min(attempt - short, 100), LONGEST_DELAY_SECONDS)
    return float(full * (1 - 0.2 * jitter))


def may_give_up(
    attempt: int, *, fallback_ready: bool, now: datetime, give_up_at: datetime, is_cut_off: bool = False
) -> bool:
    """Tell whether a failing vendor is left: after a few tries if another can do it, else when time is up.

    `is_cut_off`: its circuit lets no call through, as other calls found it failing: no try is needed to know that.
    """
    return now >= give_up_at or (fallback_ready and (is_cut_off or attempt >= ATTEMPTS_WITH_FALLBACK))


def settled_absent_at(last_sent_at: datetime, start_to_close_seconds: float) -> datetime:
    """Return when "not found" begins to mean "it did not happen" for a call last sent at `last_sent_at`."""
    return last_sent_at + timedelta(seconds=start_to_close_seconds + SETTLING_SECONDS)


def may_resend(
    operation: OperationSpec, *, now: datetime, last_sent_at: datetime, start_to_close_seconds: float
) -> bool:
    """Tell whether a call with an unknown outcome, which a `find` did not find, may be sent again now."""
    if operation.read or operation.on_unknown == "replay" or operation.refuses_duplicates:
        return True
    return operation.on_unknown == "find" and now >= settled_absent_at(last_sent_at, start_to_close_seconds)


def may_replay(operation: OperationSpec, *, now: datetime, first_sent_at: datetime, idempotency_hours: float) -> bool:
    """Tell whether the same call under the same key still can't double the effect: within the vendor's life of keys.

    An operation that is declared `replay` at a vendor without keys is idempotent by itself, for ever.
    """
    if operation.on_unknown != "replay" or idempotency_hours <= 0 or operation.harmless or operation.read:
        return True
    return now < first_sent_at + timedelta(hours=idempotency_hours)


FailureDecision = Literal["rollback", "hold", "continue"]


def on_step_failure(on_failure: OnFailure, kind: TransactionKind, *, unknown: bool) -> FailureDecision:
    """Decide what a step's failure does to its transaction: an unknown outcome always needs a person; for a scheduled
    step `rollback` means `hold`. A change never stays half done: any failure puts all of it back.
    """
    if kind in ("timeline", "detail"):
        return "rollback"
    if unknown:
        return "hold"
    if on_failure == "rollback" and kind == "scheduled":
        return "hold"
    return on_failure


def ready(
    steps: Iterable[PlannedStep], status: Mapping[str, StepStatus], satisfied: Collection[str]
) -> list[PlannedStep]:
    """Return the pending steps whose every need has succeeded or been skipped, in plan order."""
    return [
        step
        for step in steps
        if status[step.id] == "pending"
        and all(need in satisfied or status.get(need) in SATISFYING for need in step.needs)
    ]


def doomed(
    steps: Iterable[PlannedStep], status: Mapping[str, StepStatus], satisfied: Collection[str]
) -> list[PlannedStep]:
    """Return the pending steps with a need that failed, here or in an earlier transaction: they can't run."""

    def is_lost(need: str) -> bool:
        return status.get(need) == "failed" or (need not in status and need not in satisfied)

    return [step for step in steps if status[step.id] == "pending" and any(is_lost(need) for need in step.needs)]


def changed_elsewhere(vendor: str, link: str) -> str:
    """Say why an effect is not undone: somebody changed it at the vendor."""
    where = f" ({link})" if link else ""
    return f"changed at {vendor} since we wrote it{where}: look at it; undo again to remove it all the same"


def dependents(entries: Collection[str], needs: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Return, for each entry, the others that depend on it, directly or not: they are undone first."""
    found: dict[str, set[str]] = {entry: set() for entry in entries}
    for start in entries:
        seen: set[str] = set()
        stack = list(needs.get(start, ()))
        while stack:
            step = stack.pop()
            if step in seen:
                continue
            seen.add(step)
            stack.extend(needs.get(step, ()))
        for step in seen & set(entries):
            found[step].add(start)
    return {entry: frozenset(others - {entry}) for entry, others in found.items()}


def transaction_status(
    states: Iterable[StepState],
    *,
    rolled_back: bool = False,
    cancelled: bool = False,
    parked: bool = False,
) -> TransactionStatus:
    """Derive a transaction's status from its steps, once nothing of it can happen by itself."""
    if parked or (rolled_back and any(needs_attention(state.compensation) for state in states)):
        return "needs_attention"
    if cancelled:
        return "cancelled"
    if rolled_back:
        return "rolled_back"
    statuses = [state.status for state in states]
    if "held" in statuses:
        return "held"
    if "waiting" in statuses:
        return "waiting"
    return "completed"


def needs_attention(compensation: CompensationResult | None) -> bool:
    """Tell whether an undo waits for a person."""
    return compensation is not None and compensation.status == "needs_attention"


def gaps(states: Iterable[StepState]) -> tuple[str, ...]:
    """Return the failed steps of a completed transaction, sorted."""
    return tuple(sorted(state.step_id for state in states if state.status == "failed"))


def may_have_happened(entry: LedgerEntry) -> bool:
    """Tell whether the vendor may hold anything of the entry."""
    return entry.state != "undone" and bool(entry.done or entry.unknown_operation)


def undo_of_lost(state: StepState) -> CompensationResult:
    """Return the undo of a step whose effect at its vendor is unknown: a person checks, and then requests it again."""
    if needs_attention(state.compensation):
        return CompensationResult(status="undone", detail="asked for again by who was told to look")
    detail = "its transaction was lost: look at the vendor, and undo again once nothing of it is left there"
    return CompensationResult(status="needs_attention", detail=detail)


UndoPlan = Literal["call", "find_first", "replay_first", "counter", "leave", "hand", "ask", "nothing"]


def undo_is_final(entry: LedgerEntry, found: CompensationStatus) -> bool:
    """Tell whether the result of an undo is final at once.

    "Nothing to undo" is not, while a write of the step with an unknown outcome can still take effect.
    """
    lost = entry.lost_operation()
    return found != "nothing_to_undo" or lost is None or lost.harmless


def undo_plan(entry: LedgerEntry, step: PlannedStep) -> tuple[UndoPlan, str]:
    """Decide how an effect is undone, and say why."""
    spec = entry.binding.spec
    if not may_have_happened(entry):
        return "nothing", "nothing was done"
    lost = entry.lost_operation()
    if spec.operations and all(operation.read for operation in spec.operations):
        return "nothing", "a read leaves nothing behind"
    if step.compensation.by == "none":
        return "leave", "left standing, as the plan says"
    if lost is not None and lost.on_unknown == "unsafe":
        return "ask", "may have happened, and the vendor can't be asked"
    if step.compensation.by == "hand" or spec.undo_manual or spec.manual:
        return "hand", "to be undone by hand"
    if spec.undo == "none" or (spec.undo == "counter" and not entry.binding.counter_text):
        return "leave", "a sent message can't be unsent"
    if spec.undo == "counter":
        return "counter", "a counter-message is sent"
    if lost is None:
        return "call", ""
    if lost.harmless:
        return ("call", "") if entry.external_id else ("nothing", "only a call without effect was lost")
    if lost.on_unknown == "find":
        # Also if earlier operations left an object: the lost operation's object has an id of its own.
        return "find_first", "the outcome is looked up first"
    return ("call" if entry.external_id else "replay_first"), "the outcome is looked up first"
