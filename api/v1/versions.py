"""`/api/v1/versions`: versions of vendors' APIs, pins, usage, and migrations from one version to another."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from api.ranges import Since, Until, read_range
from wedsync.domain.access.principal import Answer, Permission
from wedsync.domain.errors import NotFound
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.domain.versions.migration import MigrationRules
from wedsync.http.deps import Context, MustBeOnce, RequestContext, respond
from wedsync.kit.clock import utc_now
from wedsync.store.versions import queries as store
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.routing.read import RoutingView
from wedsync.usecases.versions import manage as views
from wedsync.usecases.versions import request_migration as migrations

router = APIRouter(prefix="/versions", tags=["versions"])
_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"description": "The key is no operator's."},
    409: {"description": "The version, or the migration's state, does not allow it."},
}

ServiceName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$", examples=["stripe"])]
VersionName = Annotated[str, Path(pattern=r"^[\x21-\x7e]{1,64}$", examples=["2026-09-30.endive"])]
MigrationId = Annotated[str, Path(pattern=r"^[0-9A-Za-z]{1,64}$")]
OfService = Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Rules = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
Organization = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


class _VersionBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PutVersion(_VersionBody):
    """A version that an operator adds or changes."""

    status: Literal["active", "deprecated", "sunset"] = "active"
    deprecated_on: date | None = None
    #: From this day on its calls are refused.
    sunset_on: date | None = None
    #: The vendor answers it all the same.
    sunset_overridden: bool = False
    wedding_compatible: bool = True
    backward_compatible: bool = True
    migration_guide: Annotated[str, Field(max_length=500, pattern=r"^(https://[\x21-\x7e]+)?$")] = ""
    #: The request header that asks for it.
    header: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9-]*$")] = ""
    #: The first part of the path that asks for it.
    path: Annotated[str, Field(max_length=200, pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""


class PutPin(_VersionBody):
    """Version to which a service is pinned; `version` null takes the pin away."""

    version: Rules | None
    #: organization: the caller's own, or, for operators, the one named. service: all without a pin of their own.
    scope: Literal["organization", "service"] = "organization"
    organization_id: Organization | None = None


class MigrationBody(_VersionBody):
    """Asks for a migration from the current version to another."""

    service: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    to_version: Rules
    #: Of one organization; all without a pin of their own when it is left out.
    organization_id: Organization | None = None
    #: How careful it is.
    rules: MigrationRules = MigrationRules()


class PauseBody(_VersionBody):
    """Tells whether the migration stays where it is."""

    paused: bool = True


class AllVersions(RoutingView):
    """Every service's versions."""

    data: tuple[views.VersionsView, ...]


def _is_operator(context: RequestContext) -> bool:
    return bool(context.state.settings.is_operator(context.organization_id))


def _require_operator(context: RequestContext) -> None:
    context.require(Permission.OPERATE_PLATFORM)


def _migration_tools(context: RequestContext) -> views.VersionManager:
    return views.VersionManager(
        context.db, context.state.admission_controller.routing_table, context.principal, utc_now()
    )


@router.get("", summary="List versions")
async def list_versions(context: Context) -> AllVersions:
    """List every service's versions with their notices, and the pins that concern the caller."""
    routing_table = context.state.admission_controller.routing_table
    found = (
        views.show_versions(routing_table, name, context.organization_id, utc_now())
        for name in routing_table.services()
    )
    return AllVersions(data=tuple(found))


@router.get("/usage", summary="Show usage by version")
async def get_version_usage(
    context: Context,
    service: OfService = None,
    since: Since = None,
    until: Until = None,
) -> views.Usage:
    """Count calls by version in a range: the caller's own, or, for operators, everybody's."""
    begin, end = read_range(since, until)
    whose = None if _is_operator(context) else context.organization_id
    return await views.read_usage(
        context.db, context.state.admission_controller.routing_table, whose, service, begin, end
    )


@router.post(
    "/migrations",
    status_code=202,
    response_model=migrations.MigrationView,
    responses=_REFUSED,
    summary="Migrate a service to another version",
)
async def start_version_migration(body: MigrationBody, context: Context, idempotency: MustBeOnce) -> JSONResponse:
    """Migrate a service to another version. For operators.

    Compare reads, try the version on a share of the weddings, switch, watch; go back at the first sign.
    """
    _require_operator(context)
    routing_table = context.state.admission_controller.routing_table

    async def action(_: AsyncConnection) -> Answer:
        views.known(routing_table, body.service)
        migration = migrations.plan_migration(
            routing_table,
            context.manifests[body.service],
            body.service,
            body.organization_id,
            body.to_version,
            body.rules,
            migration_id=context.new_id(idempotency),
            now=utc_now(),
        )
        await migrations.begin(context.db, await context.state.temporal(), context.principal, migration)
        shown = migrations.show_migration(migration, routing_table).model_dump(mode="json")
        return Answer(status=202, headers={"Location": f"/api/v1/versions/migrations/{migration.id}"}, body=shown)

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)


@router.get("/migrations", responses=_REFUSED, summary="List migrations")
async def list_version_migrations(context: Context, service: OfService = None) -> migrations.Migrations:
    """List the newest 200 migrations. For operators."""
    _require_operator(context)
    async with context.db.system() as conn:
        found = await store.listed(conn, service)
    routing_table = context.state.admission_controller.routing_table
    return migrations.Migrations(data=tuple(migrations.show_migration(one, routing_table) for one in found))


@router.get("/migrations/{migration}", responses=_REFUSED, summary="Show a migration")
async def get_version_migration(migration: MigrationId, context: Context) -> migrations.MigrationView:
    """Show the migration's stage, its steps so far, and what it found. For operators."""
    _require_operator(context)
    async with context.db.system() as conn:
        found = await store.read(conn, migration)
    if found is None:
        raise NotFound("there is no such migration")
    return migrations.show_migration(found[0], context.state.admission_controller.routing_table)


@router.post("/migrations/{migration}/rollback", status_code=202, responses=_REFUSED, summary="Take a migration back")
async def roll_back_version_migration(migration: MigrationId, context: Context) -> migrations.MigrationView:
    """Restore the pins as they were: from every stage, at any time, within a second or so. For operators."""
    return await _request_move(context, migration, rollback=True)


@router.post("/migrations/{migration}/pause", status_code=202, responses=_REFUSED, summary="Pause a migration")
async def pause_version_migration(
    migration: MigrationId, body: PauseBody, context: Context
) -> migrations.MigrationView:
    """Pause the migration, or go on with `paused` false. It still goes back when it fails. For operators."""
    return await _request_move(context, migration, paused=body.paused)


async def _request_move(context: RequestContext, migration: str, **wish: bool) -> migrations.MigrationView:
    _require_operator(context)
    found = await migrations.request_move(
        context.db, await context.state.temporal(), context.principal, migration, **wish
    )
    return migrations.show_migration(found, context.state.admission_controller.routing_table)


@router.get("/{service}", summary="Show a service's versions")
async def get_service_versions(service: ServiceName, context: Context) -> views.VersionsView:
    """Show one service's versions with their notices, and the pins that concern the caller."""
    return views.show_versions(
        context.state.admission_controller.routing_table, service, context.organization_id, utc_now()
    )


@router.put("/{service}/pin", responses=_REFUSED, summary="Pin a service to a version")
async def pin_service_version(service: ServiceName, body: PutPin, context: Context) -> views.VersionsView:
    """Pin the caller's own calls to a version; a whole service's, or another organization's, for operators."""
    organization_id = None if body.scope == "service" else body.organization_id or context.organization_id
    if organization_id != context.organization_id:
        _require_operator(context)
    return await _migration_tools(context).pin(service, organization_id, body.version)


@router.put("/{service}/{version_name}", responses=_REFUSED, summary="Add a version, or change one")
async def put_service_version(
    service: ServiceName, version_name: VersionName, body: PutVersion, context: Context
) -> views.VersionView:
    """Add or change a version, live in every process within a second, and audited. For operators."""
    _require_operator(context)
    return await _migration_tools(context).put(service, VersionSpec(name=version_name, **body.model_dump()))
