from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.inbox import triage as rules
from wedsync.domain.inbox.source import EventRetryPolicy
from wedsync.domain.inbox.triage import ClaimedRow, ContactReference, Match, Reference, WeddingRow
from wedsync.domain.vendors.event import VendorEvent

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
WEDDINGS = {
    "w1": WeddingRow(id="w1", organization_id="o1", ended=False),
    "w2": WeddingRow(id="w2", organization_id="o2", ended=True),
    "w3": WeddingRow(id="w3", organization_id="o1", ended=False),
}


def event(**changes: object) -> VendorEvent:
    values: dict[str, object] = {
        "source": "stripe",
        "event_id": "evt_1",
        "type": "payment.succeeded",
        "vendor_type": "x",
    }
    return VendorEvent.model_validate(values | changes)


def row(attempts: int = 0, age_seconds: float = 0) -> ClaimedRow:
    received_at = NOW - timedelta(seconds=age_seconds)
    return ClaimedRow(id=1, source="stripe", event_id="evt_1", event={}, attempts=attempts, received_at=received_at)


def held(*pairs: tuple[str, str]) -> dict[tuple[str, str], list[Reference]]:
    refs = [
        Reference(
            vendor="stripe",
            object_id="pi_1",
            organization_id=WEDDINGS[wedding].organization_id,
            wedding_id=wedding,
            step_id=step,
        )
        for wedding, step in pairs
    ]
    return {("stripe", "pi_1"): refs}


@pytest.mark.parametrize(
    ("named", "references", "expected"),
    [
        ({"wedding_id": "w1", "step_id": "deposit"}, {}, ("w1", "deposit")),
        ({"wedding_id": "w1", "step_id": "deposit", "object_id": "pi_1"}, held(("w2", "other")), ("w1", "deposit")),
        ({"wedding_id": "w1", "object_id": "pi_1"}, held(("w1", "deposit")), ("w1", "deposit")),
        ({"wedding_id": "w1", "object_id": "pi_1"}, held(("w1", "deposit"), ("w1", "rest")), ("w1", None)),
        ({"wedding_id": "nobody", "step_id": "x", "object_id": "pi_1"}, held(("w2", "deposit")), ("w2", "deposit")),
        ({"object_id": "pi_1"}, held(("w2", "deposit")), ("w2", "deposit")),
        ({"object_id": "pi_1"}, held(("w1", "deposit"), ("w2", "deposit")), None),
        ({"object_id": "pi_2"}, held(("w1", "deposit")), None),
        ({"wedding_id": "nobody"}, {}, None),
        ({}, {}, None),
    ],
)
def test_an_event_belongs_to_the_wedding_it_names_else_to_the_one_that_holds_its_object(
    named: dict[str, str],
    references: dict[tuple[str, str], list[Reference]],
    expected: tuple[str, str | None] | None,
) -> None:
    match = rules.find_match(event(**named), WEDDINGS, references)
    assert (match and (match.wedding_id, match.step_id)) == expected
    if match is not None:
        assert match.organization_id == WEDDINGS[match.wedding_id].organization_id
        assert match.ended is WEDDINGS[match.wedding_id].ended


def test_another_vendors_object_with_the_same_id_is_not_taken() -> None:
    assert rules.find_match(event(source="paypal", object_id="pi_1"), WEDDINGS, held(("w1", "deposit"))) is None


@pytest.mark.parametrize(
    ("event_type", "priority", "lane"),
    [
        ("payment.succeeded", 2, "normal"),
        ("booking.declined", 2, "normal"),
        ("message.delivered", 3, "normal"),
        ("other", 4, "normal"),
    ],
)
def test_answers_that_steps_wait_for_go_before_reports(event_type: str, priority: int, lane: str) -> None:
    assert rules.priority_of(event_type) == priority
    assert rules.lane_of(priority) == lane


def test_only_priority_one_takes_the_critical_lane() -> None:
    assert [rules.lane_of(priority) for priority in (1, 2, 3, 4)] == ["critical", "normal", "normal", "normal"]


def test_an_event_with_faults_of_its_own_waits_longer_each_time_up_to_the_cap_and_is_dead_in_the_end() -> None:
    policy = EventRetryPolicy(max_retries=4, first_seconds=10, multiplier=3, cap_seconds=60)
    verdicts = [rules.after_fault(row(attempts), "does not fit", NOW, policy=policy) for attempts in range(5)]
    assert [verdict.state for verdict in verdicts] == ["retrying"] * 4 + ["dead"]
    assert [verdict.attempts for verdict in verdicts] == [1, 2, 3, 4, 5]
    waits = [(verdict.due_at - NOW).total_seconds() for verdict in verdicts if verdict.due_at is not None]
    assert waits == [10, 30, 60, 60]
    assert all(verdict.error == "does not fit" for verdict in verdicts)


@given(st.builds(EventRetryPolicy), st.integers(1, 10_000))
def test_a_wait_never_exceeds_its_cap_and_ends_with_the_retries(policy: EventRetryPolicy, attempts: int) -> None:
    wait = policy.wait(attempts)
    assert (wait is None) is (attempts > policy.max_retries)
    assert wait is None or 0 < wait.total_seconds() <= policy.cap_seconds


def contact(digest: bytes, wedding: str) -> ContactReference:
    owner = WEDDINGS[wedding].organization_id
    return ContactReference(digest=digest, organization_id=owner, wedding_id=wedding)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([contact(b"a", "w1")], "w1"),
        # The wedding is over.
        ([contact(b"a", "w2")], None),
        ([contact(b"a", "w1"), contact(b"a", "w2")], "w1"),
        ([contact(b"a", "w1"), contact(b"a", "w3")], None),
        ([contact(b"a", "w1"), contact(b"a", "w3"), contact(b"b", "w3")], "w3"),
        ([contact(b"a", "w1"), contact(b"b", "w3")], None),
        ([], None),
    ],
)
def test_an_event_that_names_nothing_else_belongs_to_the_only_living_wedding_that_knows_its_contacts(
    known: list[ContactReference], expected: str | None
) -> None:
    match = rules.find_match(event(), WEDDINGS, {}, contacts=known)
    assert (match and match.wedding_id) == expected


def test_a_registered_sources_event_is_never_another_organizations() -> None:
    references = held(("w1", "deposit"))
    for named in (event(wedding_id="w1"), event(object_id="pi_1")):
        assert rules.find_match(named, WEDDINGS, references, organization_id="o2") is None
        assert rules.find_match(named, WEDDINGS, references, organization_id="o1") is not None
    assert rules.find_match(event(), WEDDINGS, {}, organization_id="o2", contacts=[contact(b"a", "w1")]) is None


def test_a_calendars_event_is_found_by_its_channel() -> None:
    told = event(source="google_calendar", object_id="resource", facts={"channel_id": "chan"})
    reference = Reference(
        vendor="google_calendar", object_id="chan", organization_id="o1", wedding_id="w1", step_id="calendar"
    )
    match = rules.find_match(told, WEDDINGS, {("google_calendar", "chan"): [reference]})
    assert (match and match.step_id) == "calendar"


def test_only_what_is_surely_older_is_overtaken() -> None:
    assert rules.is_overtaken(event(occurred_at=NOW), NOW + timedelta(seconds=1))
    assert not rules.is_overtaken(event(occurred_at=NOW), NOW)
    assert not rules.is_overtaken(event(occurred_at=NOW), NOW - timedelta(seconds=1))
    assert not rules.is_overtaken(event(), NOW)
    assert not rules.is_overtaken(event(occurred_at=NOW), None)


@given(st.text(max_size=2000))
def test_a_kept_reason_is_never_longer_than_its_limit(reason: str) -> None:
    assert len(rules.after_fault(row(), reason, NOW).error or "") <= rules.MAX_ERROR_LENGTH


def test_an_unclaimed_event_is_looked_at_about_ten_times_in_its_first_ten_minutes() -> None:
    # However long nobody looked: the reference is written by those who were away as well.
    first_check = NOW + timedelta(hours=3)
    checked, looks, now = None, [], first_check
    while True:
        looks.append((now - first_check).total_seconds())
        verdict = rules.unclaimed(row().model_copy(update={"received_at": NOW, "first_looked_at": checked}), now)
        checked = first_check
        assert verdict.state == "unmatched"
        if verdict.due_at is None:
            break
        now = verdict.due_at
    assert looks == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_an_event_of_an_ended_wedding_is_settled_and_of_a_living_one_is_tried_again() -> None:
    match = Match(organization_id="o1", wedding_id="w1", step_id=None, ended=True)
    settled = rules.after_silence(row(), match, NOW)
    assert (settled.state, settled.error, settled.due_at) == ("processed", "the wedding has ended", None)
    living = rules.after_silence(row(), match.model_copy(update={"ended": False}), NOW)
    assert (living.state, living.attempts, living.match is not None) == ("retrying", 1, True)
