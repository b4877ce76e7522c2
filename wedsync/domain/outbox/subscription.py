"""Judge an endpoint, and its deliveries, by its answers. Pure.

active: first attempts are sent. failing: only one probe at a time is sent, and events are parked. recovering: a
probe was answered, and parked events are sent in order; then active. paused (by its owner) and disabled (gone, or
exhausted): events are parked until it is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.outbox import schedule
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.value import Value

SubscriptionStatus = Literal["active", "failing", "recovering", "paused", "disabled", "deleted"]
DeliveryStatus = Literal["pending", "retrying", "delivered", "failed"]
#: `no_answer`: timed out, refused, unreachable or forbidden by the SSRF policy.
Outcome = Literal["ok", "refused", "no_answer", "throttled", "gone"]

#: After so many failures in a row, with no success between, the endpoint itself fails.
FAILURES_IN_A_ROW = 3
#: The pace after the first 429 without a known rate, the slowest pace, and the pace from which the limit ends.
FIRST_PACE_PER_SECOND = 4.0
SLOWEST_PACE_PER_SECOND = 0.1
FULL_PACE_PER_SECOND = 64.0
WARNINGS = (50, 70, 90)


class DeliveryAttempt(Value):
    """One attempt at a delivery, and its outcome."""

    delivery_id: str
    subscription_id: str
    at: datetime
    duration_ms: int
    #: None: there was no answer.
    status: int | None
    #: The answer's beginning.
    response: str = ""
    #: Why it counts as a failure.
    error: str | None = None
    retry_after: timedelta | None = None


class SubscriptionState(Value):
    """An endpoint's health."""

    id: str
    organization_id: str
    url: str
    status: SubscriptionStatus
    reason: str | None = None
    policy: DeliveryRetryPolicy
    consecutive_failures: int = 0
    #: Probes that failed since `failing_since`.
    round: int = 0
    failing_since: datetime | None = None
    next_probe_at: datetime | None = None
    #: The last of `WARNINGS` that was given; 0: none.
    warned: int = 0
    #: Deliveries a second, after a 429; None: as the subscription says.
    pace_per_second: float | None = None


class OpenDelivery(Value):
    """A delivery at the moment of an attempt."""

    id: str
    #: Attempts since it was first due or last replayed.
    tries: int
    useful_until: datetime | None = None
    #: Its own time, which a probe of its endpoint may come before; None: it has come.
    due_at: datetime | None = None


class Verdict(Value):
    """Outcome of a delivery."""

    status: DeliveryStatus
    tries: int
    #: When it is due again.
    due_at: datetime | None = None


def outcome_of(attempt: DeliveryAttempt) -> Outcome:
    """Classify an attempt: any 2xx is a success; a redirect is not followed and counts as a refusal."""
    if attempt.status is None:
        return "no_answer"
    if 200 <= attempt.status < 300:
        return "ok"
    return {410: "gone", 429: "throttled"}.get(attempt.status, "refused")  # type: ignore[return-value]


def judge(
    delivery: OpenDelivery, attempt: DeliveryAttempt, policy: DeliveryRetryPolicy, *, jitter: float, now: datetime
) -> Verdict:
    """Decide what follows for a delivery after an attempt.

    A 429, or a failed probe before the delivery's own time, uses up no attempt.
    """
    outcome = outcome_of(attempt)
    if outcome == "ok":
        return Verdict(status="delivered", tries=delivery.tries + 1)
    if outcome == "throttled":
        wait = _throttled_wait(attempt)
        return Verdict(status="retrying", tries=delivery.tries, due_at=now + wait)
    if delivery.due_at is not None and attempt.at < delivery.due_at:
        return Verdict(status="retrying", tries=delivery.tries, due_at=delivery.due_at)
    tries = delivery.tries + 1
    wait_or_none = schedule.wait_after(
        policy, tries, jitter=jitter, now=now, useful_until=delivery.useful_until, retry_after=attempt.retry_after
    )
    if wait_or_none is None:
        return Verdict(status="failed", tries=tries)
    return Verdict(status="retrying", tries=tries, due_at=now + wait_or_none)


def after_attempts(
    state: SubscriptionState,
    attempts: Sequence[DeliveryAttempt],
    *,
    jitter: float,
    now: datetime,
    useful_until: datetime | None = None,
) -> SubscriptionState:
    """Return the endpoint after attempts, oldest first. `useful_until`: of the most urgent waiting delivery."""
    for attempt in attempts:
        state = _after(state, attempt, jitter=jitter, now=now, useful_until=useful_until)
    return state


def _after(
    state: SubscriptionState, attempt: DeliveryAttempt, *, jitter: float, now: datetime, useful_until: datetime | None
) -> SubscriptionState:
    outcome = outcome_of(attempt)
    if state.status not in ("active", "failing", "recovering"):
        return state
    if outcome == "ok":
        return _after_success(state)
    if outcome == "gone":
        return _with(state, status="disabled", reason="gone", next_probe_at=None)
    if outcome == "throttled":
        pace = max(SLOWEST_PACE_PER_SECOND, (state.pace_per_second or 2 * FIRST_PACE_PER_SECOND) / 2)
        throttled = _with(state, pace_per_second=pace, failing_since=state.failing_since or now)
        if _is_out_of_time(throttled, now):
            return _exhausted(throttled)
        return _with(throttled, status="failing", reason="throttled", next_probe_at=now + _throttled_wait(attempt))
    failures = state.consecutive_failures + 1
    state = _with(state, consecutive_failures=failures)
    if state.status == "failing" and not _is_probe(state, attempt):
        # Sent before it was known to fail.
        return state
    if state.status != "failing" and outcome == "refused" and failures < FAILURES_IN_A_ROW:
        return state
    return _next_round(state, attempt, jitter=jitter, now=now, useful_until=useful_until)


def _is_probe(state: SubscriptionState, attempt: DeliveryAttempt) -> bool:
    return state.next_probe_at is not None and attempt.at >= state.next_probe_at


def _next_round(
    state: SubscriptionState, attempt: DeliveryAttempt, *, jitter: float, now: datetime, useful_until: datetime | None
) -> SubscriptionState:
    """Let the endpoint fail, or fail still: schedule the next probe, or none any more.

    An urgent event brings probes closer together, but the end no nearer: only more probes and more time together lead
    there, neither alone.
    """
    is_first = state.status != "failing"
    retry_round = 1 if is_first else state.round + 1
    since = now if is_first or state.failing_since is None else state.failing_since
    number = min(retry_round, 1 + schedule.passed(state.policy, now - since))
    wait = schedule.wait_after(
        state.policy,
        number,
        jitter=jitter,
        now=now,
        useful_until=useful_until,
        retry_after=attempt.retry_after,
        # Hurried probes are out of step, and the last one must not come after the end.
        most=since + schedule.total(state.policy) - now if retry_round > number else None,
    )
    failing = _with(state, round=retry_round, failing_since=since)
    if wait is None:
        return _exhausted(failing)
    warned = 0 if is_first else state.warned
    return _with(failing, status="failing", reason=attempt.error, next_probe_at=now + wait, warned=warned)


def _after_success(state: SubscriptionState) -> SubscriptionState:
    pace = None if state.pace_per_second is None else state.pace_per_second * 2
    changes: dict[str, object] = {
        "consecutive_failures": 0,
        "pace_per_second": None if pace is None or pace >= FULL_PACE_PER_SECOND else pace,
    }
    if state.status == "failing":
        changes |= {"status": "recovering", "reason": None, "round": 0, "next_probe_at": None, "warned": 0}
    return state.model_copy(update=changes)


def recovered(state: SubscriptionState) -> SubscriptionState:
    """Make the endpoint active: nothing is parked any more."""
    return _with(state, status="active", reason=None, failing_since=None, next_probe_at=None, round=0, warned=0)


def due_warning(state: SubscriptionState, now: datetime) -> int | None:
    """Return the highest of `WARNINGS` that is due and was not given."""
    if state.failing_since is None:
        return None
    times = schedule.warning_times(state.policy, state.failing_since)
    due = [percent for percent in WARNINGS if percent > state.warned and times[percent] <= now]
    return due[-1] if due else None


def next_warning_at(state: SubscriptionState) -> datetime | None:
    """Return when the next warning is due."""
    if state.failing_since is None:
        return None
    times = schedule.warning_times(state.policy, state.failing_since)
    return next((times[percent] for percent in WARNINGS if percent > state.warned), None)


def _is_out_of_time(state: SubscriptionState, now: datetime) -> bool:
    return state.failing_since is not None and now - state.failing_since > schedule.total(state.policy)


def _exhausted(state: SubscriptionState) -> SubscriptionState:
    return _with(state, status="disabled", reason="exhausted", next_probe_at=None)


def _throttled_wait(attempt: DeliveryAttempt) -> timedelta:
    return min(attempt.retry_after or schedule.THROTTLED_WAIT, schedule.RETRY_AFTER_CAP)


def _with(state: SubscriptionState, **changes: object) -> SubscriptionState:
    return state.model_copy(update=changes)
