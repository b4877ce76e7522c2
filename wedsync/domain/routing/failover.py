"""Decide what the guard of a failover does next, from trip to restore. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.routing.circuit_breaker import RESTORE_ASKED, Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Tally, is_failing, merged, total
from wedsync.domain.value import Value

FailoverStrategy = Literal["immediate", "gradual", "manual"]

#: A guard with nothing to do by itself checks so often whether it missed a signal.
IDLE_WAKE = timedelta(hours=1)
#: So long before and after the moment of a ceremony nothing is switched back.
CEREMONY_BEFORE = timedelta(minutes=15)
CEREMONY_AFTER = timedelta(hours=1)


class FailoverPolicy(Value):
    """An operator's settings for leaving a service when its circuit opens, and for coming back."""

    #: immediate: at once. gradual: in steps. manual: a person is notified and decides.
    strategy: FailoverStrategy = "immediate"
    #: Whether it comes back by itself; else it waits for a person.
    restores_by_itself: bool = True
    #: Do not switch back in the middle of a dependent wedding's ceremony.
    waits_for_quiet: bool = True


class RecoveryStep(Value):
    """A guard's next act."""

    kind: Literal["wait", "probe", "advance", "postpone", "done"]
    #: For `wait` and `postpone`.
    until: datetime | None = None
    why: str = ""


def next_step(
    circuit: Circuit,
    epoch: int,
    now: datetime,
    policy: CircuitPolicy,
    failover: FailoverPolicy,
    quiet_at: datetime | None = None,
) -> RecoveryStep:
    """Decide what the guard of `epoch` does now. `quiet_at`: until then a dependent wedding's ceremony is under way.

    A person's decision comes first: forced and held circuits wait. Falling back is not the guard's: a failing call
    reopens the circuit by itself, and the guard sees it here.
    """
    if circuit.epoch != epoch or circuit.state == "closed":
        return RecoveryStep(kind="done", why="restored" if circuit.epoch == epoch else "another epoch has begun")
    if circuit.forced is not None or circuit.held:
        return RecoveryStep(kind="wait", until=now + IDLE_WAKE, why="held by hand")
    if circuit.state == "draining":
        return _in_stages(circuit, now, policy, "before the next share is taken away")
    must_be_quiet = waits_for_quiet(circuit, failover) and quiet_at is not None and quiet_at > now
    if circuit.state == "ramping":
        step = _in_stages(circuit, now, policy, "before the next share comes back")
        if step.kind == "advance" and must_be_quiet:
            return RecoveryStep(kind="wait", until=quiet_at, why="until the ceremony is over")
        return step
    if must_be_quiet:
        if circuit.open_until is not None and quiet_at is not None and circuit.open_until >= quiet_at:
            return RecoveryStep(kind="wait", until=circuit.open_until, why="cool down, until the ceremony is over")
        return RecoveryStep(kind="postpone", until=quiet_at, why="until the ceremony is over")
    if circuit.open_until is not None and now < circuit.open_until:
        return RecoveryStep(kind="wait", until=circuit.open_until, why="cool down")
    return RecoveryStep(kind="probe", why=f"round {circuit.round}")


def _in_stages(circuit: Circuit, now: datetime, policy: CircuitPolicy, why: str) -> RecoveryStep:
    due = (circuit.stage_since or now) + timedelta(seconds=policy.ramp_step_seconds)
    return RecoveryStep(kind="advance") if now >= due else RecoveryStep(kind="wait", until=due, why=why)


def noisy_time(ceremonies: Iterable[datetime], now: datetime) -> tuple[datetime, datetime] | None:
    """Return the first time not yet over in which ceremonies are under way, overlapping ones taken together."""
    found: tuple[datetime, datetime] | None = None
    for ceremony in sorted(ceremonies):
        begins, ends = ceremony - CEREMONY_BEFORE, ceremony + CEREMONY_AFTER
        if ends <= now:
            continue
        if found is not None and begins > found[1]:
            break
        found = (begins if found is None else found[0], ends)
    return found


def quiet_moment(ceremonies: Iterable[datetime], now: datetime) -> datetime | None:
    """Return when no ceremony is under way any more; None: none is under way now."""
    noisy = noisy_time(ceremonies, now)
    return noisy[1] if noisy is not None and noisy[0] <= now else None


def as_configured(
    was: Circuit, now_is: Circuit, failover: FailoverPolicy, noisy: tuple[datetime, datetime] | None
) -> Circuit:
    """Adjust the circuit after a transition, so that it comes back, with or without its guard, as its operator wants.

    `noisy`: the next time in which ceremonies of weddings that depend on it are under way.
    """
    if now_is.state == "closed":
        return now_is
    begins, ends = noisy if noisy is not None and waits_for_quiet(now_is, failover) else (None, None)
    is_new = now_is.state == "open" and now_is.round != was.round
    is_manual = now_is.forced is not None or now_is.reason == RESTORE_ASKED
    is_held = now_is.held or (is_new and not failover.restores_by_itself and not is_manual)
    return now_is.model_copy(update={"noisy_from": begins, "noisy_until": ends, "held": is_held})


def waits_for_quiet(circuit: Circuit, failover: FailoverPolicy) -> bool:
    """Tell whether it waits for a ceremony to end; whoever restores it by hand means now."""
    return failover.waits_for_quiet and circuit.reason != RESTORE_ASKED


def is_well_again(circuit: Circuit, is_up: bool | None, now: datetime, policy: CircuitPolicy) -> bool:
    """Tell whether nobody would propose to leave it any more: its calls go well, or, without calls, its probes.

    `is_up`: the result of its probes; None: nobody probes it.
    """
    calls = total(merged(circuit.window, Tally(), now, policy))
    if is_up is False or is_failing(calls, policy):
        return False
    if not calls.calls:
        return is_up is True
    return calls.calls >= policy.min_calls or not calls.failed + calls.slow


def estimated_downtime_ms(circuit: Circuit, now: datetime, policy: CircuitPolicy, past_ms: Sequence[int] = ()) -> int:
    """Estimate the time until all traffic is back: the median of past failovers, at least cool-down and ramp."""
    open_for = max(((circuit.open_until or now) - now).total_seconds(), 0.0)
    ramp = len(policy.ramp) * policy.ramp_step_seconds
    least = int((open_for + ramp) * 1000)
    if not past_ms:
        return least
    return max(sorted(past_ms)[len(past_ms) // 2], least)


def rollback_plan(service: str, backup: str | None, policy: CircuitPolicy) -> tuple[str, ...]:
    """Describe, for an operator, how traffic comes back."""
    shares = ", ".join(f"{share} %" for share in (*policy.ramp, 100))
    return (
        f"cool down of {policy.open_seconds:g} s, growing to {policy.open_cap_seconds:g} s while probes fail",
        f"{policy.probes} probes of {service}, all of which must succeed",
        f"traffic back in steps of {policy.ramp_step_seconds:g} s: {shares}",
        f"at the first failure everything goes to {backup or 'nobody else'} again",
        f"what was done at {backup or 'another vendor'} meanwhile stays there, and is undone there",
    )
