"""Services, failovers and health as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from wedsync.domain.health.status import ORDER, Health, Impact, Status, wedding_impact, worst
from wedsync.domain.health.trend import Warned
from wedsync.domain.routing import circuit as rules
from wedsync.domain.routing.circuit import Circuit, CircuitPolicy, Phase
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.services import Dependency, HealthCheck, ServiceConfig
from wedsync.domain.routing.strategy import Endpoint, Strategy
from wedsync.domain.routing.vendor import GatewayPolicy
from wedsync.store import failovers, health
from wedsync.store.session import Database
from wedsync.usecases.routing.book import Book

#: Calls so recent speak of the present.
RECENT = timedelta(minutes=15)


class RoutingView(BaseModel):
    """Frozen."""

    model_config = ConfigDict(frozen=True)


class CircuitView(RoutingView):
    """One endpoint's circuit as it is now."""

    endpoint: str
    state: Phase
    #: Percent of traffic that is let through where it could go elsewhere.
    share_percent: int
    epoch: int
    reason: str
    forced: str | None
    held: bool
    open_until: datetime | None
    calls: int
    failures: int
    slow_calls: int
    changed_at: datetime | None


class ServiceView(RoutingView):
    """A service: how it is configured, and how it stands."""

    service: str
    capabilities: tuple[str, ...]
    dependency: Dependency
    strategy: Strategy
    backups: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    health: HealthCheck
    circuit: CircuitPolicy
    failover: FailoverPolicy
    #: What partners may send to it; whose keys may is not told.
    gateway: GatewayPolicy
    #: Whether an operator has changed what the vendor's manifest says.
    is_configured: bool
    circuits: tuple[CircuitView, ...]


class Services(RoutingView):
    """Every service."""

    data: tuple[ServiceView, ...]


class FailoverView(RoutingView):
    """One failover, from trip to restore."""

    id: str
    from_service: str
    to_service: str | None
    endpoint: str
    epoch: int
    reason: str
    strategy: str
    status: str
    actor: str
    #: Of all organizations.
    affected_weddings: int
    #: Ids of the caller's own, the next ceremony first, at most 100.
    own_weddings: tuple[str, ...]
    #: The next ceremony or due step of those affected.
    next_moment_at: datetime | None
    estimated_downtime_ms: int
    rollback_plan: tuple[str, ...]
    started_at: datetime
    restored_at: datetime | None
    #: How often it had to be left again on the way back.
    fell_back: int


class FailoverStatistics(RoutingView):
    """Of all failovers that began in the range."""

    failovers: int
    restored: int
    proposed: int
    fell_back: int
    affected_weddings: int
    median_downtime_ms: int | None
    longest_downtime_ms: int | None


class Failovers(RoutingView):
    """The newest 200 of a range, and what they come to in all."""

    since: datetime
    until: datetime
    statistics: FailoverStatistics
    data: tuple[FailoverView, ...]


class ApiHealth(RoutingView):
    """How one service stands."""

    service: str
    status: Status
    since: datetime | None
    checked_at: datetime | None
    response_time_ms: float
    #: 0 to 1, smoothed over looks.
    error_rate: float
    error_count: int
    dependency: Dependency
    wedding_impact: Impact
    dependent_weddings: int
    next_wedding_at: datetime | None
    #: Its traffic goes elsewhere now.
    mitigation_active: bool
    #: It could.
    mitigation_available: bool
    circuit: Phase
    #: Of the last quarter of an hour.
    calls: int
    failed_calls: int
    throttled_calls: int
    p95_ms: float | None
    detail: str
    #: Thresholds that a trend will cross before the next wedding that depends on the service.
    warnings: tuple[Warned, ...] = ()


class Readiness(RoutingView):
    """Whether weddings of the next two days can be held."""

    ready: bool
    #: Services that are not up, and that nobody stands in for.
    blocking: tuple[str, ...]
    weddings_within_48h: int


class HealthReport(RoutingView):
    """`/api/integrations/health-check`, `/api/admin/api-management/health`."""

    overall: Status
    apis: tuple[ApiHealth, ...]
    wedding_day_readiness: Readiness
    timestamp: datetime


class HealthChange(RoutingView):
    """One change of a service's status."""

    from_status: str | None
    status: str
    at: datetime
    error_rate: float
    response_ms: float
    detail: str


class HealthHistory(RoutingView):
    """What a service went through in a range; `uptime` is the share of it, 0 to 1, in which it was not down."""

    service: str
    since: datetime
    until: datetime
    uptime: float
    #: What is left, in seconds, of the time that an SLA of 99.9 % lets it be down in the range; below 0: broken.
    error_budget_seconds: float
    data: tuple[HealthChange, ...]


def show_service(book: Book, service: str, now: datetime) -> ServiceView:
    """A service as its process's book knows it."""
    config = book.config(service)
    return ServiceView(
        **{name: getattr(config, name) for name in type(config).model_fields if name != "gateway"},
        gateway=config.gateway.model_copy(update={"organizations": ()}),
        is_configured=book.is_configured(service),
        circuits=tuple(_show_circuit(book.circuit(service, one.name), config.circuit, now) for one in config.endpoints),
    )


def _show_circuit(circuit: Circuit, policy: CircuitPolicy, now: datetime) -> CircuitView:
    calls = rules.total(rules.merged(circuit.window, rules.Tally(), now, policy))
    return CircuitView(
        endpoint=circuit.endpoint,
        state=rules.phase(circuit, now),
        share_percent=rules.share_percent(circuit, now, policy),
        epoch=circuit.epoch,
        reason=circuit.reason,
        forced=circuit.forced,
        held=circuit.held,
        open_until=circuit.open_until,
        calls=calls.calls,
        failures=calls.failed,
        slow_calls=calls.slow,
        changed_at=circuit.changed_at,
    )


async def list_failovers(
    db: Database, organization_id: str, since: datetime, until: datetime, service: str | None
) -> Failovers:
    """The failovers that began in a range; of the weddings only the organization's own are named."""
    async with db.tenant(organization_id) as conn:
        rows, statistics = await failovers.read_range(conn, since, until, service)
    return Failovers(
        since=since,
        until=until,
        statistics=FailoverStatistics.model_validate(dict(statistics._mapping)),
        data=tuple(_show_failover(row) for row in rows),
    )


async def read_failover(db: Database, organization_id: str, circuit: Circuit) -> FailoverView | None:
    """The failover of the circuit's present epoch."""
    async with db.tenant(organization_id) as conn:
        row = await failovers.read_epoch(conn, circuit.service, circuit.endpoint, circuit.epoch)
    return None if row is None else _show_failover(row)


def _show_failover(row: Any) -> FailoverView:
    values = dict(row._mapping)
    return FailoverView.model_validate({**values, "own_weddings": values.pop("weddings")})


async def read_health(
    db: Database, book: Book, now: datetime, organization_id: str | None, *, wedding_critical_only: bool = False
) -> HealthReport:
    """How every service stands, and whether weddings can be held. Raises StoreUnavailable.

    With an organization, its own weddings and calls only are counted; None: everybody's.
    """
    async with db.system() if organization_id is None else db.tenant(organization_id) as conn:
        looks = await health.read_all(conn)
        depends = await failovers.dependents(conn, now)
        calls = await health.read_calls(conn, now - RECENT)
        warned = await health.read_warnings(conn)
    apis = [
        _api(book, name, looks.get(name), depends.get(name, (0, None)), calls.get(name), now).model_copy(
            update={"warnings": warned.get(name, ())}
        )
        for name in book.services()
    ]
    if wedding_critical_only:
        apis = [api for api in apis if api.dependency == "critical"]
    used = [api for api in apis if api.dependent_weddings or api.checked_at is not None]
    mattering = [_felt(api) for api in used if api.dependency != "optional"]
    return HealthReport(
        overall=worst(mattering), apis=tuple(apis), wedding_day_readiness=_readiness(apis, now), timestamp=now
    )


def _felt(api: ApiHealth) -> Status:
    """What is felt of a service: an outage that others make up for is a degradation."""
    is_made_up_for = api.status in ("unhealthy", "down") and (api.mitigation_active or api.mitigation_available)
    return "degraded" if is_made_up_for else api.status


def _readiness(apis: Sequence[ApiHealth], now: datetime) -> Readiness:
    near = [api for api in apis if api.next_wedding_at is not None and api.next_wedding_at - now <= timedelta(hours=48)]
    blocking = tuple(
        api.service
        for api in near
        if api.status in ("unhealthy", "down") and api.dependency != "optional" and not api.mitigation_available
    )
    return Readiness(
        ready=not blocking, blocking=blocking, weddings_within_48h=max((a.dependent_weddings for a in near), default=0)
    )


def _api(
    book: Book, service: str, look: Health | None, depends: tuple[int, datetime | None], calls: Any, now: datetime
) -> ApiHealth:
    config = book.config(service)
    phases = [rules.phase(book.circuit(service, one.name), now) for one in config.endpoints]
    weddings, next_at = depends
    status = _status(look, phases, calls)
    is_available = _has_backup(book, config, now)
    days = None if next_at is None else (next_at - now).total_seconds() / 86_400
    return ApiHealth(
        service=service,
        status=status,
        since=look.since if look else None,
        checked_at=look.checked_at if look else None,
        response_time_ms=round(look.response_ms, 1) if look else 0.0,
        error_rate=round(look.error_rate, 4) if look else 0.0,
        error_count=look.error_count if look else 0,
        dependency=config.dependency,
        wedding_impact=wedding_impact(status, config.dependency, weddings, days, is_available),
        dependent_weddings=weddings,
        next_wedding_at=next_at,
        mitigation_active=any(phase != "closed" for phase in phases),
        mitigation_available=is_available,
        circuit=max(phases, key=("closed", "ramping", "draining", "half_open", "open").index),
        calls=calls.calls if calls else 0,
        failed_calls=calls.failed if calls else 0,
        throttled_calls=calls.throttled if calls else 0,
        p95_ms=round(calls.p95_ms, 1) if calls else None,
        detail=look.detail if look else "not probed: nobody has set it up",
    )


def _status(look: Health | None, phases: Sequence[Phase], calls: Any) -> Status:
    """The worst of what probes, circuits and real calls say."""
    said: list[Status] = [look.status if look else "healthy"]
    if all(phase in ("open", "half_open") for phase in phases):
        said.append("down")
    elif any(phase != "closed" for phase in phases):
        said.append("degraded")
    if calls and calls.calls >= 10 and calls.failed / calls.calls >= 0.05:
        said.append("degraded")
    return worst(said)


def _has_backup(book: Book, config: ServiceConfig, now: datetime) -> bool:
    return any(
        rules.phase(book.circuit(name, one.name), now) not in ("open", "half_open")
        for name in filter(book.is_set_up, config.backups)
        for one in book.config(name).endpoints
    )


async def read_history(
    db: Database, organization_id: str, service: str, since: datetime, until: datetime, sla: float = 0.999
) -> HealthHistory:
    """A service's changes in a range, its uptime and what is left of its error budget."""
    async with db.tenant(organization_id) as conn:
        changes = list(await health.read_changes(conn, service, since, until))
        known = (await health.read_all(conn)).get(service)
    down = _down_seconds(changes, since, until, known)
    whole = max((until - since).total_seconds(), 1e-9)
    return HealthHistory(
        service=service,
        since=since,
        until=until,
        uptime=round(1 - down / whole, 6),
        error_budget_seconds=round(whole * (1 - sla) - down, 3),
        data=tuple(HealthChange.model_validate(_values(change)) for change in changes),
    )


def _values(change: Any) -> Mapping[str, Any]:
    return {name: getattr(change, name) for name in HealthChange.model_fields}


def _down_seconds(changes: Sequence[Any], since: datetime, until: datetime, known: Health | None) -> float:
    """How long it was down: each change says what was before it."""
    ended_at, status, down = until, known.status if known and not changes else None, 0.0
    for change in changes:
        status = change.status
        down += (ended_at - change.at).total_seconds() if status == "down" else 0.0
        ended_at = change.at
    first: Literal["down"] | str | None = changes[-1].from_status if changes else status
    return down + ((ended_at - since).total_seconds() if first == ORDER[-1] else 0.0)
