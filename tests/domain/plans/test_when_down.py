from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plans import email, payment, plan, sms
from wedsync.domain.plans import when_down
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.load import plan_from_json
from wedsync.domain.plans.plan import Degradation
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest
from wedsync.vendors.registry import load_registry

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
WEATHER = {
    "id": "weather",
    "action": "weather.forecast",
    "service": "weather",
    "inputs": {"latitude": 46.0, "longitude": 9.3},
}


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, Manifest]:
    return load_registry().manifests


def codes(manifests: Mapping[str, Manifest], *steps: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    return [(error.field, error.code) for error in check_plan(plan(*steps, **more), manifests)]


def test_a_step_s_word_comes_before_its_capability_s_and_without_any_it_fails(
    manifests: Mapping[str, Manifest],
) -> None:
    given_plan = plan(
        payment(),
        sms(when_down={"then": "skip"}),
        email(),
        when_down={"payments": {"then": "queue", "max_wait": "2d"}, "sms": {"then": "ask"}},
    )
    compiled = {step.id: step.when_down for step in compile_plan(given_plan, manifests)}
    assert compiled == {
        "deposit": Degradation(do="queue", max_wait_seconds=172_800),
        "sms": Degradation(do="skip"),
        "email": Degradation(do="fail"),
    }


def test_lengths_left_out_are_a_day(manifests: Mapping[str, Manifest]) -> None:
    (weather,) = compile_plan(plan(WEATHER, when_down={"weather": {"then": "cached"}}), manifests)
    assert weather.when_down == Degradation(do="cached", max_age_seconds=86_400)
    (queued,) = compile_plan(plan(sms(when_down={"then": "queue"})), manifests)
    assert queued.when_down.max_wait_seconds == 86_400


def test_an_unknown_behaviour_is_refused() -> None:
    data = plan(sms()).model_dump(mode="json", exclude_none=True)
    data["steps"][0]["when_down"] = {"then": "pray"}
    _, errors = plan_from_json(data)
    assert [(error.field, error.code) for error in errors] == [("steps[0].when_down.then", "bad_value")]


def test_only_reads_are_answered_from_before(manifests: Mapping[str, Manifest]) -> None:
    assert codes(manifests, sms(when_down={"then": "cached"})) == [("steps[0].when_down.then", "conflicting_keys")]
    assert codes(manifests, sms(), when_down={"sms": {"then": "cached"}}) == [
        ("when_down.sms.then", "conflicting_keys")
    ]
    assert codes(manifests, WEATHER, when_down={"weather": {"then": "cached", "max_age": "2h"}}) == []


def test_a_length_that_says_nothing_or_is_none_is_refused(manifests: Mapping[str, Manifest]) -> None:
    assert codes(manifests, sms(when_down={"then": "skip", "max_wait": "2h"})) == [
        ("steps[0].when_down.max_wait", "conflicting_keys")
    ]
    assert codes(manifests, sms(when_down={"then": "queue", "max_wait": "0s"})) == [
        ("steps[0].when_down.max_wait", "bad_duration")
    ]


def test_a_capability_that_nobody_has_is_refused(manifests: Mapping[str, Manifest]) -> None:
    assert codes(manifests, sms(), when_down={"telepathy": {"then": "skip"}}) == [
        ("when_down.telepathy", "unknown_capability")
    ]


def test_what_may_be_skipped_gives_a_default_to_who_refers_to_it(manifests: Mapping[str, Manifest]) -> None:
    forecast = {**WEATHER, "when_down": {"then": "skip"}}
    dispatcher = email(text="It will be ${weather.summary}.")
    assert codes(manifests, forecast, dispatcher) == [("steps[0].when_down", "missing_default")]
    assert codes(manifests, {**forecast, "default_results": {"summary": "fine"}}, dispatcher) == []


@given(waited=st.integers(0, 200_000), left=st.integers(1, 200_000), jitter=st.floats(0, 0.999))
def test_a_queued_step_is_tried_soon_ever_less_often_and_at_its_end(waited: int, left: int, jitter: float) -> None:
    since, until = NOW - timedelta(seconds=waited), NOW + timedelta(seconds=left)
    look = when_down.next_recheck(since, until, NOW, jitter)
    assert look is not None
    assert NOW < look <= until
    assert look - NOW <= timedelta(minutes=15)
    assert look == until or look - NOW >= timedelta(seconds=48)


def test_a_queue_whose_time_is_up_is_not_looked_at_again() -> None:
    assert when_down.next_recheck(NOW - timedelta(hours=1), NOW, NOW, 0.0) is None


def test_a_question_is_the_same_whatever_the_order_of_its_words() -> None:
    one = when_down.question("weather.forecast", {"latitude": 1.0, "longitude": 2.0})
    assert one == when_down.question("weather.forecast", {"longitude": 2.0, "latitude": 1.0})
    assert one != when_down.question("weather.forecast", {"longitude": 2.0, "latitude": 1.5})


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_an_age_reads_well(seconds: float, words: str) -> None:
    assert when_down.age_in_words(seconds) == words
