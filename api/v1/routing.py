"""`/api/v1/services`, `/api/v1/failovers` and the health of what we depend on."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict

from api.ranges import Since, Until, read_range
from wedsync.domain.access.principal import Permission
from wedsync.domain.errors import InvalidInput, NotFound, StoreUnavailable
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.endpoint_selection import Endpoint, Strategy
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.vendor_config import Dependency, HealthCheck, ServiceConfig
from wedsync.domain.vendors.manifest import GatewayPolicy
from wedsync.http.deps import Context, RequestContext
from wedsync.kit.clock import utc_now
from wedsync.pipeline.circuit_breakers import Moved
from wedsync.usecases.health import read as reports
from wedsync.usecases.routing import read as views
from wedsync.usecases.routing.operate import Operator

router = APIRouter(tags=["services"])
health_router = APIRouter(prefix="/api", tags=["services"])
_LONGEST_WAIT_MS = 10_000
#: The answers of what operators alone may do.
OPERATORS_ONLY: dict[int | str, dict[str, Any]] = {
    403: {"description": "The key is no operator's."},
    409: {"description": "The service's state does not allow it, or nobody stands in for it."},
}

ServiceName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$", examples=["stripe"])]


class _ServiceBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PutService(_ServiceBody):
    """Routing of a service from now on; what is left out is as the vendor's manifest says."""

    strategy: Strategy | None = None
    dependency: Dependency | None = None
    backups: tuple[str, ...] | None = None
    endpoints: tuple[Endpoint, ...] | None = None
    health: HealthCheck | None = None
    circuit: CircuitPolicy | None = None
    failover: FailoverPolicy | None = None
    gateway: GatewayPolicy | None = None


class FailoverBody(_ServiceBody):
    """Names the endpoint to leave, bring back or hold."""

    deed: Literal["trigger", "restore", "hold"]
    endpoint: str = "default"
    #: Leave it although nobody stands in for it.
    even_if_last: bool = False


class ForceCircuit(_ServiceBody):
    """State in which a circuit is held; with `auto` its calls decide."""

    state: Literal["open", "closed", "auto"]
    endpoint: str = "default"
    even_if_last: bool = False


class FailoverAnswer(views.RoutingView):
    """Answer to a failover request: the service as it stands now, and its failover."""

    #: Whether this request changed anything: of two that ask at once, one does.
    changed: bool
    service: views.ServiceView
    failover: views.FailoverView | None


def _operator(context: RequestContext) -> Operator:
    context.require(Permission.OPERATE_PLATFORM)
    return Operator(context.state.admission_controller.breakers, context.principal, utc_now())


def _counted(context: RequestContext) -> str | None:
    """Return the organization whose weddings count in a report; None for an operator: then everybody's count."""
    return None if context.state.settings.is_operator(context.organization_id) else context.organization_id


def _known(context: RequestContext, service: str) -> str:
    if service not in context.state.admission_controller.routing_table.services():
        raise NotFound(f"there is no service {service!r}")
    return service


@router.get("/services", summary="List services")
async def list_services(context: Context) -> views.Services:
    """List every service that can be called: how it is routed to, and its circuits."""
    routing_table = context.state.admission_controller.routing_table
    return views.Services(
        data=tuple(views.show_service(routing_table, name, utc_now()) for name in routing_table.services())
    )


@router.get("/services/{service}", summary="Show a service")
async def get_service(service: ServiceName, context: Context) -> views.ServiceView:
    """Show one service, as this process knows it: at most a second old."""
    return views.show_service(context.state.admission_controller.routing_table, _known(context, service), utc_now())


@router.put("/services/{service}", responses=OPERATORS_ONLY, summary="Configure a service")
async def configure_service(service: ServiceName, body: PutService, context: Context) -> views.ServiceView:
    """Replace a service's configuration; live in every process within a second, and audited. For operators."""
    operator, routing_table = _operator(context), context.state.admission_controller.routing_table
    params = {name: value for name in PutService.model_fields if (value := getattr(body, name)) is not None}
    before = routing_table.default(_known(context, service))
    try:
        config = ServiceConfig(**{**{n: getattr(before, n) for n in type(before).model_fields}, **params})
    except ValueError as error:
        raise InvalidInput(_reason(error), field="") from None
    await operator.configure(config)
    return views.show_service(routing_table, service, utc_now())


def _reason(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]) if errors is not None else str(error)


@router.post(
    "/services/{service}/failover", responses=OPERATORS_ONLY, summary="Leave a service, bring it back, or hold it"
)
async def request_failover(service: ServiceName, body: FailoverBody, context: Context) -> FailoverAnswer:
    """Leave an endpoint, bring it back or hold it. For operators.

    Trigger leaves it for its backups; restore probes it at once; hold keeps it from coming back. If the endpoint is
    being left in steps, restore gives it all traffic again, and hold takes the rest away. Trigger releases a circuit
    that is forced closed.
    """
    moved = await _operator(context).failover(service, body.endpoint, body.deed, even_if_last=body.even_if_last)
    return await _answer(context, moved)


@router.put("/services/{service}/circuit", responses=OPERATORS_ONLY, summary="Force a circuit open or closed")
async def force_circuit(service: ServiceName, body: ForceCircuit, context: Context) -> FailoverAnswer:
    """Hold a circuit in one state, whatever its calls say, until it is set to `auto`. For operators."""
    moved = await _operator(context).force(service, body.endpoint, body.state, even_if_last=body.even_if_last)
    return await _answer(context, moved)


async def _answer(context: RequestContext, moved: Moved) -> FailoverAnswer:
    return FailoverAnswer(
        changed=moved.has_moved,
        service=views.show_service(context.state.admission_controller.routing_table, moved.now_is.service, utc_now()),
        failover=await views.read_failover(context.db, context.organization_id, moved.now_is),
    )


@router.get("/services/{service}/health", summary="Show a service's health over a range")
async def get_service_health(
    service: ServiceName, context: Context, since: Since = None, until: Until = None
) -> reports.HealthHistory:
    """Show the service's changes of status, its uptime and what is left of the error budget of an SLA of 99.9 %."""
    begin, end = read_range(since, until)
    return await reports.read_history(
        context.db, context.organization_id, _known(context, service), begin, end, now=utc_now()
    )


@router.get("/failovers", summary="List failovers")
async def list_failovers(
    context: Context,
    since: Since = None,
    until: Until = None,
    service: Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = None,
) -> views.Failovers:
    """List the failovers that began in a range, the newest first, with statistics of them all."""
    begin, end = read_range(since, until)
    return await views.list_failovers(context.db, context.organization_id, begin, end, service)


@health_router.get("/integrations/health-check", summary="How the services stand")
async def get_health_report(context: Context) -> reports.HealthReport:
    """Report every service's health, and whether the weddings of the next two days can be held."""
    return await reports.read_health(
        context.db, context.state.admission_controller.routing_table, utc_now(), _counted(context)
    )


@health_router.get("/admin/api-management/health", summary="How the services stand, as asked")
async def get_filtered_health_report(
    context: Context,
    include_third_party: Annotated[bool, Query(description="The vendors, not only ourselves.")] = True,
    wedding_critical_only: Annotated[bool, Query(description="Only what a wedding can't do without.")] = False,
    timeout_ms: Annotated[int, Query(ge=50, le=_LONGEST_WAIT_MS, description="How long to wait for it.")] = 5_000,
) -> reports.HealthReport:
    """Show the same report, narrowed. Raises 503 when it takes longer than `timeout_ms`."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            report = await reports.read_health(
                context.db,
                context.state.admission_controller.routing_table,
                utc_now(),
                _counted(context),
                wedding_critical_only=wedding_critical_only,
            )
    except TimeoutError:
        raise StoreUnavailable(f"the report took longer than {timeout_ms} ms") from None
    return report if include_third_party else report.model_copy(update={"apis": ()})
