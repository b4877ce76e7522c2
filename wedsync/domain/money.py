"""Amounts of money: decimal text in major units, integers in minor units (ISO 4217)."""

from __future__ import annotations

import re

from wedsync.domain.errors import InvalidInput

_AMOUNT = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,4}))?")

#: Active codes of ISO 4217 (lists one, table A.1) by decimals of the minor unit. Metals, bond-market units and test
#: codes have no minor unit and are left out.
_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
        CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF
        IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK
        MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP
        SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG
        YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: dict[str, int] = {code: exponent for exponent, codes in _BY_EXPONENT.items() for code in codes.split()}


def exponent(currency: str) -> int:
    """Return how many decimals `currency` has: EUR 2, JPY 0, KWD 3; raises InvalidInput(reason="unknown_currency")."""
    found = EXPONENTS.get(currency)
    if found is None:
        raise InvalidInput(f"{currency!r} is no currency of ISO 4217", reason="unknown_currency")
    return found


def to_minor(amount: str, currency: str) -> int:
    """Convert decimal text to minor units: "12.50" EUR is 1250, "80000" JPY is 80000.

    Raises InvalidInput with reason `bad_amount`, `unknown_currency` or `too_many_decimals`.
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise InvalidInput(f"{amount!r} is not an amount such as 1500.00", reason="bad_amount")
    places = exponent(currency)
    whole, decimals = match[1], match[2] or ""
    if len(decimals) > places:
        allowed = f"{places} decimal{'' if places == 1 else 's'}" if places else "no decimals"
        raise InvalidInput(f"{currency} has {allowed}: {amount!r} has {len(decimals)}", reason="too_many_decimals")
    return int(whole + decimals.ljust(places, "0"))


def to_decimal(minor: int, currency: str) -> str:
    """Convert minor units to decimal text with all the currency's decimals: 1250 EUR is "12.50", 80000 JPY is "80000".

    Raises InvalidInput(reason="unknown_currency").
    """
    places = exponent(currency)
    sign, digits = ("-" if minor < 0 else ""), str(abs(minor)).rjust(places + 1, "0")
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
