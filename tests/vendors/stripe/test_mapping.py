"""Amounts as Stripe counts them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput
from wedsync.vendors.stripe.mapping import from_stripe_amount, read_error, split_instrument, to_stripe_amount


@pytest.mark.parametrize(
    ("amount_minor", "currency", "expected"),
    [
        (1250, "EUR", 1250),
        (80000, "JPY", 80000),
        (500, "KRW", 500),
        (5120, "KWD", 5120),
        (5, "UGX", 500),
        (5, "ISK", 500),
        (1045, "HUF", 1045),
        (80000, "TWD", 80000),
        (500, "MGA", 5),
    ],
)
def test_amounts_follow_stripes_special_cases(amount_minor: int, currency: str, expected: int) -> None:
    assert to_stripe_amount(amount_minor, currency) == expected
    assert from_stripe_amount(expected, currency.lower()) == amount_minor


@pytest.mark.parametrize(("amount_minor", "currency"), [(5124, "KWD"), (501, "MGA"), (0, "EUR"), (-5, "EUR")])
def test_an_amount_that_stripe_cannot_hold_is_refused_and_never_rounded(amount_minor: int, currency: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_stripe_amount(amount_minor, currency)
    assert caught.value.field == "amount"


@settings(max_examples=50)
@given(amount=st.integers(1, 10**9), currency=st.sampled_from(["EUR", "JPY", "UGX", "ISK", "USD", "HUF"]))
def test_amounts_come_back_as_they_went(amount: int, currency: str) -> None:
    assert from_stripe_amount(to_stripe_amount(amount, currency), currency) == amount


def test_an_instrument_may_name_its_customer() -> None:
    assert split_instrument("pm_1") == ("", "pm_1")
    assert split_instrument("cus_9:pm_1") == ("cus_9", "pm_1")
    with pytest.raises(InvalidInput):
        split_instrument(None)


def test_an_error_is_read_by_its_finest_code_and_without_its_message() -> None:
    body = {"error": {"type": "card_error", "code": "card_declined", "decline_code": "lost_card", "message": "Anna"}}
    assert read_error(402, body) == ("lost_card", "answered 402 lost_card")
    assert read_error(400, {"error": {"type": "invalid_request_error", "param": "amount"}}) == (
        "invalid_request_error",
        "answered 400 invalid_request_error (amount)",
    )
    assert read_error(500, None) == ("http_500", "answered 500")
