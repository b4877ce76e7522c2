"""Translate our errors to Temporal failures and back: the one translator on this side."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    TimeoutError,
)

from wedsync.domain.errors import (
    StoreUnavailable,
    TemporalUnreachable,
    ThrottledUntil,
    VendorError,
    VendorThrottled,
    VendorUnavailable,
    WedsyncError,
)
from wedsync.domain.failure import BUG, Failure
from wedsync.domain.health.messages import AT_CAPACITY

P = ParamSpec("P")
R = TypeVar("R")

#: Only these are worth another try of the same activity; the workflow decides about everything else.
_RETRYABLE = (VendorUnavailable, StoreUnavailable, TemporalUnreachable)
#: An activity's failure as a workflow gets it: a local one's own error comes bare, all else wrapped.
ACTIVITY_FAILED = (ActivityError, ApplicationError)


def to_application_error(error: WedsyncError) -> ApplicationError:
    """Return the Temporal failure for one of our errors: its type is our code, its detail a `Failure`."""
    retry_after = _retry_after_seconds(error)
    failure = Failure(
        code=error.code,
        detail=error.detail,
        reason=error.reason,
        vendor=error.vendor if isinstance(error, VendorError) else "",
        retry_after_seconds=retry_after,
        at_capacity=isinstance(error, VendorThrottled) and error.reason == AT_CAPACITY,
    )
    return ApplicationError(
        error.detail,
        failure,
        type=error.code,
        non_retryable=not isinstance(error, (*_RETRYABLE, VendorThrottled, ThrottledUntil)),
        # Vendors fail in ordinary life: the saga decides, so the worker logs no alarm.
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=timedelta(seconds=retry_after) if retry_after is not None else None,
    )


def _retry_after_seconds(error: WedsyncError) -> float | None:
    return error.retry_after_seconds if isinstance(error, VendorThrottled | ThrottledUntil) else None


def translated(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Let an activity raise our errors as Temporal failures."""

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(*args, **kwargs)
        except WedsyncError as error:
            raise to_application_error(error) from error

    return wrapper


def read_failure(error: ActivityError | ApplicationError) -> Failure:
    """Return a failed activity's code: `timeout` when the worker was lost or too slow, else our own code.

    An error that is none of ours is a `bug`: nobody knows how far the call came. Its text may hold anything, so it
    stays in the history.
    """
    cause = error if isinstance(error, ApplicationError) else error.cause
    if isinstance(cause, TimeoutError):
        return Failure(code="timeout", detail="the call gave no sign in time", reason="timeout")
    if isinstance(cause, ApplicationError):
        for detail in cause.details:
            if isinstance(detail, dict) and "code" in detail:
                return Failure.model_validate(detail)
        return Failure(code=BUG, detail=f"an unexpected {cause.type or 'error'} in our own code")
    return Failure(code=BUG, detail=f"an unexpected {type(cause).__name__}")
