"""Show the health of vendors now and over a range, as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.health.status import Health, Impact, Status, by_circuits, wedding_impact, worst
from wedsync.domain.health.trend import Warned
from wedsync.domain.quotas import quota as quota_rules
from wedsync.domain.quotas.quota import Quota, WindowName
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_breaker import Phase
from wedsync.domain.routing.vendor_config import Dependency, ServiceConfig
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.health import queries as health
from wedsync.store.quotas import queries as quotas
from wedsync.store.routing import failovers
from wedsync.usecases.routing.read import RoutingView

#: Calls so recent count as the present.
RECENT = timedelta(minutes=15)
#: Readiness is about weddings so near.
_NEAR = timedelta(hours=48)
_DAY = timedelta(hours=24)


class RateLimit(RoutingView):
    """Calls that the vendor still takes by the platform's account."""

    #: Of the window with the fewest left; None: nobody limits it.
    window: WindowName | None
    limit: int | None
    remaining: int | None
    resets_at: datetime | None
    #: The vendor takes no call before; None: it does.
    blocked_until: datetime | None


class ApiHealth(RoutingView):
    """One vendor's health."""

    service: str
    status: Status
    since: datetime | None
    checked_at: datetime | None
    response_time_ms: float
    #: 0 to 1, smoothed over probes.
    error_rate: float
    error_count: int
    dependency: Dependency
    wedding_impact: Impact
    dependent_weddings: int
    next_wedding_at: datetime | None
    #: Its traffic goes elsewhere now.
    mitigation_active: bool
    #: Its traffic could go elsewhere.
    mitigation_available: bool
    circuit: Phase
    #: Of the last quarter of an hour.
    calls: int
    failed_calls: int
    throttled_calls: int
    p95_ms: float | None
    #: Percent of the last 24 hours in which it was not down; None: it is not watched.
    uptime_24h: float | None
    #: None: nobody limits it, and the vendor has said nothing.
    rate_limit: RateLimit | None
    detail: str
    #: Thresholds that a trend will cross before the next wedding that depends on the vendor.
    warnings: tuple[Warned, ...] = ()


class WeddingDayReadiness(RoutingView):
    """A judgement whether weddings of the next two days can be held."""

    ready: bool
    #: Vendors that are not up and that no other stands in for.
    blocking: tuple[str, ...]
    #: Weddings of these days, whatever they depend on.
    weddings_within_48h: int


class HealthReport(RoutingView):
    """The answer of `/api/integrations/health-check` and `/api/admin/api-management/health`."""

    overall: Status
    apis: tuple[ApiHealth, ...]
    wedding_day_readiness: WeddingDayReadiness
    timestamp: datetime


class HealthChange(RoutingView):
    """One change of a vendor's status."""

    #: What shows it: `probe`, `circuit` (down: no endpoint takes calls), or `calls` (down: they fail, though its
    #: circuit stays closed, as that of a last provider does).
    source: Literal["probe", "circuit", "calls"]
    from_status: str | None
    status: str
    at: datetime
    error_rate: float
    response_ms: float
    detail: str


class HealthHistory(RoutingView):
    """A vendor's changes of status in a range, up to now at most.

    `uptime` is the share of the range, 0 to 1, in which the vendor was not down: neither its probes nor its circuits
    nor its calls said so.
    """

    service: str
    since: datetime
    until: datetime
    uptime: float
    down_seconds: float
    #: Seconds left of the time that an SLA of 99.9 % lets it be down in the range; below 0: the SLA is broken.
    error_budget_seconds: float
    #: All changes of the range; `data` has the newest 500.
    changes: int
    data: tuple[HealthChange, ...]


async def read_health(
    db: Database,
    routing_table: RoutingTable,
    now: datetime,
    organization_id: str | None,
    *,
    wedding_critical_only: bool = False,
) -> HealthReport:
    """Report the health of every vendor, and whether weddings can be held. Raises StoreUnavailable.

    With an organization, only its own weddings and calls are counted; None: everybody's.
    """
    async with db.system() if organization_id is None else db.tenant(organization_id) as conn:
        facts = await _facts(conn, routing_table, now)
        near = await failovers.count_ceremonies(conn, now, now + _NEAR)
    apis = [_api(routing_table, name, facts, now) for name in routing_table.services()]
    if wedding_critical_only:
        apis = [api for api in apis if api.dependency == "critical"]
    used = [api for api in apis if api.dependent_weddings or api.checked_at is not None]
    mattering = [_felt(api) for api in used if api.dependency != "optional"]
    return HealthReport(
        overall=worst(mattering), apis=tuple(apis), wedding_day_readiness=_readiness(apis, near, now), timestamp=now
    )


@dataclass(frozen=True)
class _Facts:
    """Facts from the database, each by vendor."""

    healths: Mapping[str, Health]
    depends: Mapping[str, tuple[int, datetime | None]]
    calls: Mapping[str, Any]
    warned: Mapping[str, tuple[Warned, ...]]
    #: Seconds of the last 24 hours.
    down: Mapping[str, float]
    quotas: Mapping[quotas.Key, Quota]


async def _facts(conn: AsyncConnection, routing_table: RoutingTable, now: datetime) -> _Facts:
    return _Facts(
        healths=await health.read_all(conn),
        depends=await failovers.dependents(conn, now),
        calls=await health.read_calls(conn, now - RECENT),
        warned=await health.read_warnings(conn),
        down=await health.down_seconds(conn, routing_table.services(), now - _DAY, now),
        quotas=await quotas.read_all(conn),
    )


def _felt(api: ApiHealth) -> Status:
    """Return the status that users notice: an outage that other vendors make up for is a degradation."""
    is_made_up_for = api.status in ("unhealthy", "down") and (api.mitigation_active or api.mitigation_available)
    return "degraded" if is_made_up_for else api.status


def _readiness(apis: Sequence[ApiHealth], weddings: int, now: datetime) -> WeddingDayReadiness:
    near = [api for api in apis if api.next_wedding_at is not None and api.next_wedding_at - now <= _NEAR]
    blocking = tuple(
        api.service
        for api in near
        if api.status in ("unhealthy", "down") and api.dependency != "optional" and not api.mitigation_available
    )
    return WeddingDayReadiness(ready=not blocking, blocking=blocking, weddings_within_48h=weddings)


def _api(routing_table: RoutingTable, service: str, facts: _Facts, now: datetime) -> ApiHealth:
    config, health_of, calls = routing_table.config(service), facts.healths.get(service), facts.calls.get(service)
    phases = [rules.phase(routing_table.circuit(service, one.name), now) for one in config.endpoints]
    weddings, next_at = facts.depends.get(service, (0, None))
    status = worst([_status(health_of, phases, calls), "down" if routing_table.is_failing(service, now) else "healthy"])
    is_available = _has_backup(routing_table, config, now)
    days = None if next_at is None else (next_at - now).total_seconds() / 86_400
    return ApiHealth(
        service=service,
        status=status,
        since=health_of.since if health_of else None,
        checked_at=health_of.checked_at if health_of else None,
        response_time_ms=round(health_of.response_ms, 1) if health_of else 0.0,
        error_rate=round(health_of.error_rate, 4) if health_of else 0.0,
        error_count=health_of.error_count if health_of else 0,
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
        uptime_24h=_uptime_percent(facts.down.get(service, 0.0)) if health_of else None,
        rate_limit=_rate_limit(routing_table, service, facts.quotas.get((service, PLATFORM_ACCOUNT)), now),
        detail=health_of.detail if health_of else "not probed: nobody has set it up",
        warnings=facts.warned.get(service, ()),
    )


def _uptime_percent(down_seconds: float) -> float:
    return round(100 * (1 - min(down_seconds / _DAY.total_seconds(), 1.0)), 3)


def _rate_limit(routing_table: RoutingTable, service: str, quota: Quota | None, now: datetime) -> RateLimit | None:
    policy = routing_table.quota_policy(service, PLATFORM_ACCOUNT)
    known = quota if quota is not None else routing_table.quota(service, PLATFORM_ACCOUNT)
    blocked = known.blocked_until if known.blocked_until is not None and known.blocked_until > now else None
    counters = [(one, quota_rules.opened(known, one, now)) for one in policy.windows]
    left = [(max(quota_rules.limit_of(one, counter) - counter.used, 0), one, counter) for one, counter in counters]
    if not left and blocked is None:
        return None
    if not left:
        return RateLimit(window=None, limit=None, remaining=None, resets_at=None, blocked_until=blocked)
    remaining, window, counter = min(left, key=lambda found: found[0])
    return RateLimit(
        window=window.window,
        limit=quota_rules.limit_of(window, counter),
        remaining=remaining,
        resets_at=counter.ends_at,
        blocked_until=blocked,
    )


def _status(health_of: Health | None, phases: Sequence[Phase], calls: Any) -> Status:
    """Return the worst status of probes, circuits and real calls."""
    statuses: list[Status] = [health_of.status if health_of else "healthy", by_circuits(phases)]
    if calls and calls.calls >= 10 and calls.failed / calls.calls >= 0.05:
        statuses.append("degraded")
    return worst(statuses)


def _has_backup(routing_table: RoutingTable, config: ServiceConfig, now: datetime) -> bool:
    return any(
        rules.phase(routing_table.circuit(name, one.name), now) not in ("open", "half_open")
        for name in filter(routing_table.is_set_up, config.backups)
        for one in routing_table.config(name).endpoints
    )


async def read_history(
    db: Database,
    organization_id: str,
    service: str,
    since: datetime,
    until: datetime,
    *,
    now: datetime,
    sla: float = 0.999,
) -> HealthHistory:
    """Return a vendor's changes in a range, its uptime and the rest of its error budget. Raises StoreUnavailable."""
    until = max(min(until, now), since)
    async with db.tenant(organization_id) as conn:
        changes = await health.read_changes(conn, service, since, until)
        count = await health.count_changes(conn, service, since, until)
        down = (await health.down_seconds(conn, [service], since, until)).get(service, 0.0)
    whole = (until - since).total_seconds()
    return HealthHistory(
        service=service,
        since=since,
        until=until,
        uptime=round(1 - down / whole, 6) if whole else 1.0,
        down_seconds=round(down, 3),
        error_budget_seconds=round(whole * (1 - sla) - down, 3),
        changes=count,
        data=tuple(HealthChange.model_validate(dict(change._mapping)) for change in changes),
    )
