from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)

from activities.errors import read_failure, to_application_error, translated
from wedsync.domain import errors
from wedsync.domain.failure import Failure
from wedsync.domain.health.messages import AT_CAPACITY

UNTIL = datetime(2027, 6, 1, tzinfo=UTC)
TABLE: list[tuple[errors.WedsyncError, str, bool, bool, bool]] = [
    # error, code, worth another try of the activity, may have happened, may work later
    (errors.VendorUnavailable("x", vendor="v"), "vendor_unavailable", True, False, True),
    (errors.VendorThrottled("x", vendor="v", retry_after_seconds=2.5), "vendor_throttled", True, False, True),
    (errors.ThrottledUntil("x", vendor="v", until=UNTIL, retry_after_seconds=60), "throttled_until", True, False, True),
    (errors.OutcomeUnknown("x", vendor="v"), "outcome_unknown", False, True, False),
    (errors.VendorRejected("x", vendor="v", reason="card_declined"), "vendor_rejected", False, False, False),
    (errors.NotAuthorized("x", vendor="v"), "not_authorized", False, False, False),
    (errors.InvalidInput("x", field="inputs"), "invalid_input", False, False, False),
    (errors.NotFound("x"), "not_found", False, False, False),
    (errors.Conflict("x"), "conflict", False, False, False),
    (errors.StoreUnavailable("x"), "store_unavailable", True, False, False),
]


def failed(cause: BaseException | None) -> ActivityError:
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="vendor.call",
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def as_read_from_history(error: ApplicationError) -> ApplicationError:
    details: list[Any] = [d.model_dump(mode="json") if isinstance(d, Failure) else d for d in error.details]
    return ApplicationError(error.message, *details, type=error.type, non_retryable=error.non_retryable)


@pytest.mark.parametrize(
    ("error", "code", "retryable", "unknown", "passing"), TABLE, ids=lambda v: getattr(v, "code", "")
)
def test_our_errors_come_back_as_they_went(
    error: errors.WedsyncError, code: str, retryable: bool, unknown: bool, passing: bool
) -> None:
    sent = to_application_error(error)
    assert (sent.type, sent.non_retryable, sent.category) == (code, not retryable, ApplicationErrorCategory.BENIGN)
    read = read_failure(failed(as_read_from_history(sent)))
    assert (read.code, read.detail, read.reason, read.unknown, read.passing) == (
        code,
        "x",
        error.reason,
        unknown,
        passing,
    )
    assert read.vendor == getattr(error, "vendor", "")


def test_a_local_activitys_own_error_reads_as_a_wrapped_one() -> None:
    sent = as_read_from_history(to_application_error(errors.InvalidInput("x", field="inputs", reason="too_long")))
    assert read_failure(sent) == read_failure(failed(sent))


def test_only_a_no_is_not_asked_for_again() -> None:
    codes = {code: Failure(code=code, detail="x").definite for _, code, *_ in TABLE}
    assert {code for code, is_definite in codes.items() if is_definite} == {
        "vendor_rejected",
        "not_authorized",
        "invalid_input",
    }
    assert not Failure(code="bug", detail="x").definite


@pytest.mark.parametrize(
    "error",
    [
        errors.VendorThrottled("x", retry_after_seconds=2.5),
        # Whatever this machine's clock says of the moment.
        errors.ThrottledUntil("x", until=UNTIL, retry_after_seconds=2.5),
    ],
)
def test_how_long_to_wait_is_kept(error: errors.WedsyncError) -> None:
    sent = to_application_error(error)
    assert sent.next_retry_delay == timedelta(seconds=2.5)
    assert read_failure(failed(as_read_from_history(sent))).retry_after_seconds == 2.5


def test_only_a_full_quota_and_our_own_congestion_are_no_try() -> None:
    def read(error: errors.WedsyncError) -> Failure:
        return read_failure(failed(as_read_from_history(to_application_error(error))))

    crowded = read(errors.VendorThrottled("x", retry_after_seconds=1, reason=AT_CAPACITY))
    assert (crowded.out_of_quota, crowded.at_capacity) == (True, True)
    assert read(errors.ThrottledUntil("x", until=UNTIL, retry_after_seconds=60)).out_of_quota
    assert not read(errors.VendorThrottled("x", retry_after_seconds=1, reason="busy", status=429)).out_of_quota
    # As histories from before hold it: they go on as they went.
    assert not Failure(code="vendor_throttled", detail="x", reason=AT_CAPACITY).out_of_quota


def test_a_call_that_gave_no_sign_may_have_happened() -> None:
    late = TimeoutError("late", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])
    assert read_failure(failed(late)).unknown


@pytest.mark.parametrize(
    "cause", [ApplicationError("secret text", type="KeyError"), CancelledError("secret text"), None]
)
def test_what_is_none_of_ours_is_a_bug_and_its_text_stays_where_it_is(cause: BaseException | None) -> None:
    read = read_failure(failed(cause))
    assert read.code == "bug"
    assert "secret" not in read.detail


async def test_an_activity_raises_our_errors_as_temporals_and_others_as_they_are() -> None:
    @translated
    async def activities_under_test(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "fine"

    assert await activities_under_test(None) == "fine"
    with pytest.raises(ApplicationError) as raised:
        await activities_under_test(errors.VendorRejected("no", vendor="v"))
    assert raised.value.type == "vendor_rejected"
    with pytest.raises(KeyError):
        await activities_under_test(KeyError("x"))
