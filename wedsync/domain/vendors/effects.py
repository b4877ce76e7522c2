"""Effects and errors that clients have in common, those of payments above all. Pure."""

from __future__ import annotations

from typing import Any

from wedsync.domain.errors import NotAuthorized, OutcomeUnknown, VendorRejected, VendorThrottled
from wedsync.domain.vendors.call import Effect

#: How soon an undo is worth another try while the bank still works on the payment.
STILL_PROCESSING_SECONDS = 30.0


def identified(body: Any, vendor: str) -> dict[str, Any]:
    """Return an answer's object; raises OutcomeUnknown when it has no id, since the vendor did act."""
    if isinstance(body, dict) and isinstance(body.get("id"), str) and body["id"]:
        return body
    raise OutcomeUnknown(f"{vendor} answered with something that is not an object", vendor=vendor)


def not_in_this_account(vendor: str, what: str) -> NotAuthorized:
    """Build the error for an id of the vendor's own making that it does not know: the account may have changed."""
    return NotAuthorized(
        f"{vendor}: {what} is not in this account: was its key changed for another account's, or for test mode?",
        vendor=vendor,
        reason="object_not_in_this_account",
        status=404,
    )


def still_processing(vendor: str, what: str, reason: str) -> VendorThrottled:
    """Build the error for money that can't be given back yet."""
    return VendorThrottled(
        f"{vendor}: {what} is still processing and can't be given back yet",
        vendor=vendor,
        reason=reason,
        retry_after_seconds=STILL_PROCESSING_SECONDS,
    )


def refunded(vendor: str, payment: str | None, of: str, refund: dict[str, Any]) -> Effect:
    """Return the effect of a refund of `of`: `waiting` until the bank has it.

    Raises VendorRejected when the refund failed. The statuses are Stripe's and PayPal's, which differ in case only.
    """
    refund_id, status = refund["id"], str(refund.get("status") or "").lower()
    if status in ("failed", "canceled", "cancelled"):
        detail = f"{vendor}: refund {refund_id} of {of} is {status}"
        raise VendorRejected(detail, vendor=vendor, reason=f"refund_{status}")
    is_open = is_refund_open(refund)
    return Effect(
        state="waiting" if is_open else "done",
        external_id=payment,
        facts={"refund_id": refund_id},
        detail=f"refund {refund_id} of {of} " + ("is pending: it may still fail" if is_open else "created"),
    )


def is_refund_open(refund: dict[str, Any]) -> bool:
    """Tell whether the bank may still send the refund back."""
    return str(refund.get("status") or "").lower() in ("pending", "requires_action")
