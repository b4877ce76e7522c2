"""Drives migrations between versions of Stripe's API, on a stage whose server skips time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from temporalio.client import Client, WorkflowHandle

from tests.support.plans import payment, plan
from tests.support.routing import open_admission_controller, rows
from tests.support.stage import Stage, Staged
from wedsync.domain.access.principal import Principal
from wedsync.domain.vendors.call import Call
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions.migration import MigrationResult, MigrationRules, migration_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.versions import queries as versions
from wedsync.usecases.versions import request_migration
from wedsync.vendors.registry import load_registry

SERVICE = "stripe"
OLD, NEW = "2026-10-28.endive", "2026-09-30.endive"
#: Answers intents that the client does not understand.
BROKEN = "2027-03-31.preview"
#: Some checks at each stage.
RULES: dict[str, Any] = {
    "shadow_seconds": 3_600,
    "canary_seconds": 7_200,
    "verify_seconds": 7_200,
    "look_seconds": 1_800,
    "shadow_reads": 3,
}


@asynccontextmanager
async def open_migrating(stage: Stage, env: Any = None) -> AsyncIterator[Migrating]:
    """Open the pieces on a stage; at the end nothing is left of any migration. `env`: its server skips time."""

    async def provide() -> Client:
        return stage.client

    pool = new_pool()
    async with open_admission_controller(stage.settings.database_url, provide) as controller:
        gateway = VendorGateway(stage.settings, load_registry(), pool, controller)
        yield Migrating(stage, controller, gateway, env)
        async with controller.breakers.db.system() as conn:
            await conn.execute(text("UPDATE weddings SET ended_at = now() WHERE ended_at IS NULL"))
            for table in ("version_migrations", "version_pins", "vendor_versions"):
                await conn.execute(text(f"DELETE FROM {table}"))
        await stage.sandbox.clear_faults(SERVICE)
    await pool.aclose()


class Migrating:
    """Pieces of a stage that drive migrations."""

    def __init__(self, stage: Stage, controller: AdmissionController, gateway: VendorGateway, env: Any = None) -> None:
        self.stage, self.controller, self.gateway, self.env = stage, controller, gateway, env
        self._one_at_a_time = asyncio.Lock()

    async def add_broken(self) -> None:
        """Add the broken version, as an operator who believes that it is as good as any."""
        spec = VersionSpec(name=BROKEN, header="Stripe-Version")
        async with self.controller.breakers.db.system() as conn:
            await versions.put_spec(conn, SERVICE, spec, "key:test", utc_now())
        await self.controller.routing_table.load()

    async def wedding(self, ceremony_at: datetime | None = None, payments: int = 1) -> Staged:
        """Make a wedding of an organization of its own, some of whose payments stand at the vendor."""
        async with self._one_at_a_time:
            self.stage.organization_id = new_id()
            wedding = await self.stage.wedding(plan(*(payment(f"pay{n}") for n in range(max(payments, 1)))))
        for n in range(payments):
            await self._pay(wedding, f"pay{n}")
        if ceremony_at is not None:
            await self._run(
                wedding, "UPDATE weddings SET ceremony_at = :at WHERE id = :id", {"at": ceremony_at, "id": wedding.id}
            )
        return wedding

    async def _pay(self, wedding: Staged, step_id: str) -> None:
        call = payment_call(wedding.organization_id, wedding.id, step_id)
        made = await self.gateway.send(call)
        await self.gateway.send(next_call(call, "confirm_intent", made.facts))
        where = {"org": wedding.organization_id, "wedding": wedding.id, "step": step_id, "object": made.external_id}
        await self._run(
            wedding,
            "UPDATE steps SET status = 'succeeded', vendor = 'stripe', external_id = :object "
            "WHERE wedding_id = :wedding AND step_id = :step AND organization_id = :org",
            where,
        )
        await self._run(
            wedding,
            "INSERT INTO external_refs (organization_id, vendor, account, object_id, wedding_id, step_id, "
            "transaction_id, created_at) VALUES (:org, 'stripe', 'default', :object, :wedding, :step, 't', now())",
            where,
        )

    async def _run(self, wedding: Staged, statement: str, values: dict[str, Any]) -> None:
        async with self.stage.db.tenant(wedding.organization_id) as conn:
            await conn.execute(text(statement), values)

    async def begin(self, organization_id: str | None, to_version: str = NEW, **rules: Any) -> str:
        """Start a migration, as the API does; return its id."""
        principal = Principal(organization_id=organization_id or self.stage.organization_id, key_id="test")
        await self.controller.routing_table.load()
        migration = request_migration.plan_migration(
            self.controller.routing_table,
            self.gateway.manifest(SERVICE),
            SERVICE,
            organization_id,
            to_version,
            MigrationRules(**{**RULES, **rules}),
            migration_id=new_id(),
            now=utc_now(),
        )
        await request_migration.begin(self.stage.db, self.stage.client, principal, migration)
        return migration.id

    def handle(self, migration_id: str) -> WorkflowHandle[Any, Any]:
        """Return the migration's workflow."""
        return self.stage.client.get_workflow_handle(migration_workflow_id(migration_id))

    async def end(self, migration_id: str) -> MigrationResult:
        """Let time go by until it ends; on a plain server only wait."""
        if self.env is not None:
            await self.env.fast_forward(self.handle(migration_id))
        said = await asyncio.wait_for(self.handle(migration_id).result(), 60)
        return MigrationResult.model_validate(said)

    async def until(self, migration_id: str, *stages: str, step: timedelta = timedelta(minutes=30)) -> Any:
        """Let time go by in steps until the migration is at one of the stages."""
        for _ in range(100):
            (found,) = await rows(
                self.controller, "SELECT stage, state FROM version_migrations WHERE id = :id", id=migration_id
            )
            if found.stage in stages:
                return found
            await self.env.fast_forward(self.handle(migration_id), step)
        raise AssertionError(f"it is at {found.stage}")

    async def pins(self, organization_id: str | None) -> list[tuple[Any, ...]]:
        """List the pins that hold, of an organization or of all."""
        statement = (
            "SELECT id, version, share_percent, migration_id FROM version_pins "
            "WHERE until IS NULL AND organization_id IS NOT DISTINCT FROM CAST(:org AS text) ORDER BY id"
        )
        return [tuple(row) for row in await rows(self.controller, statement, org=organization_id)]


def next_call(call: Call, operation: str, facts: dict[str, Any]) -> Call:
    """Return a later call of the same step."""
    return call.model_copy(update={"operation": operation, "facts": facts, "idempotency_key": new_id()})


def payment_call(organization_id: str, wedding_id: str, step_id: str = "pay0", **changes: Any) -> Call:
    """Return the first call of a payment."""
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "wedding_id": wedding_id,
        "transaction_id": "t",
        "step_id": step_id,
        "vendor": SERVICE,
        "action": "payments.collect",
        "operation": "create_intent",
        "idempotency_key": new_id(),
        "reference": new_id().lower(),
        "inputs": {
            "amount": "600.00",
            "currency": "EUR",
            "amount_minor": 60_000,
            "payer": {"id": "couple", "name": "Giulia Ferrari", "instrument": "pm_card_visa"},
        },
        "first_sent_at": utc_now(),
    }
    return Call.model_validate({**values, **changes})
