"""Serve the activity that calls vendors."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from wedsync.usecases.weddings.call_step import CallOutcome, StepCaller, VendorCall

__all__ = ["CallOutcome", "VendorActivities", "VendorCall"]


class VendorActivities:
    """Calls to vendors, on the queues `vendor` and `vendor-critical`."""

    def __init__(self, caller: StepCaller) -> None:
        self._caller = caller

    @activity.defn(name="vendor.call")
    @translated
    async def call(self, wanted: VendorCall) -> CallOutcome:
        """Make one call of a step at its vendor."""
        return await self._caller.call(wanted, activity.info().workflow_run_id or "")
