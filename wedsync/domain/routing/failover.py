"""The way of a failover from trip to restore: what its guard does next. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.routing.circuit import Circuit, CircuitPolicy
from wedsync.domain.routing.vendor import Value

FailoverStrategy = Literal["immediate", "gradual", "manual"]
FailoverStatus = Literal["proposed", "active", "held", "restoring", "restored", "superseded"]

#: A guard with nothing to do by itself looks so often whether it missed a word.
IDLE_LOOK = timedelta(hours=1)
#: Before and after the moment of a ceremony nothing is switched back.
CEREMONY_BEFORE = timedelta(minutes=15)
CEREMONY_AFTER = timedelta(hours=1)


class FailoverPolicy(Value):
    """How a service is left when its circuit opens."""

    #: immediate: at once. gradual: in steps. manual: a person is told and decides.
    strategy: FailoverStrategy = "immediate"
    #: Whether it comes back by itself; else it waits for a person.
    restores_by_itself: bool = True
    #: Do not switch back in the middle of a dependent wedding's ceremony.
    waits_for_quiet: bool = True


class GuardStep(Value):
    """What a guard does next."""

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
) -> GuardStep:
    """What the guard of `epoch` does now. `quiet_at`: until then a dependent wedding's ceremony is under way.

    A hand comes first: forced and held circuits wait. Falling back is not the guard's: a failing call reopens the
    circuit by itself, and the guard sees it here.
    """
    if circuit.epoch != epoch or circuit.state == "closed":
        return GuardStep(kind="done", why="restored" if circuit.epoch == epoch else "another epoch has begun")
    if circuit.forced is not None or circuit.held:
        return GuardStep(kind="wait", until=now + IDLE_LOOK, why="held by hand")
    if circuit.state == "draining":
        return _in_stages(circuit, now, policy, "before the next share is taken away")
    must_be_quiet = failover.waits_for_quiet and quiet_at is not None and quiet_at > now
    if circuit.state == "ramping":
        step = _in_stages(circuit, now, policy, "before the next share comes back")
        if step.kind == "advance" and must_be_quiet:
            return GuardStep(kind="wait", until=quiet_at, why="until the ceremony is over")
        return step
    if not failover.restores_by_itself and circuit.reason != "restore_asked":
        return GuardStep(kind="wait", until=now + IDLE_LOOK, why="until a person restores it")
    if must_be_quiet:
        if circuit.open_until is not None and quiet_at is not None and circuit.open_until >= quiet_at:
            return GuardStep(kind="wait", until=circuit.open_until, why="cool down, until the ceremony is over")
        return GuardStep(kind="postpone", until=quiet_at, why="until the ceremony is over")
    if circuit.open_until is not None and now < circuit.open_until:
        return GuardStep(kind="wait", until=circuit.open_until, why="cool down")
    return GuardStep(kind="probe", why=f"round {circuit.round}")


def _in_stages(circuit: Circuit, now: datetime, policy: CircuitPolicy, why: str) -> GuardStep:
    due = (circuit.stage_since or now) + timedelta(seconds=policy.ramp_step_seconds)
    return GuardStep(kind="advance") if now >= due else GuardStep(kind="wait", until=due, why=why)


def quiet_moment(ceremonies: Iterable[datetime], now: datetime) -> datetime | None:
    """When no ceremony is under way any more, overlapping ones taken together; None: none is under way now."""
    quiet = None
    for ceremony in sorted(ceremonies):
        if ceremony - CEREMONY_BEFORE <= (quiet or now) < ceremony + CEREMONY_AFTER:
            quiet = ceremony + CEREMONY_AFTER
    return quiet


def estimated_downtime_ms(circuit: Circuit, now: datetime, policy: CircuitPolicy, past_ms: Sequence[int] = ()) -> int:
    """Until all traffic is back: the median of past failovers, or at least the cool down and the ramp."""
    open_for = max(((circuit.open_until or now) - now).total_seconds(), 0.0)
    ramp = len(policy.ramp) * policy.ramp_step_seconds
    least = int((open_for + ramp) * 1000)
    if not past_ms:
        return least
    return max(sorted(past_ms)[len(past_ms) // 2], least)


def rollback_plan(service: str, backup: str | None, policy: CircuitPolicy) -> tuple[str, ...]:
    """How traffic comes back, in words for an operator."""
    shares = ", ".join(f"{share} %" for share in (*policy.ramp, 100))
    return (
        f"cool down of {policy.open_seconds:g} s, growing to {policy.open_cap_seconds:g} s while probes fail",
        f"{policy.probes} probes of {service}, all of which must succeed",
        f"traffic back in steps of {policy.ramp_step_seconds:g} s: {shares}",
        f"at the first failure everything goes to {backup or 'nobody else'} again",
        f"what was done at {backup or 'another vendor'} meanwhile stays there, and is undone there",
    )
