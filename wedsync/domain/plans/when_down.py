"""Decide what a step does while none of its vendors can be reached, as its plan says. Pure; time is an argument."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import JsonValue

from wedsync.domain.plans.durations import parse_duration
from wedsync.domain.plans.plan import Degradation, Plan, PlannedStep, Step, WhenDown

#: A queued step is tried again after half of the time that it has waited, within these bounds.
FIRST_RECHECK = timedelta(minutes=1)
LONGEST_RECHECK = timedelta(minutes=15)
#: Used if the plan gives no length.
DEFAULT_MAX_WAIT_SECONDS = 24 * 3600
DEFAULT_MAX_AGE_SECONDS = 24 * 3600


def of_step(plan: Plan, step: Step) -> Degradation:
    """Return what the plan says for a step: by the step itself, else by its capability, else nothing."""
    rule = step.when_down or plan.when_down.get(step.action.partition(".")[0])
    if rule is None:
        return Degradation()
    return Degradation(
        do=rule.then,
        max_wait_seconds=_seconds(rule.max_wait, DEFAULT_MAX_WAIT_SECONDS) if rule.then == "queue" else 0,
        max_age_seconds=_seconds(rule.max_age, DEFAULT_MAX_AGE_SECONDS) if rule.then == "cached" else 0,
    )


def _seconds(duration: str | None, default: int) -> int:
    return default if duration is None else int(parse_duration(duration).total_seconds())


def misplaced(rule: WhenDown) -> str:
    """Return the key that has no meaning beside `do`; empty: there is none."""
    if rule.max_wait is not None and rule.then != "queue":
        return "max_wait"
    return "max_age" if rule.max_age is not None and rule.then != "cached" else ""


def gives_way(step: PlannedStep) -> bool:
    """Tell whether the step gives way before its timeout when no vendor can be reached."""
    return step.when_down.do != "fail"


def next_recheck(queued_at: datetime, until: datetime, now: datetime, jitter: float) -> datetime | None:
    """Return when a queued step is tried again, last at `until`; None: its time is up. `jitter` in [0, 1)."""
    if now >= until:
        return None
    pause = min(max((now - queued_at) / 2, FIRST_RECHECK), LONGEST_RECHECK)
    return min(now + pause * (1 - 0.2 * jitter), until)


def question(action: str, inputs: Mapping[str, JsonValue]) -> str:
    """Return the key of a read: the same for the same action and inputs, whoever answers."""
    text = json.dumps([action, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def age_in_words(seconds: float) -> str:
    """Format an age, rounded down: `40 s`, `12 min`, `3 h`, `2 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
