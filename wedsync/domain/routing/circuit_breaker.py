"""Circuit breaker of one service's endpoint: values in, the next circuit out. Pure; time is an argument.

closed → open when failures, or slow calls, pass their rate over a sliding window with enough calls in it, or when as
many in a row have failed (a busy vendor's good minutes don't hide its end). open → probed once `open_until` has passed
(half-open is lazy: it needs no timer): each round lets exactly `probes` calls through, the vendor's own health probe
first. All of them good → ramping, 10 % and 50 % of the traffic that has another vendor, then closed. One of them bad,
or a second call that fails while ramping → open again, for longer. `draining` leaves a service in steps, on purpose.

One call, however often it is retried, shuts no vendor for the others: its failures count once (`circuit_window`), and
a call that failed as a probe is not the next probe.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Bucket, FailedCall, Outcome, Tally, is_failing, merged, total
from wedsync.domain.value import Value

State = Literal["closed", "draining", "open", "ramping"]
Phase = Literal["closed", "draining", "open", "half_open", "ramping"]
Forced = Literal["open", "closed"]
CircuitDecision = Literal["pass", "probe", "refuse"]

#: Without its guard a ramp (or a drain) goes on by itself, so many times slower.
SLOW_PACE = 3
#: The reason of a circuit that a person wants back: it comes back even during a ceremony.
RESTORE_ASKED = "restore_asked"
#: A call leaves the vendor's own health probe so long to be first, and, having failed as the last probe, others.
HEALTH_PROBE_FIRST_SECONDS = 1.0
LAST_PROBE_WAITS_SECONDS = 30.0
#: How long a service that was cut off by hand stays so before the next probe.
_LONG = timedelta(days=3650)


class Circuit(Value):
    """One circuit's state: a single row of truth for the whole fleet."""

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
    #: The stage in `ramp` or `drain`, and since when.
    stage: int = 0
    stage_since: datetime | None = None
    probes_ok: int = 0
    #: By hand; None: automatic.
    forced: Forced | None = None
    #: A person must restore it: an operator said so, for this time or for every time.
    held: bool = False
    #: During the ceremonies of weddings that depend on it nothing is switched back.
    noisy_from: datetime | None = None
    noisy_until: datetime | None = None
    reason: str = ""
    window: tuple[Bucket, ...] = ()
    #: The calls that failed lately, so that the retries of one don't count as many.
    failed_calls: tuple[FailedCall, ...] = ()
    #: Whose call failed as the last probe; empty: the vendor's own health probe, or none.
    failed_probe: str = ""
    changed_at: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Return the (service, endpoint) that it is the circuit of."""
        return self.service, self.endpoint


def counted(
    circuit: Circuit,
    tally: Tally,
    now: datetime,
    policy: CircuitPolicy,
    failed_calls: tuple[FailedCall, ...] | None = None,
) -> Circuit:
    """Count more calls in its window. While it is open, late calls of its last round change nothing."""
    if circuit.state == "open":
        return circuit
    failed = circuit.failed_calls if failed_calls is None else failed_calls
    return circuit.model_copy(update={"window": merged(circuit.window, tally, now, policy), "failed_calls": failed})


def verdict(circuit: Circuit, policy: CircuitPolicy) -> str:
    """Say why the circuit should open now; empty: it should not.

    While ramping two calls are enough: one alone may fail by its own fault.
    """
    if circuit.state not in ("closed", "ramping") or circuit.forced is not None:
        return ""
    calls = total(circuit.window)
    if circuit.state == "ramping":
        return "failed_again" if calls.failed >= min(2, policy.min_calls) else ""
    return is_failing(calls, policy)


def judged(
    circuit: Circuit, now: datetime, policy: CircuitPolicy, *, is_last: bool = False, gradually: bool = False
) -> Circuit:
    """Open or drain the circuit when its window says so.

    `is_last`: no other provider of its capability is left (panic threshold), so it stays as it is.
    """
    why = verdict(circuit, policy)
    if not why or is_last:
        return circuit
    if gradually and circuit.state == "closed":
        return drained(circuit, now, policy, why)
    return opened(circuit, now, policy, why)


def opened(circuit: Circuit, now: datetime, policy: CircuitPolicy, reason: str) -> Circuit:
    """Cut the endpoint off: a new epoch if it was closed, always a new round, for longer each time in a row."""
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


def may_probe(circuit: Circuit, caller: str, now: datetime, policy: CircuitPolicy, *, has_guard: bool = True) -> bool:
    """Tell whether a call may be the half-open circuit's next probe.

    The vendor's own health probe, which its guard sends, comes first, and another call comes before the one that failed
    as the last probe: each waits a moment for them, not for ever, since there may be nobody else.
    """
    if circuit.open_until is None:
        return True
    waits = min(HEALTH_PROBE_FIRST_SECONDS, policy.open_seconds / 10) if has_guard else 0.0
    if caller == circuit.failed_probe and caller:
        waits = max(waits, min(policy.open_seconds, LAST_PROBE_WAITS_SECONDS))
    return now >= circuit.open_until + timedelta(seconds=waits)


def probed(
    circuit: Circuit, outcome: Outcome, round_: int, now: datetime, policy: CircuitPolicy, caller: str = ""
) -> Circuit:
    """Take in one probe's outcome in round `round_`; a probe of another round changes nothing.

    `caller`: whose call it was; empty: the vendor's own health probe.
    """
    if circuit.state != "open" or circuit.round != round_ or outcome == "ignored":
        return circuit
    if outcome != "ok":
        return opened(circuit, now, policy, "probe_failed").model_copy(update={"failed_probe": caller})
    good = circuit.probes_ok + 1
    if good < policy.probes:
        return circuit.model_copy(update={"probes_ok": good})
    if not policy.ramp:
        return closed(circuit, now)
    changes = {"state": "ramping", "stage": 0, "stage_since": now, "open_until": None, "probes_ok": 0, "window": ()}
    return circuit.model_copy(update={**changes, "changed_at": now})


def closed(circuit: Circuit, now: datetime) -> Circuit:
    """Restore all traffic; the next opening is a first one again."""
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
            "failed_probe": "",
            "changed_at": now,
        }
    )


def advanced(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Move one stage further on the way back, or out."""
    stages = {"ramping": policy.ramp, "draining": policy.drain}.get(circuit.state)
    if stages is None:
        return circuit
    if circuit.stage + 1 < len(stages):
        return circuit.model_copy(update={"stage": circuit.stage + 1, "stage_since": now, "changed_at": now})
    return closed(circuit, now) if circuit.state == "ramping" else opened(circuit, now, policy, circuit.reason)


def forced(circuit: Circuit, manual: Forced | None, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Hold it open or closed by hand whatever the calls say; None: automatic again (an open one is probed at once)."""
    if manual == "closed":
        return closed(circuit, now).model_copy(update={"forced": "closed", "reason": "by_hand"})
    if manual == "open":
        cut = circuit if circuit.state == "open" else opened(circuit, now, policy, "by_hand")
        return cut.model_copy(
            update={"forced": "open", "reason": "by_hand", "open_until": now + _LONG, "changed_at": now}
        )
    freed = circuit.model_copy(update={"forced": None, "changed_at": now})
    return freed.model_copy(update={"open_until": now}) if freed.state == "open" else freed


def left(circuit: Circuit, now: datetime, policy: CircuitPolicy, *, gradually: bool = False) -> Circuit:
    """Leave the service because a person wants it, even where an earlier hand held it closed: the later wish counts."""
    is_held_closed = circuit.forced == "closed"
    if circuit.state in ("open", "draining") and not is_held_closed:
        return circuit
    free = circuit.model_copy(update={"forced": None}) if is_held_closed else circuit
    leave = drained if gradually and free.state == "closed" else opened
    return leave(free, now, policy, "asked")


def kept_out(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Keep it out until a person restores it; one that is being left in steps is out at once."""
    out = opened(circuit, now, policy, circuit.reason) if circuit.state == "draining" else circuit
    return out.model_copy(update={"held": True})


def restorable(circuit: Circuit, now: datetime) -> Circuit:
    """Release it and have it probed at once; one that is still being left was never out, and stays."""
    if circuit.state == "closed":
        return circuit
    if circuit.state == "draining":
        return closed(circuit, now)
    wanted = {"held": False, "noisy_from": None, "noisy_until": None, "reason": RESTORE_ASKED}
    due = {"forced": None, "open_until": now, "changed_at": now} if circuit.state == "open" else {}
    return circuit.model_copy(update={**wanted, **due})


def postponed(circuit: Circuit, until: datetime) -> Circuit:
    """Allow no probe before `until`: no switching back in the middle of a ceremony."""
    if circuit.state != "open" or circuit.open_until is None or circuit.open_until >= until:
        return circuit
    return circuit.model_copy(update={"open_until": until})


def is_noisy(circuit: Circuit, now: datetime) -> bool:
    """Tell whether ceremonies forbid to switch it back now."""
    return noise(circuit, now, now + timedelta.resolution) > timedelta(0)


def noise(circuit: Circuit, since: datetime, until: datetime) -> timedelta:
    """Return how much of the time between the two ceremonies forbid to switch it back."""
    if circuit.noisy_from is None or circuit.noisy_until is None:
        return timedelta(0)
    return max(min(until, circuit.noisy_until) - max(since, circuit.noisy_from), timedelta(0))


def phase(circuit: Circuit, now: datetime) -> Phase:
    """Return the phase at `now`: half-open comes by itself, but not during a ceremony."""
    if circuit.state != "open":
        return circuit.state
    is_due = circuit.open_until is not None and now >= circuit.open_until and not is_noisy(circuit, now)
    return "half_open" if is_due and not circuit.held and circuit.forced is None else "open"


def share_percent(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> int:
    """Return the percent of traffic with another vendor that is let through: the guard's stage, or slower without one.

    While ramping a ceremony stops the clock.
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
        by_itself = int(max(passed.total_seconds(), 0.0) // (policy.ramp_step_seconds * SLOW_PACE))
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
) -> CircuitDecision:
    """Tell whether a call may go out. `probe`: only with a permit.

    `key` names the traffic that stays together (a wedding) while a share of it is let through. `can_go_elsewhere`: the
    caller has another vendor; without one a share refuses nothing. `is_last`: no other provider of the capability is
    left. `overrides`: a wedding-day call with no other vendor. Only an operator's hold refuses those two.
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
    """Have it probed soon, because its backups fail too; no more often than at first."""
    is_by_itself = circuit.state == "open" and circuit.forced is None and not circuit.held
    if not is_by_itself or circuit.open_until is None or circuit.changed_at is None:
        return circuit
    due = max(now, circuit.changed_at + timedelta(seconds=policy.open_seconds))
    return circuit.model_copy(update={"open_until": due}) if due < circuit.open_until else circuit
