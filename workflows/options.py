"""Set timeouts, retries, queues and priorities of what workflows start, their waits, and a run's longest history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
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
#: A vendor's call is sent once; the saga decides whether and how to repeat it, since only it knows what is at stake.
ONCE = RetryPolicy(maximum_attempts=1)
#: Added to the HTTP timeout: a call may first find and then send, each within its own timeout.
CALL_MARGIN_SECONDS = 4.0
#: The longest single timer; what lies farther ahead is then resolved anew.
LONGEST_TIMER = timedelta(days=30)


def start_to_close_seconds(http_timeout_seconds: float) -> float:
    """Return how long a vendor call's activity may run."""
    return http_timeout_seconds + CALL_MARGIN_SECONDS


def is_long() -> bool:
    """Tell whether the run's history has grown so long that it is continued as a new one."""
    info = workflow.info()
    return info.is_continue_as_new_suggested() or info.get_current_history_length() > saga.LONG_HISTORY_EVENTS


async def wait_until(until: datetime, is_cut_short: Callable[[], bool], why: str) -> None:
    """Wait for an instant, or until something cuts the wait short."""
    seconds = (until - workflow.now()).total_seconds()
    if seconds <= 0 or is_cut_short():
        return
    try:
        await workflow.wait_condition(is_cut_short, timeout=timedelta(seconds=seconds), timeout_summary=why)
    except TimeoutError:
        return


def priority(mode: str, organization_id: str) -> Priority:
    """Put wedding-day work first; organizations share fairly."""
    return Priority(priority_key=_PRIORITY_BY_MODE.get(mode, 3), fairness_key=organization_id[:64])


def local(summary: str) -> dict[str, Any]:
    """Return the options of a local activity on our own records."""
    return {
        "start_to_close_timeout": timedelta(seconds=10),
        "retry_policy": RECORDS_RETRY,
        "local_retry_threshold": timedelta(seconds=5),
        "summary": summary,
    }


def records(summary: str, mode: str, organization_id: str) -> dict[str, Any]:
    """Return the options of a write on the queue `records`."""
    return {
        "task_queue": "records",
        "start_to_close_timeout": timedelta(seconds=20),
        "retry_policy": RECORDS_RETRY,
        "summary": summary,
        "priority": priority(mode, organization_id),
    }


def vendor_queue(mode: str) -> str:
    """Return the queue of vendors' calls: those of a wedding day have worker slots of their own."""
    return "vendor-critical" if mode == "wedding_day" else "vendor"
