"""Door to the vendors."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from wedsync.store.projection_writer import ProjectionWriter
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.weddings.carry_out import CarriedOut, CarryOut, carry_out

__all__ = ["CarriedOut", "CarryOut", "VendorActivities"]


class VendorActivities:
    """Calls to vendors, on the queues `vendor` and `vendor-critical`."""

    def __init__(self, gateway: VendorGateway, writer: ProjectionWriter) -> None:
        self._gateway = gateway
        self._writer = writer

    @activity.defn(name="vendor.call")
    @translated
    async def call(self, wanted: CarryOut) -> CarriedOut:
        """One call of a step at its vendor."""
        return await carry_out(self._gateway, self._writer, wanted)
