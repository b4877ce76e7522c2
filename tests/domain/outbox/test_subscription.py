from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from wedsync.domain.errors import InvalidInput
from wedsync.domain.outbox import schedule, signing, subscription
from wedsync.domain.outbox.catalogue import EVENT_TYPES, CeremonyTime, envelope
from wedsync.domain.outbox.domain_events import Change, WeddingFacts, domain_events
from wedsync.domain.outbox.matching import check_filters, check_patterns, passes, wants
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Event
from wedsync.domain.outbox.subscription import DeliveryAttempt, OpenDelivery, SubscriptionState

NOW = datetime(2031, 6, 1, 12, tzinfo=UTC)
POLICY = DeliveryRetryPolicy()
ROME = CeremonyTime(local="2031-06-19T16:00", zone="Europe/Rome", instant=datetime(2031, 6, 19, 14, tzinfo=UTC))
WEDDING = WeddingFacts(id="w1", organization_id="o1", reference="anna-ben", ceremony=ROME)


# -- the schedule -----------------------------------------------------------------------------------------------------


def test_the_default_schedule_is_the_stated_one() -> None:
    assert [wait.total_seconds() for wait in schedule.waits(POLICY)] == [5, 300, 1800, 7200, 18000, 36000, 36000]
    assert schedule.total(POLICY) == timedelta(hours=27, minutes=35, seconds=5)


def test_the_last_attempt_has_no_next() -> None:
    assert schedule.wait_after(POLICY, 8, jitter=0, now=NOW) is None
    assert schedule.wait_after(DeliveryRetryPolicy(max_attempts=1), 1, jitter=0, now=NOW) is None


@given(st.integers(1, 20), st.sampled_from(["exponential", "fixed"]), st.floats(0, 0.999))
def test_jitter_takes_off_a_tenth_at_the_most(attempts: int, backoff: Any, jitter: float) -> None:
    policy = DeliveryRetryPolicy(max_attempts=attempts, backoff=backoff)
    for number, planned in enumerate(schedule.waits(policy), 1):
        wait = schedule.wait_after(policy, number, jitter=jitter, now=NOW)
        assert wait is not None
        assert 0.9 * planned <= wait <= planned


@given(st.floats(60, 100_000))
def test_the_attempts_left_fit_into_the_time_that_an_event_is_useful(seconds: float) -> None:
    now, useful_until, count = NOW, NOW + timedelta(seconds=seconds), 1
    while (wait := schedule.wait_after(POLICY, count, jitter=0, now=now, useful_until=useful_until)) is not None:
        now, count = now + wait, count + 1
    shortest = timedelta(seconds=5)
    assert now <= useful_until + 7 * shortest


@pytest.mark.parametrize(("said", "waited"), [(0, 5), (60, 60), (3600, 3600), (86_400, 3600)])
def test_retry_after_is_honoured_and_capped(said: int, waited: int) -> None:
    wait = schedule.wait_after(POLICY, 1, jitter=0, now=NOW, retry_after=timedelta(seconds=said))
    assert wait == timedelta(seconds=waited)


# -- the endpoint -----------------------------------------------------------------------------------------------------


def state(**changes: Any) -> SubscriptionState:
    values = {"id": "s", "organization_id": "o1", "url": "https://x.test/", "status": "active", "policy": POLICY}
    return SubscriptionState.model_validate({**values, **changes})


def attempt(status: int | None, at: datetime = NOW, **changes: Any) -> DeliveryAttempt:
    error = None if status is not None and 200 <= status < 300 else "no"
    values = {"delivery_id": "d", "subscription_id": "s", "at": at, "duration_ms": 1, "status": status, "error": error}
    return DeliveryAttempt.model_validate({**values, **changes})


def after(before: SubscriptionState, *attempts: DeliveryAttempt, now: datetime = NOW) -> SubscriptionState:
    return subscription.after_attempts(before, attempts, jitter=0, now=now)


@pytest.mark.parametrize(
    ("statuses", "becomes"),
    [
        ([200, 204], "active"),
        ([500], "active"),
        ([500, 500], "active"),
        ([500, 500, 500], "failing"),
        ([500, 500, 200, 500, 500], "active"),
        ([302, 404, 400], "failing"),
        ([None], "failing"),
        ([429], "failing"),
        ([410], "disabled"),
        ([200, 410, 200], "disabled"),
    ],
)
def test_what_answers_make_of_an_active_endpoint(statuses: list[int | None], becomes: str) -> None:
    assert after(state(), *(attempt(status) for status in statuses)).status == becomes


def test_what_was_sent_before_it_failed_is_no_probe() -> None:
    failing = after(state(), attempt(None))
    late = after(failing, attempt(None), attempt(None))
    assert (late.round, late.next_probe_at) == (1, NOW + timedelta(seconds=5))


def test_each_failed_probe_waits_longer_and_the_last_exhausts() -> None:
    now = NOW
    found, rounds = after(state(), attempt(None)), 0
    while found.status == "failing":
        assert found.next_probe_at is not None
        now = found.next_probe_at
        found, rounds = after(found, attempt(500, now), now=now), rounds + 1
    assert (found.status, found.reason, rounds) == ("disabled", "exhausted", 7)
    assert now - NOW == schedule.total(POLICY)


@pytest.mark.parametrize("minutes", [2, 120, 1200])
def test_an_urgent_event_brings_probes_closer_but_the_end_and_its_warnings_no_nearer(minutes: int) -> None:
    urgent_until = NOW + timedelta(minutes=minutes)

    def failed(before: SubscriptionState, now: datetime) -> SubscriptionState:
        urgent = urgent_until if now < urgent_until else None
        return subscription.after_attempts(before, [attempt(None, now)], jitter=0.999, now=now, useful_until=urgent)

    found, now, given_, before_the_day = failed(state(), NOW), NOW, [], 0
    while found.status == "failing":
        assert found.next_probe_at is not None
        now = found.next_probe_at
        before_the_day += now < urgent_until
        percent = subscription.due_warning(found, now)
        if percent is not None:
            given_.append(percent)
            found = found.model_copy(update={"warned": percent})
        found = failed(found, now)
    unhurried = sum(end < timedelta(minutes=minutes) for end in itertools.accumulate(schedule.waits(POLICY)))
    assert before_the_day > unhurried
    assert (found.status, found.reason, given_[-1]) == ("disabled", "exhausted", 90)
    assert (
        0.9 * schedule.total(POLICY) - timedelta(seconds=1)
        <= now - NOW
        <= schedule.total(POLICY) + timedelta(seconds=5)
    )


def test_an_outage_of_our_own_uses_none_of_an_endpoints_probes_up() -> None:
    late = NOW + timedelta(days=3)
    found = after(after(state(), attempt(None)), attempt(None, late), now=late)
    assert (found.status, found.next_probe_at) == ("failing", late + timedelta(minutes=5))


def test_an_answered_probe_begins_recovery() -> None:
    failing = after(state(), attempt(None))
    well = after(failing, attempt(200, NOW + timedelta(seconds=5)))
    assert (well.status, well.round, well.consecutive_failures) == ("recovering", 0, 0)
    assert subscription.recovered(well).status == "active"


def test_an_endpoint_that_throttles_for_ever_is_exhausted_too() -> None:
    found, now = after(state(), attempt(429)), NOW
    for _ in range(10_000):
        if found.status != "failing":
            break
        assert found.next_probe_at is not None
        now = found.next_probe_at
        found = after(found, attempt(429, now, retry_after=timedelta(hours=1)), now=now)
    assert (found.status, found.pace_per_second) == ("disabled", subscription.SLOWEST_PACE_PER_SECOND)


def test_success_gives_the_pace_back_step_by_step() -> None:
    found = after(state(), attempt(429))
    assert found.pace_per_second == 4
    found = after(found.model_copy(update={"status": "recovering"}), *[attempt(200)] * 3)
    assert found.pace_per_second == 32
    assert after(found, attempt(200)).pace_per_second is None


def test_warnings_come_at_50_70_and_90_percent_once_each() -> None:
    failing, given_ = after(state(), attempt(None)), []
    for hours in range(28):
        now = NOW + timedelta(hours=hours)
        percent = subscription.due_warning(failing, now)
        if percent is not None:
            given_.append((hours, percent))
            failing = failing.model_copy(update={"warned": percent})
    assert given_ == [(14, 50), (20, 70), (25, 90)]
    assert subscription.next_warning_at(failing) is None


@pytest.mark.parametrize(
    ("status", "tries", "becomes", "tries_after"),
    [(200, 0, "delivered", 1), (500, 0, "retrying", 1), (500, 7, "failed", 8), (429, 7, "retrying", 7)],
)
def test_what_an_answer_makes_of_a_delivery(status: int, tries: int, becomes: str, tries_after: int) -> None:
    verdict = subscription.judge(OpenDelivery(id="d", tries=tries), attempt(status), POLICY, jitter=0, now=NOW)
    assert (verdict.status, verdict.tries) == (becomes, tries_after)


def test_a_probe_before_a_deliverys_own_time_uses_no_attempt_up() -> None:
    later = NOW + timedelta(hours=1)
    probed = OpenDelivery(id="d", tries=7, due_at=later)
    verdict = subscription.judge(probed, attempt(500), POLICY, jitter=0, now=NOW)
    assert (verdict.status, verdict.tries, verdict.due_at) == ("retrying", 7, later)
    assert subscription.judge(probed, attempt(500, later), POLICY, jitter=0, now=later).status == "failed"
    assert subscription.judge(probed, attempt(200), POLICY, jitter=0, now=NOW).status == "delivered"


# -- who wants what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "event_type", "wanted"),
    [
        (["*"], "payment.captured", True),
        (["payment.*"], "payment.captured", True),
        (["payment.captured"], "payment.captured", True),
        (["payment.*"], "transaction.completed", False),
        (["step.failed", "payment.*"], "step.failed", True),
        ([], "step.failed", False),
        (["*", "webhook.*", "webhook.test"], "webhook.test", False),
    ],
)
def test_patterns(patterns: list[str], event_type: str, wanted: bool) -> None:
    assert wants(patterns, event_type) is wanted


@pytest.mark.parametrize("pattern", ["", "pay*", "payment", "*.failed", "payment.**", "nothing.*", "payment.lost"])
def test_a_pattern_that_covers_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        check_patterns([pattern])


@pytest.mark.parametrize(
    ("filters", "passed"),
    [
        ({}, True),
        ({"wedding_id": ["w1", "w2"]}, True),
        ({"wedding_id": ["w2"]}, False),
        ({"data.capability": ["payments"], "wedding_id": ["w1"]}, True),
        ({"data.attempts": [True]}, False),
        ({"data.attempts": [1]}, True),
        ({"data.vendor": [None]}, True),
        ({"data.error.code": ["x"]}, False),
    ],
)
def test_filters(filters: dict[str, list[Any]], passed: bool) -> None:
    event = {"wedding_id": "w1", "data": {"capability": "payments", "attempts": 1, "vendor": None}}
    assert passes(filters, event) is passed


@pytest.mark.parametrize("path", ["organization_id", "data.", "data.a.b.c.d", "id", "data.A", "__class__"])
def test_a_filter_over_no_field_of_events_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        check_filters({path: ["x"]})


# -- what happened ----------------------------------------------------------------------------------------------------

STEP = {"id": "deposit", "service": "venue", "capability": "payments", "action": "payments.collect"}


def change(kind: str, data: dict[str, Any], previous: dict[str, Any] | None = None) -> Change:
    return Change(id=9, kind=kind, data=data, previous=previous)


def step(status: str, **changes: Any) -> dict[str, Any]:
    return {**STEP, "status": status, **changes}


def transaction(status: str) -> dict[str, Any]:
    return {"id": "t1", "kind": "orchestrate", "status": status}


WEDDING_DATA = {"id": "w1", "status": "planned", "phase": "preparation", "mode": "normal", "plan_version": 1}
UNDONE = {"status": "undone", "attempts": 1, "detail": None}


@pytest.mark.parametrize(
    ("happened", "types"),
    [
        (change("wedding", WEDDING_DATA), ["wedding.created", "client.created"]),
        (change("wedding", WEDDING_DATA, WEDDING_DATA), []),
        (change("wedding", {**WEDDING_DATA, "mode": "wedding_day"}, WEDDING_DATA), ["wedding.updated"]),
        (change("transaction", transaction("running")), ["transaction.started"]),
        (change("transaction", transaction("running"), transaction("running")), []),
        (
            change("transaction", transaction("completed"), transaction("running")),
            ["transaction.completed", "payment.completed"],
        ),
        (change("step", step("running")), []),
        (change("step", step("succeeded"), step("running")), ["step.succeeded", "payment.captured"]),
        (
            change("step", step("succeeded", fallback_used=True), step("running")),
            ["step.succeeded", "vendor.failed_over", "payment.captured"],
        ),
        (change("step", step("succeeded", attempts=2), step("succeeded")), []),
        (change("step", step("failed"), step("running")), ["step.failed"]),
        (
            change("step", step("succeeded", compensation=UNDONE), step("succeeded")),
            ["step.undone", "payment.refunded"],
        ),
        (change("step", step("succeeded", compensation=UNDONE), step("succeeded", compensation=UNDONE)), []),
        (change("step", {"id": "deposit", "status": "held", "reminder": True}, step("held")), []),
    ],
)
def test_what_a_change_means_to_others(happened: Change, types: list[str]) -> None:
    found = domain_events([happened], WEDDING, {"t1": [step("succeeded")]})
    assert [item.type for item in found] == types
    for item in found:
        assert (item.sequence, item.wedding_id) == (9, "w1")
        whole = {**item.model_dump(), "id": "evt_1", "timestamp": NOW, "organization_id": "o1"}
        envelope(EVENT_TYPES[item.type]).model_validate({**whole, "api_version": "2026-11-01"})


def test_a_moved_ceremony_is_told_with_both_times() -> None:
    moved = WEDDING.model_copy(update={"previous_ceremony": ROME.model_copy(update={"local": "2031-06-19T15:00"})})
    (found,) = domain_events([change("wedding", WEDDING_DATA, WEDDING_DATA)], moved, {})
    assert found.type == "timeline.changed"
    assert (found.data["previous"]["local"], found.data["ceremony"]["local"]) == ("2031-06-19T15:00", ROME.local)
    assert found.useful_until == ROME.instant


# -- signatures -------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=24, max_size=64), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=5))
def test_the_reference_library_verifies_every_body(key: bytes, data: dict[str, str]) -> None:
    import base64

    secret = "whsec_" + base64.b64encode(key).decode()
    event = Event(
        id="evt_1",
        type="step.failed",
        data={**data, "id": "s"},
        occurred_at=NOW,
        organization_id="o1",
        wedding_id=None,
        sequence=None,
    )
    body = signing.body_of(event, "full", "2026-11-01")
    headers = signing.headers_of("evt_1", "d1", body, [secret], datetime.now(UTC))
    assert Webhook(secret).verify(body.decode(), headers)["data"] == event.data
