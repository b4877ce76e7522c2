"""Serve the migrations between versions of vendors' APIs."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from activities.routing import beating
from wedsync.domain.routing.version_migration import MigrationWake, MigrationWakeResult
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.migrate_version_step import migrate_version
from wedsync.usecases.routing.switchboard import AdmissionController


class VersionActivities:
    """Does the outside work of migrations. Runs on the queue `records`."""

    def __init__(self, gateway: VendorGateway, controller: AdmissionController) -> None:
        self._gateway = gateway
        self._controller = controller

    @activity.defn(name="versions.migrate")
    @translated
    async def migrate(self, wake: MigrationWake) -> MigrationWakeResult:
        """Do what is due for a migration: compare reads, move pins ahead or back."""
        async with beating():
            return await migrate_version(self._gateway, self._controller, wake)
