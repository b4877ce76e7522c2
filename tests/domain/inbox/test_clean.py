from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.domain.inbox.clean import MAX_EVENT_ID_LENGTH, MAX_OBJECT_ID_LENGTH, clean_event, clean_text
from wedsync.domain.vendors.event import VendorEvent


@given(st.text(alphabet=st.characters(codec=None, categories=None)))
def test_cleaned_text_can_be_stored_and_good_text_is_left_alone(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert "\x00" not in cleaned
    assert len(cleaned) == len(text)
    assert clean_text(cleaned) == cleaned


def test_every_text_of_an_event_is_cleaned() -> None:
    event = VendorEvent(
        source="stripe",
        event_id="evt\x00",
        type="other",
        vendor_type="a\ud800",
        object_id="b\x00",
        contacts=("anna\ud800@example.com", "+390318125551"),
        facts={"k\x00": ["v\udfff", {"n": "x\x00", "number": 1, "none": None}]},
    )
    cleaned = clean_event(event)
    assert (cleaned.event_id, cleaned.vendor_type, cleaned.object_id) == ("evt\ufffd", "a\ufffd", "b\ufffd")
    assert cleaned.facts == {"k\ufffd": ["v\ufffd", {"n": "x\ufffd", "number": 1, "none": None}]}
    assert cleaned.wedding_id is None
    assert cleaned.contacts == ("anna\ufffd@example.com", "+390318125551")


def told(**changes: object) -> VendorEvent:
    values = {"source": "generic", "event_id": "1", "type": "other", "vendor_type": "x"} | changes
    return clean_event(VendorEvent.model_validate(values))


def test_an_objects_id_of_any_length_fits_an_index_and_still_tells_objects_apart() -> None:
    longest = "\U0001f492" * MAX_OBJECT_ID_LENGTH
    assert told(object_id=longest).object_id == longest
    one, other = (told(object_id=longest + tail).object_id for tail in "ab")
    assert one is not None
    assert other is not None
    assert len({one, other, told(object_id=longest + "a").object_id}) == 2
    assert len(one) < 100


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("2027-06-01T12:00:00", None),
        ("2027-06-01T12:00:00Z", datetime(2027, 6, 1, 12, tzinfo=UTC)),
        ("2027-06-01T14:00:00+02:00", datetime(2027, 6, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_time_of_an_unknown_zone_is_none(said: str, kept: datetime | None) -> None:
    assert told(occurred_at=said).occurred_at == kept


@pytest.mark.parametrize(("length", "is_usable"), [(0, False), (1, True), (MAX_EVENT_ID_LENGTH, True), (501, False)])
def test_an_event_without_an_id_that_can_be_kept_is_none(length: int, is_usable: bool) -> None:
    with nullcontext() if is_usable else pytest.raises(InvalidInput):
        assert len(told(event_id="x" * length).event_id) == length
