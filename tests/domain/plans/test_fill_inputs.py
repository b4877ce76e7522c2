from collections.abc import Callable
from typing import Any

import pytest

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.fill_inputs import materialize
from wedsync.domain.plans.plan import Plan, PlannedStep

Load = Callable[[dict[str, Any]], Plan]
Compiled = Callable[[dict[str, Any]], dict[str, PlannedStep]]
RESULTS: dict[str, Any] = {"venue": {"reference": "R7"}, "deposit": {"amount_minor": 1250}}
ANA = {"id": "ana", "name": "Ana", "email": "ana@example.com", "phone": "+390318125551", "instrument": None}


@pytest.fixture
def filled(data: dict[str, Any], load: Load, compiled: Compiled) -> Callable[..., dict[str, Any]]:
    def fill(step_id: str, vendor: str, **inputs: Any) -> dict[str, Any]:
        next(step for step in data["steps"] if step["id"] == step_id)["inputs"].update(inputs)
        return materialize(compiled(data)[step_id], vendor, load(data), RESULTS)

    return fill


def test_a_payment_has_minor_units_and_the_instrument_of_the_vendor_at_hand(filled: Callable[..., Any]) -> None:
    assert filled("deposit", "stripe") == {
        "amount": "12.50", "currency": "EUR", "amount_minor": 1250, "description": "for R7",
        "payer": ANA | {"instrument": "pm_1"},
    }  # fmt: skip
    assert filled("deposit", "paypal")["payer"]["instrument"] == "v_1"
    yen = filled("deposit", "stripe", amount="80000", currency="JPY")
    assert (yen["amount_minor"], yen["currency"]) == (80000, "JPY")


def test_a_booking_has_its_moments_price_and_way_of_answering(data: dict[str, Any], filled: Callable[..., Any]) -> None:
    booking = filled("venue", "generic", minutes=90)
    assert booking["starts"] == {
        "local": "2027-06-19T16:00:00",
        "zone": "Europe/Rome",
        "instant": "2027-06-19T14:00:00Z",
    }
    assert booking["ends"]["local"] == "2027-06-19T17:30:00"
    assert (booking["price"], booking["price_minor"], booking["currency"]) == ("100.00", 10000, "EUR")
    assert (booking["answer"], booking["contact"]) == ("now", ANA)
    data["services"][0]["real_time_updates"] = True
    data["steps"][0]["inputs"].pop("price")
    waiting = filled("venue", "generic")
    assert (waiting["answer"], waiting["price"], waiting["price_minor"]) == ("webhook", None, None)


def test_an_event_relative_to_the_ceremony_shows_the_wall_of_its_zone(filled: Callable[..., Any]) -> None:
    assert filled("event", "google_calendar")["starts"]["local"] == "2027-06-19T14:00:00"
    tokyo = filled("event", "google_calendar", zone="Asia/Tokyo")
    assert tokyo["starts"] == {"local": "2027-06-19T21:00:00", "zone": "Asia/Tokyo", "instant": "2027-06-19T12:00:00Z"}
    assert tokyo["attendees"] == [ANA]


def test_minutes_pass_over_a_change_of_the_clock(filled: Callable[..., Any]) -> None:
    event = filled("event", "google_calendar", starts="2027-10-31T02:30", fold="earlier", minutes=60)
    assert (event["starts"]["instant"], event["ends"]["instant"]) == ("2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z")
    assert event["starts"]["local"] == event["ends"]["local"] == "2027-10-31T02:30:00"


def test_the_same_arguments_give_the_same_inputs(filled: Callable[..., Any]) -> None:
    assert filled("venue", "generic") == filled("venue", "generic")


def test_a_message_has_its_person_and_resolved_text(filled: Callable[..., Any]) -> None:
    assert filled("email", "resend") == {"to": ANA, "subject": "S", "text": "paid 1250"}


@pytest.mark.parametrize(
    ("action", "vendor", "inputs", "given"),
    [
        ("sms.send", "twilio", {"to": "ana", "text": "hi"}, {"to": ANA, "text": "hi"}),
        ("storage.put", "shelf", {"name": "n", "text": "t"},
         {"name": "n", "text": "t", "content_type": "text/plain; charset=utf-8"}),
        ("weather.forecast", "open_meteo", {"latitude": 46, "longitude": 9.5}, {"latitude": 46.0, "longitude": 9.5}),
        ("chat.post", "chatter", {"channel": "c", "text": "t"}, {"channel": "c", "text": "t"}),
        ("video.create_meeting", "zoomlike", {"topic": "t", "starts": "ceremony - 1d"},
         {"topic": "t", "minutes": 60, "starts": {
             "local": "2027-06-18T16:00:00", "zone": "Europe/Rome", "instant": "2027-06-18T14:00:00Z"}}),
    ],
)  # fmt: skip
def test_every_other_action_has_its_shape(
    action: str, vendor: str, inputs: dict[str, Any], given: dict[str, Any], data: dict[str, Any], load: Load,
    compiled: Compiled,
) -> None:  # fmt: skip
    data["services"].append({"id": "more", "name": "m", "role": "other", "vendor": vendor})
    data["steps"].append({"id": "more", "action": action, "service": "more", "inputs": inputs})
    assert materialize(compiled(data)["more"], vendor, load(data), {}) == given


@pytest.mark.parametrize(
    ("step", "inputs", "field", "reason"),
    [
        ("deposit", {"amount": "1.005"}, "amount", "too_many_decimals"),
        ("deposit", {"payer": "nobody"}, "payer", "unknown_contact"),
        ("deposit", {"description": "${venue.nothing}"}, "description", "missing_result"),
        ("deposit", {"amount": "x"}, "amount", "bad_value"),
        ("venue", {"price": "1.005"}, "price", "too_many_decimals"),
        ("venue", {"minutes": "60"}, "minutes", "wrong_type"),
        ("event", {"starts": "2027-03-28T02:30"}, "starts", "nonexistent_time"),
        ("event", {"zone": "Mars"}, "starts", "unknown_zone"),
        ("event", {"attendees": ["ana", "x"]}, "attendees[1]", "unknown_contact"),
    ],
)
def test_what_cannot_be_filled_in_is_refused_with_its_field(
    step: str, inputs: dict[str, Any], field: str, reason: str, filled: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        filled(step, "stripe", **inputs)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_an_unknown_action_is_refused(data: dict[str, Any], load: Load, compiled: Compiled) -> None:
    step = compiled(data)["email"].model_copy(update={"action": "email.burn"})
    with pytest.raises(InvalidInput, match=r"email\.burn"):
        materialize(step, "resend", load(data), RESULTS)
