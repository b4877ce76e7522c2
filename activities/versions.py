"""Serve the migrations between versions of vendors' APIs."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from activities.health import beating
from wedsync.domain.versions.migration import MigrationWake, MigrationWakeResult
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.usecases.versions.advance_migration import migrate_version


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
