"""How a call or an activity failed, as a workflow reads it: values that stay in history."""

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
    #: Refused by ourselves: as many calls to the vendor as a process makes were under way.
    at_capacity: bool = False

    @property
    def unknown(self) -> bool:
        """Whether the call may have taken effect all the same."""
        return self.code in ("outcome_unknown", "timeout")

    @property
    def out_of_quota(self) -> bool:
        """Whether nothing was tried, since the vendor takes, or we make, no more calls for now."""
        return self.code == "throttled_until" or self.at_capacity

    @property
    def definite(self) -> bool:
        """Whether the same question would be answered alike: the vendor's own no, or none that it is asked with."""
        return self.code in ("vendor_rejected", "not_authorized", "invalid_input")

    @property
    def passing(self) -> bool:
        """Whether the same call may work later, for certain not done yet."""
        return self.code in ("vendor_unavailable", "vendor_throttled", "throttled_until")
