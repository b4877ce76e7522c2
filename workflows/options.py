"""Timeouts, retries, queues and priorities of what workflows start."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from wedsync.domain.weddings import saga

_PRIORITY_BY_MODE = {"normal": 3, "wedding_day": 1}

#: Our own records: tried for as long as it takes.
RECORDS_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=10)
)
#: A vendor's call is sent once; whether and how again is the saga's decision, since only it knows what is at stake.
ONCE = RetryPolicy(maximum_attempts=1)
#: Added to the HTTP timeout: a call may look first and then send, each within its own timeout.
CALL_MARGIN_SECONDS = 4.0
#: The longest single timer; what lies farther ahead is resolved anew then.
LONGEST_TIMER = timedelta(days=30)


def start_to_close_seconds(http_timeout_seconds: float) -> float:
    """How long a vendor call's activity may run."""
    return http_timeout_seconds + CALL_MARGIN_SECONDS


def has_room() -> bool:
    """Whether this run's history has room for more tries of what failed."""
    info = workflow.info()
    return saga.has_room(info.get_current_history_length(), info.get_current_history_size())


def priority(mode: str, organization_id: str) -> Priority:
    """Wedding-day work first; organizations share fairly."""
    return Priority(priority_key=_PRIORITY_BY_MODE.get(mode, 3), fairness_key=organization_id[:64])


def local(summary: str) -> dict[str, Any]:
    """Options of a local activity on our own records."""
    return {
        "start_to_close_timeout": timedelta(seconds=10),
        "retry_policy": RECORDS_RETRY,
        "local_retry_threshold": timedelta(seconds=5),
        "summary": summary,
    }


def records(summary: str, mode: str, organization_id: str) -> dict[str, Any]:
    """Options of a write on the queue `records`."""
    return {
        "task_queue": "records",
        "start_to_close_timeout": timedelta(seconds=20),
        "retry_policy": RECORDS_RETRY,
        "summary": summary,
        "priority": priority(mode, organization_id),
    }


def vendor_queue(mode: str) -> str:
    """Wedding-day calls have worker slots of their own."""
    return "vendor-critical" if mode == "wedding_day" else "vendor"
