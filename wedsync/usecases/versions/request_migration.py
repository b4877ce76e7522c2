"""Begin a migration to another version of a vendor's API, ask it to stop or go back, and show it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, NotFound, TemporalUnreachable
from wedsync.domain.task_queues import WORKFLOWS
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.versions import migration as rules
from wedsync.domain.versions import selection as choice
from wedsync.domain.versions.migration import Migration, MigrationRules, MigrationStart, Stage
from wedsync.kit.clock import utc_now
from wedsync.kit.temporal import RPC_TIMEOUT
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.store.versions import queries as versions
from wedsync.usecases.routing.read import RoutingView
from wedsync.usecases.versions.manage import default_version, known, require_usable, spoken


class MigrationView(RoutingView):
    """A migration as it is now."""

    id: str
    service: str
    #: None: of every organization without a pin of its own.
    organization_id: str | None
    from_version: str
    to_version: str
    stage: Stage
    paused: bool
    #: Reads sent to both versions, and how many were answered differently.
    compared: int
    different: int
    #: What happened so far, for people.
    migration_steps: tuple[str, ...]
    #: Actions to rehearse in the sandbox before; empty: the version is backward compatible.
    testing_required: tuple[str, ...]
    #: Whether a request to roll back does anything.
    rollback_available: bool
    migration_guide: str
    reason: str
    started_at: datetime
    ended_at: datetime | None


class Migrations(RoutingView):
    """The newest 200 migrations."""

    data: tuple[MigrationView, ...]


def show_migration(migration: Migration, routing_table: RoutingTable) -> MigrationView:
    """Return a migration as people see it."""
    spec = (
        routing_table.versions(migration.service).get(migration.to_version)
        if migration.service in routing_table.services()
        else None
    )
    fields = migration.model_dump(include=set(MigrationView.model_fields) & set(Migration.model_fields))
    return MigrationView(
        **fields,
        migration_steps=migration.steps,
        rollback_available=not migration.has_ended,
        migration_guide=spec.migration_guide if spec is not None else "",
    )


def plan_migration(
    routing_table: RoutingTable,
    manifest: Manifest,
    service: str,
    organization_id: str | None,
    to_version: str,
    migration_rules: MigrationRules,
    *,
    migration_id: str,
    now: datetime,
) -> Migration:
    """Return a migration that may begin.

    Raises NotFound, InvalidInput(reason="unknown_version"), Conflict with the reason `version_sunset`,
    `version_not_for_weddings` or `version_in_use`.
    """
    known(routing_table, service)
    spec = require_usable(routing_table, service, to_version, now)
    own, _ = choice.in_effect(routing_table.pins(service), organization_id, "", now)
    from_version = own or default_version(routing_table, service, now)
    if spoken(routing_table, service, from_version) == to_version:
        raise Conflict(f"{service} is at {to_version} already", reason="version_in_use")
    return Migration(
        id=migration_id,
        service=service,
        organization_id=organization_id,
        from_version=from_version,
        to_version=to_version,
        rules=migration_rules,
        stage_since=now,
        observed_from=now,
        started_at=now,
        testing_required=rules.testing_required(spec, manifest),
    )


async def begin(db: Database, client: Client, principal: Principal, migration: Migration) -> None:
    """Record the migration and start its workflow; a repetition changes nothing.

    Raises NotFound for an unknown organization, Conflict(reason="migration_running") when the service has another,
    TemporalUnreachable; then nothing began.
    """
    async with db.system() as conn:
        await versions.require_organization(conn, migration.organization_id)
        migration = migration.model_copy(update={"operator_id": principal.organization_id})
        if not await versions.begin(conn, migration, principal.actor):
            await _require_same(conn, migration)
        else:
            detail = migration.model_dump(mode="json", include={"from_version", "to_version", "organization_id"})
            subject = f"service/{migration.service}/migration/{migration.id}"
            await access.audit(conn, principal, "version.migration_begun", subject, detail, utc_now())
        # Within the transaction: what can't be started is not recorded. A workflow that is early waits for its row.
        await _start(client, migration.id)


async def _require_same(conn: AsyncConnection, migration: Migration) -> None:
    if await versions.read(conn, migration.id) is None:
        raise Conflict(f"{migration.service} is being migrated already", reason="migration_running")


async def _start(client: Client, migration_id: str) -> None:
    try:
        await client.start_workflow(
            rules.MIGRATE_VERSION_WORKFLOW,
            MigrationStart(migration_id=migration_id),
            id=rules.migration_workflow_id(migration_id),
            task_queue=WORKFLOWS,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            rpc_timeout=RPC_TIMEOUT,
        )
    except WorkflowAlreadyStartedError:
        return
    except RPCError as error:
        raise TemporalUnreachable("the migration could not be started", reason=error.status.name) from error


async def request_move(
    db: Database,
    client: Client,
    principal: Principal,
    migration_id: str,
    *,
    paused: bool | None = None,
    rollback: bool = False,
) -> Migration:
    """Pause the migration, continue it, or roll it back: write so into its row and wake its workflow.

    Raises NotFound; Conflict(reason="migration_ended"). The migration's next wake makes up for a lost one.
    """
    async with db.system() as conn:
        found = await versions.read(conn, migration_id, lock=True)
        if found is None:
            raise NotFound("there is no such migration")
        if not await versions.request_move(conn, migration_id, paused=paused, rollback=rollback):
            if rollback and found[0].stage == "rolled_back":
                return found[0]
            raise Conflict("the migration has ended", reason="migration_ended")
        action = "rollback" if rollback else "paused" if paused else "resumed"
        subject = f"service/{found[0].service}/migration/{migration_id}"
        await access.audit(conn, principal, f"version.migration_{action}", subject, {}, utc_now())
        now_is = await versions.read(conn, migration_id)
    await _wake(client, migration_id)
    return now_is[0] if now_is is not None else found[0]


async def _wake(client: Client, migration_id: str) -> None:
    handle = client.get_workflow_handle(rules.migration_workflow_id(migration_id))
    try:
        await handle.signal(rules.WAKE_SIGNAL, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise TemporalUnreachable("the wish is recorded, and heard later", reason=error.status.name) from error
        # It was never started: a workflow that starts now does what was requested.
        await _start(client, migration_id)
