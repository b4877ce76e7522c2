"""What an HTTP answer says about the effect of a call: RFC 9110's and RFC 6585's codes, and `Retry-After`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wedsync.domain.vendors.http_outcome import (
    DEFAULT_RETRY_AFTER_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    Verdict,
    retry_after_seconds,
    verdict,
)

NOW = datetime(2027, 6, 19, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "of_a_write", "of_a_read"),
    [
        (200, "ok", "ok"),
        (204, "ok", "ok"),
        (301, "unknown", "rejected"),
        (302, "unknown", "rejected"),
        (303, "unknown", "rejected"),
        (304, "rejected", "rejected"),
        (307, "rejected", "rejected"),
        (308, "rejected", "rejected"),
        (400, "rejected", "rejected"),
        (401, "not_authorized", "not_authorized"),
        (403, "rejected", "rejected"),
        (404, "rejected", "rejected"),
        (408, "unknown", "unavailable"),
        (409, "rejected", "rejected"),
        (425, "unknown", "unavailable"),
        (429, "throttled", "throttled"),
        (500, "unknown", "unavailable"),
        (502, "unknown", "unavailable"),
        (503, "unavailable", "unavailable"),
        (504, "unknown", "unavailable"),
    ],
)
def test_a_status_says_what_became_of_a_write_and_of_a_read(
    status: int, of_a_write: Verdict, of_a_read: Verdict
) -> None:
    assert verdict(status, write=True) == of_a_write
    assert verdict(status, write=False) == of_a_read


def test_a_vendor_whose_503_may_come_after_the_deed_leaves_a_write_unknown() -> None:
    assert verdict(503, write=True, unavailable_means_not_processed=False) == "unknown"
    assert verdict(503, write=False, unavailable_means_not_processed=False) == "unavailable"


@given(status=st.integers(400, 599))
def test_no_failed_write_ever_counts_as_done(status: int) -> None:
    assert verdict(status, write=True) != "ok"


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("120", 120.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("1e9", MAX_RETRY_AFTER_SECONDS),
        ("inf", MAX_RETRY_AFTER_SECONDS),
        ("nan", DEFAULT_RETRY_AFTER_SECONDS),
        ("", DEFAULT_RETRY_AFTER_SECONDS),
        ("soon", DEFAULT_RETRY_AFTER_SECONDS),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", DEFAULT_RETRY_AFTER_SECONDS),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        ("Sat, 19 Jun 2027 12:00:30 -0000", 30.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_never_believed_beyond_a_day(raw: str, seconds: float) -> None:
    assert retry_after_seconds({"retry-After": raw}, NOW) == seconds


def test_a_vendor_that_does_not_say_how_long_is_asked_again_soon() -> None:
    assert retry_after_seconds({"Date": "now"}, NOW) == DEFAULT_RETRY_AFTER_SECONDS


@given(raw=st.text(max_size=40))
def test_no_retry_after_breaks_the_reader(raw: str) -> None:
    assert 0 <= retry_after_seconds({"Retry-After": raw}, NOW) <= MAX_RETRY_AFTER_SECONDS
