from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.routing.vendor import VendorEvent
from wedsync.domain.webhooks import inbox as rules
from wedsync.domain.webhooks.inbox import ClaimedRow, Match, Reference, WeddingRow

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
WEDDINGS = {
    "w1": WeddingRow(id="w1", organization_id="o1", ended=False),
    "w2": WeddingRow(id="w2", organization_id="o2", ended=True),
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
    match = rules.find_match("stripe", event(**named), WEDDINGS, references)
    assert (match and (match.wedding_id, match.step_id)) == expected
    if match is not None:
        assert match.organization_id == WEDDINGS[match.wedding_id].organization_id
        assert match.ended is WEDDINGS[match.wedding_id].ended


def test_another_vendors_object_with_the_same_id_is_not_taken() -> None:
    assert rules.find_match("paypal", event(object_id="pi_1"), WEDDINGS, held(("w1", "deposit"))) is None


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


def test_an_event_with_faults_of_its_own_is_put_off_longer_each_time_and_dead_at_the_fifth() -> None:
    verdicts = [rules.after_fault(row(attempts), "does not fit", NOW) for attempts in range(5)]
    assert [verdict.state for verdict in verdicts] == ["received"] * 4 + ["dead"]
    assert [verdict.attempts for verdict in verdicts] == [1, 2, 3, 4, 5]
    waits = [verdict.due_at - NOW for verdict in verdicts if verdict.due_at is not None]
    assert waits == list(rules.BACKOFF)
    assert all(verdict.error == "does not fit" for verdict in verdicts)


@given(st.text(max_size=2000))
def test_a_kept_reason_is_never_longer_than_its_limit(reason: str) -> None:
    assert len(rules.after_fault(row(), reason, NOW).error or "") <= rules.MAX_ERROR_LENGTH


def test_an_unclaimed_event_is_looked_at_about_ten_times_in_its_first_ten_minutes() -> None:
    received_at, looks, now = NOW, [], NOW
    while True:
        looks.append((now - received_at).total_seconds())
        verdict = rules.unclaimed(row().model_copy(update={"received_at": received_at}), now)
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
    assert (living.state, living.attempts, living.match is not None) == ("received", 1, True)
