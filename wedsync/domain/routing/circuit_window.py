"""Count call outcomes in a circuit's sliding window, by slices of time. Pure; time is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.errors import OutcomeUnknown, VendorUnavailable
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.value import Value
from wedsync.domain.vendors.call import Call

#: `ignored`: says nothing about health (a refusal, a bad credential, a full quota, a fault of our own).
Outcome = Literal["ok", "slow", "failed", "ignored"]

#: A window is kept in so many buckets.
BUCKETS = 10
#: A call that goes on failing counts once in so long where no probe says how the vendor is.
COUNTED_AGAIN_AFTER = timedelta(minutes=1)
#: A failed call is remembered so long after its last failure.
_REMEMBERED = timedelta(hours=1)
_MOST_REMEMBERED = 64


class Bucket(Value):
    """Calls of one slice of the window."""

    #: Its number since the epoch, in slices.
    slot: int
    ok: int = 0
    failed: int = 0
    slow: int = 0
    #: How many of them failed after the last good answer.
    in_row: int = 0


class FailedCall(Value):
    """A call that failed, with all its retries."""

    caller: str
    counted_at: datetime
    seen_at: datetime


class Tally(Value):
    """Outcomes of some calls; `slow` ones are good answers that came late and are not in `ok`."""

    ok: int = 0
    failed: int = 0
    slow: int = 0
    #: How many of them failed after the last good answer.
    in_row: int = 0

    @property
    def calls(self) -> int:
        """Count all calls that matter."""
        return self.ok + self.failed + self.slow

    def plus(self, outcome: Outcome) -> Tally:
        """Add one more call."""
        if outcome == "ignored":
            return self
        in_row = self.in_row + 1 if outcome == "failed" else 0
        return self.model_copy(update={outcome: getattr(self, outcome) + 1, "in_row": in_row})

    def then(self, later: Tally) -> Tally:
        """Append the calls of a later tally."""
        return Tally(
            ok=self.ok + later.ok,
            failed=self.failed + later.failed,
            slow=self.slow + later.slow,
            in_row=later.in_row + (0 if later.ok or later.slow else self.in_row),
        )


def classify_outcome(error: BaseException | None, seconds: float, policy: CircuitPolicy) -> Outcome:
    """Classify what a call says about the vendor's health. Only lost and certainly undone calls are failures."""
    if error is None:
        return "slow" if seconds >= policy.slow_seconds else "ok"
    return "failed" if isinstance(error, VendorUnavailable | OutcomeUnknown) else "ignored"


def caller_of(call: Call) -> str:
    """Name whoever makes the call, the same for all its retries: its wedding, step and operation.

    Empty for a call of no wedding: each counts by itself.
    """
    if not call.wedding_id:
        return ""
    names = (call.organization_id, call.wedding_id, call.step_id, call.operation)
    return hashlib.sha256("\x1f".join(names).encode()).hexdigest()[:16]


def tallied(
    outcomes: Iterable[tuple[Outcome, str]], known: Iterable[FailedCall], now: datetime, again_after: timedelta | None
) -> tuple[Tally, tuple[FailedCall, ...]]:
    """Count outcomes, each with its caller, and remember who failed.

    A call whose own fault makes it fail says nothing of the vendor, however often it is tried: its failures count once
    in `again_after`, or once altogether (None). A failure without a caller counts by itself.
    """
    tally, failed = Tally(), {one.caller: one for one in known if now - one.seen_at < _REMEMBERED}
    for outcome, caller in outcomes:
        before = failed.get(caller)
        if outcome == "failed" and caller:
            is_new = before is None or (again_after is not None and now - before.counted_at >= again_after)
            counted_at = now if before is None or is_new else before.counted_at
            failed.pop(caller, None)
            failed[caller] = FailedCall(caller=caller, counted_at=counted_at, seen_at=now)
            if not is_new:
                continue
        tally = tally.plus(outcome)
    return tally, tuple(failed.values())[-_MOST_REMEMBERED:]


def slot_of(now: datetime, policy: CircuitPolicy) -> int:
    """Return the number of the slice that `now` lies in."""
    return int(now.timestamp() // (policy.window_seconds / BUCKETS))


def merged(window: Collection[Bucket], tally: Tally, now: datetime, policy: CircuitPolicy) -> tuple[Bucket, ...]:
    """Count `tally` in the window's newest slice, at least the present one; drop what has slid out.

    A writer whose clock is a little behind counts where the others do, and removes nothing of theirs. A slice more
    than a whole window ahead was written by a wrong clock.
    """
    present = slot_of(now, policy)
    newest = max((bucket.slot for bucket in window if bucket.slot <= present + BUCKETS), default=present)
    newest = max(newest, present)
    kept = {bucket.slot: bucket for bucket in window if newest - BUCKETS < bucket.slot <= newest}
    if tally.calls:
        here = kept.get(newest, Bucket(slot=newest))
        both = Tally(ok=here.ok, failed=here.failed, slow=here.slow, in_row=here.in_row).then(tally)
        kept[newest] = Bucket(slot=newest, ok=both.ok, failed=both.failed, slow=both.slow, in_row=both.in_row)
    return tuple(kept[slot] for slot in sorted(kept))


def total(window: Iterable[Bucket]) -> Tally:
    """Add up the window's calls, its buckets in the order of time."""
    every = Tally()
    for b in window:
        every = every.then(Tally(ok=b.ok, failed=b.failed, slow=b.slow, in_row=b.in_row))
    return every


def is_failing(tally: Tally, policy: CircuitPolicy) -> str:
    """Say why these calls would open a circuit; empty: they would not."""
    if tally.calls < policy.min_calls:
        return ""
    if tally.failed / tally.calls >= policy.failure_rate:
        return "failure_rate"
    if tally.in_row >= policy.min_calls:
        return "failures_in_row"
    return "slow_calls" if (tally.failed + tally.slow) / tally.calls >= policy.slow_rate else ""
