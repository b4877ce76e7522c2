"""Messages to and from the guard of a failing service and the watch on health."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wedsync.domain.value import Value

RECOVER_VENDOR_WORKFLOW = "GuardVendor"
WATCH_HEALTH_WORKFLOW = "WatchHealth"
WATCH_HEALTH_ID = "watch-health"
#: Signal of `RecoverVendor`: the row has changed, read it.
WAKE_SIGNAL = "look"
#: The reason of a call that we refused here, before anything was sent.
CIRCUIT_OPEN = "circuit_open"
#: The same: the process already had as many calls to the vendor under way as it makes at once.
AT_CAPACITY = "at_capacity"


class RecoveryStart(Value):
    """Input of `RecoverVendor`: one trip of one service's endpoint, until it is restored."""

    service: str
    endpoint: str = "default"
    epoch: int
    #: Wakes of the runs before this one.
    wakes: int = 0


class RecoveryWake(Value):
    """A guard's request to find and do what is due at `now`, the guard's own time."""

    service: str
    endpoint: str
    epoch: int
    now: datetime


class RecoveryWakeResult(Value):
    """Acts of a guard, and the time before which nothing is due; None: the guard's work is done."""

    until: datetime | None
    why: str
    state: str
    #: What was done, for people, in order.
    actions: tuple[str, ...] = ()


class RecoveryResult(Value):
    """Result of a guard."""

    outcome: Literal["restored", "superseded"]
    wakes: int


class WatchStart(Value):
    """Input of `WatchHealth`."""

    #: How long one activity watches before a new run takes over.
    seconds: float = 1800.0
    #: Between two checks for what is due.
    tick_seconds: float = 1.0


class Watched(Value):
    """Result of one activity of `WatchHealth`."""

    probes: int
    changes: int
    recoveries_started: int


def recovery_workflow_id(service: str, endpoint: str, epoch: int) -> str:
    """Return the workflow id, which lets only one guard live per trip."""
    return f"vendor:{service}:{epoch}" if endpoint == "default" else f"vendor:{service}.{endpoint}:{epoch}"
