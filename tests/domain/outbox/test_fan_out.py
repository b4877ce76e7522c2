from __future__ import annotations

from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.fan_out import Subscriber, fan_out

FAILED = DomainEvent(type="step.failed", data={"capability": "payments"}, wedding_id="w")
HELD = DomainEvent(type="step.held", data={"capability": "sms"}, wedding_id="w")
SUBSCRIBERS = [
    Subscriber(id="all", event_types=["*"], filters={}),
    Subscriber(id="failures", event_types=["step.failed"], filters={}),
    Subscriber(id="payments", event_types=["step.*"], filters={"data.capability": ["payments"]}),
]


def test_each_event_goes_to_those_who_want_it() -> None:
    found = [(one.event, one.subscriptions) for one in fan_out([FAILED, HELD], SUBSCRIBERS)]
    assert found == [(FAILED, ("all", "failures", "payments")), (HELD, ("all",))]


def test_what_nobody_wants_is_left_out_unless_it_is_kept() -> None:
    assert list(fan_out([HELD], SUBSCRIBERS[1:])) == []
    assert [one.subscriptions for one in fan_out([HELD], SUBSCRIBERS[1:], keep=True)] == [()]


def test_one_subscription_can_be_given_what_it_never_asked_for() -> None:
    assert [one.subscriptions for one in fan_out([HELD], SUBSCRIBERS, only="failures")] == [("failures",)]
