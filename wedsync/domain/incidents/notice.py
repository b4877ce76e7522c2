"""Decide what operators are notified of, how severe it is, and when a failed message is tried again. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue

from wedsync.domain.health.status import Status
from wedsync.domain.health.trend import Warned
from wedsync.domain.value import Value

EventKind = Literal[
    "failover.started",
    "failover.restored",
    "failover.held",
    "health.changed",
    "health.warning",
    "quota.exhausted",
    "endpoint.warning",
    "endpoint.disabled",
    "endpoint.resumed",
    "delivery.failed",
    "workflow.stuck",
    "channel.test",
]
Severity = Literal["info", "warning", "critical"]
ChannelKind = Literal["log", "webhook", "email", "sms"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

#: Number of tries for a message; with these pauses they take about three hours.
MOST_ATTEMPTS = 16
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 900.0
_OF_STATUS: dict[Status, Severity] = {
    "healthy": "info",
    "degraded": "warning",
    "unhealthy": "warning",
    "down": "critical",
}


class Notice(Value):
    """One notice for operators. It holds nothing of a couple or a guest."""

    kind: EventKind
    severity: Severity
    service: str
    #: One line for people.
    summary: Annotated[str, Field(max_length=300)]
    occurred_at: datetime
    detail: dict[str, JsonValue] = {}
    #: What makes it a different notice beside kind and service: the new status of a service.
    about: str = ""

    @property
    def dedup_key(self) -> str:
        """Return a key that is equal for equal notices."""
        return self._key(self.about)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Return the keys of all notices that replace it or that it replaces: the newest tells the present state."""
        return tuple(map(self._key, _OF_STATUS)) if self.kind == "health.changed" else (self.dedup_key,)

    def _key(self, about: str) -> str:
        return f"{self.kind} {self.service} {about}".rstrip()


def health_changed(service: str, was: Status, now_is: Status, detail: str, now: datetime) -> Notice:
    """Notify that a service has changed its status."""
    return Notice(
        kind="health.changed",
        severity=_OF_STATUS[now_is],
        service=service,
        summary=f"{service} is {now_is}, it was {was}",
        occurred_at=now,
        detail={"was": was, "now_is": now_is, "detail": detail},
        about=now_is,
    )


def health_warned(service: str, warned: Warned, now: datetime) -> Notice:
    """Notify that a trend will cross a threshold before the next wedding that depends on the service."""
    what = warned.metric.replace("_", " ")
    return Notice(
        kind="health.warning",
        severity="warning",
        service=service,
        summary=f"{service}: its {what} will reach {warned.threshold:g} at {warned.crosses_at:%Y-%m-%d %H:%M} UTC, "
        f"before the wedding of {warned.next_wedding_at:%Y-%m-%d %H:%M} UTC",
        occurred_at=now,
        detail=warned.model_dump(mode="json"),
        about=warned.metric,
    )


def failover_started(
    service: str, endpoint: str, to_service: str | None, reason: str, status: str, epoch: int, now: datetime
) -> Notice:
    """Notify that a service's endpoint is left, or, with the status `proposed`, that a person should leave it."""
    action = "should be left: a person decides" if status == "proposed" else "is left"
    return Notice(
        kind="failover.started",
        severity="critical" if to_service is None or status == "proposed" else "warning",
        service=service,
        summary=f"{service} ({endpoint}) {action}; {to_service or 'nobody'} stands in ({reason})",
        occurred_at=now,
        detail={
            "endpoint": endpoint, "to_service": to_service, "reason": reason, "status": status, "epoch": epoch,
        },
        about=f"{endpoint} {epoch}",
    )  # fmt: skip


def failover_ended(
    kind: Literal["failover.restored", "failover.held"], key: tuple[str, str, int], now: datetime
) -> Notice:
    """Notify that a failover, `(service, endpoint, epoch)`, is over, or is kept from ending."""
    service, endpoint, epoch = key
    is_held = kind == "failover.held"
    return Notice(
        kind=kind,
        severity="warning" if is_held else "info",
        service=service,
        summary=f"{service} ({endpoint}) " + ("is held out of service" if is_held else "is back in service"),
        occurred_at=now,
        detail={"endpoint": endpoint, "epoch": epoch},
        about=f"{endpoint} {epoch}",
    )


def quota_exhausted(service: str, until: datetime, now: datetime) -> Notice:
    """Notify that calls wait for a vendor's quota."""
    return Notice(
        kind="quota.exhausted",
        severity="warning",
        service=service,
        summary=f"the quota of {service} is used up; a call can be had at {until:%Y-%m-%d %H:%M:%S} UTC",
        occurred_at=now,
        detail={"until": until.isoformat()},
    )


def workflow_stuck(
    workflow_type: str, workflow_id: str, run_id: str, problems: tuple[str, ...], now: datetime
) -> Notice:
    """A workflow's task fails again and again: it stands still until its code is mended."""
    return Notice(
        kind="workflow.stuck",
        severity="critical",
        service=workflow_type,
        summary=f"the workflow {workflow_id} stands still: its workflow task keeps failing"[:300],
        occurred_at=now,
        detail={"workflow_id": workflow_id, "run_id": run_id, "problems": list(problems)},
        about=workflow_id,
    )


def pause_after(attempts: int) -> timedelta | None:
    """Return how long to wait after so many failed attempts; None: give up."""
    if attempts >= MOST_ATTEMPTS:
        return None
    seconds = _FIRST_PAUSE_SECONDS * 2.0 ** max(0, attempts - 1)
    return timedelta(seconds=min(seconds, _LONGEST_PAUSE_SECONDS))


def rank(severity: Severity) -> int:
    """Rank the severity: 0, the least severe, to 2."""
    return SEVERITIES.index(severity)
