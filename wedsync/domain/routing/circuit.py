"""The circuit breaker of one service's endpoint: values in, the next circuit out. Pure; time is an argument.

closed → open when failures, or slow calls, pass their rate over a sliding window with enough calls in it, or when as
many in a row have failed (a busy vendor's good minutes don't hide its end). open → probed once `open_until` has passed
(half-open is lazy: no timer is needed for it): exactly `probes` calls are let through in a round. All of them good →
ramping, 10 % and 50 % of the traffic that has somewhere else to go, then closed. One of them bad, or the first failure
while ramping → open again, for longer. `draining` leaves a service in steps, on purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from wedsync.domain.errors import OutcomeUnknown, VendorUnavailable
from wedsync.domain.routing.vendor import Value

State = Literal["closed", "draining", "open", "ramping"]
Phase = Literal["closed", "draining", "open", "half_open", "ramping"]
#: `ignored`: says nothing about health (a refusal, a bad credential, a full quota, a fault of our own).
Outcome = Literal["ok", "slow", "failed", "ignored"]
Forced = Literal["open", "closed"]
Admission = Literal["pass", "probe", "refuse"]

#: A window is kept in so many buckets.
BUCKETS = 10
#: Without its guard a ramp (or a drain) goes on by itself, so many times slower.
UNGUARDED_PACE = 3
#: The reason of a circuit that a person wants back: it comes back amid a ceremony, too.
RESTORE_ASKED = "restore_asked"
#: How long a service cut off by hand stays so before it is looked at again.
_LONG = timedelta(days=3650)


class CircuitPolicy(Value):
    """When a circuit opens, for how long, and how it closes again."""

    window_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    #: Fewer calls in the window prove nothing.
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    #: A good answer that took so long is slow.
    slow_seconds: Annotated[float, Field(gt=0, le=600)] = 6.0
    slow_rate: Annotated[float, Field(gt=0, le=1)] = 0.8
    #: The first opening; each further one in a row lasts `open_growth` times as long, up to the cap.
    open_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    open_growth: Annotated[float, Field(ge=1, le=10)] = 2.0
    open_cap_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    #: How many calls a half-open circuit lets through.
    probes: Annotated[int, Field(ge=1, le=100)] = 3
    #: Percent of traffic at each stage on the way back; 100 follows.
    ramp: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (10, 50)
    ramp_step_seconds: Annotated[float, Field(gt=0, le=86_400)] = 15.0
    #: Percent of traffic at each stage of a drain; none follows.
    drain: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (50, 10)

    def on_wedding_day(self) -> CircuitPolicy:
        """The same around a dependent wedding: leaves sooner, looks again sooner. Never switched off."""
        return self.model_copy(
            update={
                "min_calls": max(1, self.min_calls // 2),
                "open_cap_seconds": min(self.open_cap_seconds, 3 * self.open_seconds),
            }
        )


class Bucket(Value):
    """Calls of one slice of the window."""

    #: Its number since the epoch, in slices.
    slot: int
    ok: int = 0
    failed: int = 0
    slow: int = 0
    #: How many of them failed after the last good answer.
    in_row: int = 0


class Tally(Value):
    """Outcomes of some calls; `slow` ones are good answers that came late and are not in `ok`."""

    ok: int = 0
    failed: int = 0
    slow: int = 0
    #: How many of them failed after the last good answer.
    in_row: int = 0

    @property
    def calls(self) -> int:
        """All that count."""
        return self.ok + self.failed + self.slow

    def plus(self, outcome: Outcome) -> Tally:
        """With one more call."""
        if outcome == "ignored":
            return self
        in_row = self.in_row + 1 if outcome == "failed" else 0
        return self.model_copy(update={outcome: getattr(self, outcome) + 1, "in_row": in_row})

    def then(self, later: Tally) -> Tally:
        """With the calls of another tally after its own."""
        return Tally(
            ok=self.ok + later.ok,
            failed=self.failed + later.failed,
            slow=self.slow + later.slow,
            in_row=later.in_row + (0 if later.ok or later.slow else self.in_row),
        )


class Circuit(Value):
    """One row of truth for the whole fleet."""

    service: str
    endpoint: str = "default"
    state: State = "closed"
    #: Counts trips from closed: one guard each.
    epoch: int = 0
    #: Counts openings: the permits of one round are void in the next.
    round: int = 0
    #: Openings in a row without a full restore.
    trips: int = 0
    open_until: datetime | None = None
    #: The place in `ramp` or `drain`, and since when.
    stage: int = 0
    stage_since: datetime | None = None
    probes_ok: int = 0
    #: By hand; None: by itself.
    forced: Forced | None = None
    #: A person must bring it back: an operator said so, for now or for every time.
    held: bool = False
    #: Amid the ceremonies of weddings that depend on it nothing is switched back.
    noisy_from: datetime | None = None
    noisy_until: datetime | None = None
    reason: str = ""
    window: tuple[Bucket, ...] = ()
    changed_at: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is the circuit of."""
        return self.service, self.endpoint


def classify_outcome(error: BaseException | None, seconds: float, policy: CircuitPolicy) -> Outcome:
    """What a call says about the vendor's health. Only lost and undone-for-certain calls are failures."""
    if error is None:
        return "slow" if seconds >= policy.slow_seconds else "ok"
    return "failed" if isinstance(error, VendorUnavailable | OutcomeUnknown) else "ignored"


def slot_of(now: datetime, policy: CircuitPolicy) -> int:
    """The number of the slice that `now` lies in."""
    return int(now.timestamp() // (policy.window_seconds / BUCKETS))


def merged(window: Collection[Bucket], tally: Tally, now: datetime, policy: CircuitPolicy) -> tuple[Bucket, ...]:
    """The window with `tally` counted in its newest slice, the present one at the least; what has slid out is gone.

    A writer whose clock is a little behind counts where the others do, and takes nothing from them. A slice more than a
    whole window ahead was written by a clock that was wrong.
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
    """The window's calls in all, its buckets in the order of time."""
    every = Tally()
    for b in window:
        every = every.then(Tally(ok=b.ok, failed=b.failed, slow=b.slow, in_row=b.in_row))
    return every


def is_failing(tally: Tally, policy: CircuitPolicy) -> str:
    """Why these calls would open a circuit; empty: they would not."""
    if tally.calls < policy.min_calls:
        return ""
    if tally.failed / tally.calls >= policy.failure_rate:
        return "failure_rate"
    if tally.in_row >= policy.min_calls:
        return "failures_in_row"
    return "slow_calls" if (tally.failed + tally.slow) / tally.calls >= policy.slow_rate else ""


def next_state(
    circuit: Circuit, outcome: Outcome | Tally, now: datetime, policy: CircuitPolicy, *, is_last: bool = False
) -> Circuit:
    """The circuit after one call, or several: `counted`, then `judged`."""
    tally = outcome if isinstance(outcome, Tally) else Tally().plus(outcome)
    return judged(counted(circuit, tally, now, policy), now, policy, is_last=is_last)


def counted(circuit: Circuit, tally: Tally, now: datetime, policy: CircuitPolicy) -> Circuit:
    """With more calls in its window. While it is open they are late news of its last round and change nothing."""
    if circuit.state == "open":
        return circuit
    return circuit.model_copy(update={"window": merged(circuit.window, tally, now, policy)})


def verdict(circuit: Circuit, policy: CircuitPolicy) -> str:
    """Why the circuit should open now; empty: it should not. On the way back the first sign is enough."""
    if circuit.state not in ("closed", "ramping") or circuit.forced is not None:
        return ""
    calls = total(circuit.window)
    if circuit.state == "ramping":
        return "failed_again" if calls.failed else ""
    return is_failing(calls, policy)


def judged(
    circuit: Circuit, now: datetime, policy: CircuitPolicy, *, is_last: bool = False, gradually: bool = False
) -> Circuit:
    """Opened, or drained, when its window says so.

    `is_last`: no other provider of its capability is left (panic threshold), so it stays as it is.
    """
    why = verdict(circuit, policy)
    if not why or is_last:
        return circuit
    if gradually and circuit.state == "closed":
        return drained(circuit, now, policy, why)
    return opened(circuit, now, policy, why)


def opened(circuit: Circuit, now: datetime, policy: CircuitPolicy, reason: str) -> Circuit:
    """Cut off: a new epoch when it was closed, a new round in any case, for longer each time in a row."""
    seconds = min(policy.open_seconds * policy.open_growth**circuit.trips, policy.open_cap_seconds)
    return circuit.model_copy(
        update={
            "state": "open",
            "epoch": circuit.epoch + (circuit.state == "closed"),
            "round": circuit.round + 1,
            "trips": min(circuit.trips + 1, 30),
            "open_until": now + timedelta(seconds=seconds),
            "stage": 0,
            "stage_since": None,
            "probes_ok": 0,
            "reason": reason,
            "window": (),
            "changed_at": now,
        }
    )


def drained(circuit: Circuit, now: datetime, policy: CircuitPolicy, reason: str) -> Circuit:
    """Leave a closed service in steps; at once when the policy has no steps."""
    if circuit.state != "closed":
        return circuit
    if not policy.drain:
        return opened(circuit, now, policy, reason)
    changes = {"state": "draining", "epoch": circuit.epoch + 1, "stage": 0, "stage_since": now, "reason": reason}
    return circuit.model_copy(update={**changes, "changed_at": now})


def probed(circuit: Circuit, outcome: Outcome, round_: int, now: datetime, policy: CircuitPolicy) -> Circuit:
    """The circuit after one probe of round `round_`; a probe of another round says nothing any more."""
    if circuit.state != "open" or circuit.round != round_ or outcome == "ignored":
        return circuit
    if outcome != "ok":
        return opened(circuit, now, policy, "probe_failed")
    good = circuit.probes_ok + 1
    if good < policy.probes:
        return circuit.model_copy(update={"probes_ok": good})
    if not policy.ramp:
        return closed(circuit, now)
    changes = {"state": "ramping", "stage": 0, "stage_since": now, "open_until": None, "probes_ok": 0, "window": ()}
    return circuit.model_copy(update={**changes, "changed_at": now})


def closed(circuit: Circuit, now: datetime) -> Circuit:
    """Restored: all traffic, and the next opening is a first one again."""
    return circuit.model_copy(
        update={
            "state": "closed",
            "trips": 0,
            "open_until": None,
            "stage": 0,
            "stage_since": None,
            "probes_ok": 0,
            "held": False,
            "noisy_from": None,
            "noisy_until": None,
            "reason": "",
            "window": (),
            "changed_at": now,
        }
    )


def advanced(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """One step further on the way back, or out."""
    stages = {"ramping": policy.ramp, "draining": policy.drain}.get(circuit.state)
    if stages is None:
        return circuit
    if circuit.stage + 1 < len(stages):
        return circuit.model_copy(update={"stage": circuit.stage + 1, "stage_since": now, "changed_at": now})
    return closed(circuit, now) if circuit.state == "ramping" else opened(circuit, now, policy, circuit.reason)


def forced(circuit: Circuit, by_hand: Forced | None, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Held open or closed by hand whatever the calls say; None: by itself again (an open one is probed at once)."""
    if by_hand == "closed":
        return closed(circuit, now).model_copy(update={"forced": "closed", "reason": "by_hand"})
    if by_hand == "open":
        cut = circuit if circuit.state == "open" else opened(circuit, now, policy, "by_hand")
        return cut.model_copy(
            update={"forced": "open", "reason": "by_hand", "open_until": now + _LONG, "changed_at": now}
        )
    freed = circuit.model_copy(update={"forced": None, "changed_at": now})
    return freed.model_copy(update={"open_until": now}) if freed.state == "open" else freed


def restorable(circuit: Circuit, now: datetime) -> Circuit:
    """To be probed at once, no longer held."""
    if circuit.state == "closed":
        return circuit
    wanted = {"held": False, "noisy_from": None, "noisy_until": None, "reason": RESTORE_ASKED}
    due = {"forced": None, "open_until": now, "changed_at": now} if circuit.state == "open" else {}
    return circuit.model_copy(update={**wanted, **due})


def postponed(circuit: Circuit, until: datetime) -> Circuit:
    """Not probed before `until`: no switching back in the middle of a ceremony."""
    if circuit.state != "open" or circuit.open_until is None or circuit.open_until >= until:
        return circuit
    return circuit.model_copy(update={"open_until": until})


def is_noisy(circuit: Circuit, now: datetime) -> bool:
    """Whether it must not be switched back now."""
    return noise(circuit, now, now + timedelta.resolution) > timedelta(0)


def noise(circuit: Circuit, since: datetime, until: datetime) -> timedelta:
    """How much of the time between the two it must not be switched back."""
    if circuit.noisy_from is None or circuit.noisy_until is None:
        return timedelta(0)
    return max(min(until, circuit.noisy_until) - max(since, circuit.noisy_from), timedelta(0))


def phase(circuit: Circuit, now: datetime) -> Phase:
    """The state as it is now: half-open comes by itself, but not amid a ceremony."""
    if circuit.state != "open":
        return circuit.state
    is_due = circuit.open_until is not None and now >= circuit.open_until and not is_noisy(circuit, now)
    return "half_open" if is_due and not circuit.held and circuit.forced is None else "open"


def share_percent(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> int:
    """How much of the traffic that could go elsewhere is let through: by the guard's stage, or slowly without one.

    On the way back a ceremony stops the clock.
    """
    if circuit.state == "closed":
        return 100
    stages = {"ramping": (*policy.ramp, 100), "draining": (*policy.drain, 0)}.get(circuit.state)
    if stages is None or circuit.stage_since is None:
        return 0
    by_itself = 0
    if not circuit.held:
        passed = now - circuit.stage_since
        if circuit.state == "ramping":
            passed -= noise(circuit, circuit.stage_since, now)
        by_itself = int(max(passed.total_seconds(), 0.0) // (policy.ramp_step_seconds * UNGUARDED_PACE))
    return stages[min(circuit.stage + by_itself, len(stages) - 1)]


def admit(
    circuit: Circuit,
    now: datetime,
    policy: CircuitPolicy,
    *,
    key: str = "",
    can_go_elsewhere: bool = False,
    is_last: bool = False,
    overrides: bool = False,
) -> Admission:
    """Whether a call may go out. `probe`: only with a permit.

    `key` names the traffic that stays together (a wedding) while a share of it is let through. `can_go_elsewhere`: the
    caller has another vendor; without one a share refuses nothing. `is_last`: no other provider of the capability is
    left. `overrides`: a wedding-day call with nowhere else to go. Only a hand cuts those two off.
    """
    if circuit.forced is not None:
        return "pass" if circuit.forced == "closed" else "refuse"
    now_is = phase(circuit, now)
    if now_is in ("open", "half_open"):
        if is_last or (overrides and not can_go_elsewhere):
            return "pass"
        return "probe" if now_is == "half_open" else "refuse"
    if now_is == "closed" or not can_go_elsewhere or is_last:
        return "pass"
    return "pass" if _percentile(circuit, key) < share_percent(circuit, now, policy) else "refuse"


def _percentile(circuit: Circuit, key: str) -> int:
    digest = hashlib.sha256(f"{circuit.service}\x1f{circuit.epoch}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100


def hastened(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """To be looked at soon, because those who stand in for it fail too; not more often than at first."""
    is_by_itself = circuit.state == "open" and circuit.forced is None and not circuit.held
    if not is_by_itself or circuit.open_until is None or circuit.changed_at is None:
        return circuit
    due = max(now, circuit.changed_at + timedelta(seconds=policy.open_seconds))
    return circuit.model_copy(update={"open_until": due}) if due < circuit.open_until else circuit
