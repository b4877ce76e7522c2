"""Values by which a workflow reads how a call or an activity failed; they stay in history."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

#: The code of a failure that stands for a bug in our own code.
BUG = "bug"


class Failure(BaseModel):
    """A failed activity as the workflow reads it."""

    model_config = ConfigDict(frozen=True)
    code: str
    detail: str
    reason: str | None = None
    vendor: str = ""
    #: How long the vendor asked us to wait, in seconds.
    retry_after_seconds: float | None = None
    #: We refused it ourselves: the process already had as many calls to the vendor under way as it makes.
    at_capacity: bool = False

    @property
    def unknown(self) -> bool:
        """Tell whether the call may have taken effect all the same."""
        return self.code in ("outcome_unknown", "timeout")

    @property
    def out_of_quota(self) -> bool:
        """Tell whether nothing was sent, because the vendor takes, or we make, no more calls for now."""
        return self.code == "throttled_until" or self.at_capacity

    @property
    def definite(self) -> bool:
        """Tell whether the same call would fail again: the vendor refused it, or no vendor can take it."""
        return self.code in ("vendor_rejected", "not_authorized", "invalid_input")

    @property
    def passing(self) -> bool:
        """Tell whether the same call may work later; it certainly had no effect yet."""
        return self.code in ("vendor_unavailable", "vendor_throttled", "throttled_until")
