"""What is said to and by the guard of a failing service and the watch on health."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wedsync.domain.routing.vendor import Value

GUARD_VENDOR_WORKFLOW = "GuardVendor"
WATCH_HEALTH_WORKFLOW = "WatchHealth"
WATCH_HEALTH_ID = "watch-health"
#: Signal of `GuardVendor`: the row has changed, look at it.
LOOK_SIGNAL = "look"
#: The reason of a call that was refused here, before anything was sent.
CIRCUIT_OPEN = "circuit_open"
#: The same: as many calls to the vendor as this process makes at once are under way.
AT_CAPACITY = "at_capacity"


class GuardStart(Value):
    """The input of `GuardVendor`: one trip of one service's endpoint, until it is restored."""

    service: str
    endpoint: str = "default"
    epoch: int
    #: Wakes of the runs before this one.
    wakes: int = 0


class GuardLook(Value):
    """A guard asks what there is to do at `now`, its own time, and has it done."""

    service: str
    endpoint: str
    epoch: int
    now: datetime


class GuardNews(Value):
    """What was done, and until when there is nothing to do by itself; None: the guard's work is done."""

    until: datetime | None
    why: str
    state: str
    #: What was done, for people, in order.
    deeds: tuple[str, ...] = ()


class GuardResult(Value):
    """How a guard ended."""

    outcome: Literal["restored", "superseded"]
    wakes: int


class WatchStart(Value):
    """The input of `WatchHealth`."""

    #: How long one activity watches before a new run takes over.
    seconds: float = 1800.0
    #: Between two looks at what is due.
    tick_seconds: float = 1.0


class Watched(Value):
    """What one activity of `WatchHealth` did."""

    probes: int
    changes: int
    guards_started: int


def guard_workflow_id(service: str, endpoint: str, epoch: int) -> str:
    """The id that lets one guard live per trip."""
    return f"vendor:{service}:{epoch}" if endpoint == "default" else f"vendor:{service}.{endpoint}:{epoch}"
