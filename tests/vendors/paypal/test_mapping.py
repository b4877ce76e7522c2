"""Amounts, payment sources and marks as PayPal takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.call import Call
from wedsync.vendors.paypal.mapping import mark, money, payment_source, read_error, read_mark


@pytest.mark.parametrize(
    ("amount_minor", "currency", "value"),
    [(1250, "EUR", "12.50"), (5, "USD", "0.05"), (80000, "JPY", "80000"), (80000, "HUF", "800"), (500, "TWD", "5")],
)
def test_amounts_have_as_many_decimals_as_paypal_takes(amount_minor: int, currency: str, value: str) -> None:
    assert money(amount_minor, currency) == {"currency_code": currency, "value": value}


@pytest.mark.parametrize(("amount_minor", "currency"), [(0, "EUR"), (-1, "EUR"), (80050, "HUF"), (100, "ZZZ")])
def test_an_amount_that_paypal_cannot_hold_is_refused(amount_minor: int, currency: str) -> None:
    with pytest.raises(InvalidInput):
        money(amount_minor, currency)


def test_an_instrument_says_what_kind_of_source_it_is() -> None:
    assert payment_source("8kk8451t") == payment_source("paypal:8kk8451t") == {"paypal": {"vault_id": "8kk8451t"}}
    assert payment_source("agreement:B-1") == {"token": {"id": "B-1", "type": "BILLING_AGREEMENT"}}
    card = payment_source("card:1a2b")["card"]
    assert isinstance(card, dict)
    assert card["vault_id"] == "1a2b"
    for wrong in (None, "", "card:", "cheque:1"):
        with pytest.raises(InvalidInput) as caught:
            payment_source(wrong)
        assert caught.value.field == "payer.instrument"


def test_a_mark_comes_back_as_wedding_and_step(make_call: Callable[..., Call]) -> None:
    call = make_call("paypal", "payments.collect", "create_order", wedding_id="01JWEDDING", step_id="deposit-venue")
    assert read_mark(mark(call)) == ("01JWEDDING", "deposit-venue")
    long = call.model_copy(update={"step_id": "s" * 127})
    assert mark(long) == long.reference
    for other in (None, 7, "", "reference", ":x", "x:"):
        assert read_mark(other) == (None, None)


def test_an_error_is_read_by_its_issue_and_without_its_description() -> None:
    body = {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": "INSTRUMENT_DECLINED", "description": "Anna"}]}
    assert read_error(422, body) == ("INSTRUMENT_DECLINED", "answered 422 INSTRUMENT_DECLINED")
    assert read_error(401, {"error": "invalid_client"}) == ("invalid_client", "answered 401 invalid_client")
    assert read_error(503, None) == ("http_503", "answered 503")
