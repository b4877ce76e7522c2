from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.routing.vendor import VendorEvent
from wedsync.domain.webhooks.clean import clean_event, clean_text


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
        facts={"k\x00": ["v\udfff", {"n": "x\x00", "number": 1, "none": None}]},
    )
    cleaned = clean_event(event)
    assert (cleaned.event_id, cleaned.vendor_type, cleaned.object_id) == ("evt\ufffd", "a\ufffd", "b\ufffd")
    assert cleaned.facts == {"k\ufffd": ["v\ufffd", {"n": "x\ufffd", "number": 1, "none": None}]}
    assert cleaned.wedding_id is None
