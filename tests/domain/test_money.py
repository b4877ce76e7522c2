import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain import money
from wedsync.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.50", "EUR", 1250),
        ("12.5", "EUR", 1250),
        ("12", "EUR", 1200),
        ("80000", "JPY", 80000),
        ("1.234", "KWD", 1234),
        ("0.0001", "CLF", 1),
        ("007", "USD", 700),
        ("999999999999.99", "USD", 99999999999999),
    ],
)
def test_amounts_become_minor_units(amount: str, currency: str, minor: int) -> None:
    assert money.to_minor(amount, currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency", "reason"),
    [
        ("1.234", "EUR", "too_many_decimals"),
        ("80000.0", "JPY", "too_many_decimals"),
        ("1.00", "EUX", "unknown_currency"),
        ("1.00", "eur", "unknown_currency"),
        ("1.00", "XAU", "unknown_currency"),
        ("-1.00", "EUR", "bad_amount"),
        ("1,50", "EUR", "bad_amount"),
        ("1e3", "EUR", "bad_amount"),
        ("١٢", "EUR", "bad_amount"),
        (" 1", "EUR", "bad_amount"),
        ("1\n", "EUR", "bad_amount"),
        ("", "EUR", "bad_amount"),
    ],
)
def test_what_is_no_amount_is_refused(amount: str, currency: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        money.to_minor(amount, currency)
    assert caught.value.reason == reason


@given(st.sampled_from(sorted(money.EXPONENTS)), st.integers(0, 10**12 - 1))
def test_minor_units_survive_the_way_there_and_back(currency: str, minor: int) -> None:
    assert money.to_minor(money.to_decimal(minor, currency), currency) == minor


def test_negative_minor_units_read_as_negative() -> None:
    assert (money.to_decimal(-5, "EUR"), money.to_decimal(-80, "JPY")) == ("-0.05", "-80")


@pytest.mark.parametrize(
    ("places", "codes"),
    [
        (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
        (3, "BHD IQD JOD KWD LYD OMR TND"),
        (4, "CLF UYW"),
    ],
)
def test_the_unusual_exponents_are_those_of_iso_4217(places: int, codes: str) -> None:
    assert {code for code, exponent in money.EXPONENTS.items() if exponent == places} == set(codes.split())


def test_the_table_holds_every_active_currency() -> None:
    assert len(money.EXPONENTS) == 165
    assert all(len(code) == 3 and code.isupper() for code in money.EXPONENTS)
