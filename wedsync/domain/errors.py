"""One family of errors for every layer.

Only two translators turn these into something else: `activities/errors.py` (Temporal failures) and
`wedsync/http/problems.py` (RFC 9457 problem details).
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

#: The reason of every refusal because the wedding is over.
WEDDING_OVER = "wedding_over"


class WedsyncError(Exception):
    """Base of the family: a stable machine `code` and a human `detail` that names no guest and no secret."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        #: A finer machine code beneath `code`, e.g. the vendor's own error code (`card_declined`).
        self.reason = reason


class VendorError(WedsyncError):
    """A failed call to a vendor."""

    def __init__(self, detail: str, *, vendor: str = "", reason: str | None = None, status: int | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.vendor = vendor
        self.status = status


class VendorUnavailable(VendorError):
    """The vendor certainly did nothing and may do it later: retryable, counts against its health."""

    code: ClassVar[str] = "vendor_unavailable"


class OutcomeUnknown(VendorError):
    """The call may have taken effect (time-out, dropped connection, 500): resolve it before anything else."""

    code: ClassVar[str] = "outcome_unknown"


class VendorRejected(VendorError):
    """The vendor understood and refused: a definite failure, not retryable, does not count against its health."""

    code: ClassVar[str] = "vendor_rejected"


class VendorThrottled(VendorError):
    """The vendor takes no more calls until a known moment; it did nothing."""

    code: ClassVar[str] = "vendor_throttled"

    def __init__(
        self,
        detail: str,
        *,
        retry_after_seconds: float,
        vendor: str = "",
        reason: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(detail, vendor=vendor, reason=reason, status=status)
        self.retry_after_seconds = retry_after_seconds


class ThrottledUntil(VendorError):
    """No quota is left before `until` (UTC): the workflow sleeps and holds no worker slot."""

    code: ClassVar[str] = "throttled_until"

    def __init__(self, detail: str, *, until: datetime, retry_after_seconds: float, vendor: str = "") -> None:
        super().__init__(detail, vendor=vendor)
        #: By the fleet's clock: this machine cannot know how far its own clock is off.
        self.until = until
        self.retry_after_seconds = max(retry_after_seconds, 0.001)


class NotAuthorized(VendorError):
    """The vendor refused the credential: a person must repair the connection; never opens a shared circuit."""

    code: ClassVar[str] = "not_authorized"


class InvalidInput(WedsyncError):
    """The request itself is wrong; `field` names the place (dotted path, or empty)."""

    code: ClassVar[str] = "invalid_input"

    def __init__(self, detail: str, *, field: str = "", reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.field = field


class NotFound(WedsyncError):
    """No such object in this organization."""

    code: ClassVar[str] = "not_found"


class Forbidden(WedsyncError):
    """We know the caller, who may not do that."""

    code: ClassVar[str] = "forbidden"


class Conflict(WedsyncError):
    """The object's state does not allow it now."""

    code: ClassVar[str] = "conflict"


class StoreUnavailable(WedsyncError):
    """Our own database cannot be reached: nothing was recorded, try again."""

    code: ClassVar[str] = "store_unavailable"


class TemporalUnreachable(WedsyncError):
    """The Temporal server cannot be reached: recorded requests are dispatched later, others must be sent again."""

    code: ClassVar[str] = "temporal_unreachable"
