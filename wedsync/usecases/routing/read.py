"""Show vendors and failovers as people read them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_breaker import Circuit, Phase
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Tally, merged, total
from wedsync.domain.routing.endpoint_selection import Endpoint, Strategy
from wedsync.domain.routing.failover import FailoverPolicy
from wedsync.domain.routing.vendor_config import Dependency, HealthCheck
from wedsync.domain.vendors.manifest import GatewayPolicy
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.routing import failovers


class RoutingView(BaseModel):
    """A frozen view for the API."""

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
    """A vendor: its configuration and its present state."""

    service: str
    capabilities: tuple[str, ...]
    dependency: Dependency
    strategy: Strategy
    backups: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    health: HealthCheck
    circuit: CircuitPolicy
    failover: FailoverPolicy
    #: What partners may send to it; the API does not show whose keys may.
    gateway: GatewayPolicy
    #: Whether an operator has changed what the vendor's manifest says.
    is_configured: bool
    circuits: tuple[CircuitView, ...]


class Services(RoutingView):
    """Every vendor."""

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
    #: Ids of the caller's own weddings, the next ceremony first, at most 100.
    own_weddings: tuple[str, ...]
    #: The next ceremony or due step of the affected weddings.
    next_moment_at: datetime | None
    estimated_downtime_ms: int
    rollback_plan: tuple[str, ...]
    started_at: datetime
    restored_at: datetime | None
    #: How often the vendor failed again while it was restored.
    fell_back: int


class FailoverStatistics(RoutingView):
    """Statistics of all failovers that began in the range."""

    failovers: int
    restored: int
    proposed: int
    fell_back: int
    affected_weddings: int
    median_downtime_ms: int | None
    longest_downtime_ms: int | None


class Failovers(RoutingView):
    """The newest 200 failovers of a range, and statistics of all."""

    since: datetime
    until: datetime
    statistics: FailoverStatistics
    data: tuple[FailoverView, ...]


def show_service(routing_table: RoutingTable, service: str, now: datetime) -> ServiceView:
    """Return a vendor as its process's book knows it."""
    config = routing_table.config(service)
    return ServiceView(
        **{name: getattr(config, name) for name in type(config).model_fields if name != "gateway"},
        gateway=config.gateway.model_copy(update={"organizations": ()}),
        is_configured=routing_table.is_configured(service),
        circuits=tuple(
            _show_circuit(routing_table.circuit(service, one.name), config.circuit, now) for one in config.endpoints
        ),
    )


def _show_circuit(circuit: Circuit, policy: CircuitPolicy, now: datetime) -> CircuitView:
    calls = total(merged(circuit.window, Tally(), now, policy))
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
    """List the failovers that began in a range; only the organization's own weddings are named."""
    async with db.tenant(organization_id) as conn:
        rows, statistics = await failovers.read_range(conn, since, until, service)
    return Failovers(
        since=since,
        until=until,
        statistics=FailoverStatistics.model_validate(dict(statistics._mapping)),
        data=tuple(_show_failover(row) for row in rows),
    )


async def read_failover(db: Database, organization_id: str, circuit: Circuit) -> FailoverView | None:
    """Return the failover of the circuit's present epoch."""
    async with db.tenant(organization_id) as conn:
        row = await failovers.read_epoch(conn, circuit.service, circuit.endpoint, circuit.epoch)
    return None if row is None else _show_failover(row)


def _show_failover(row: Any) -> FailoverView:
    values = dict(row._mapping)
    return FailoverView.model_validate({**values, "own_weddings": values.pop("weddings")})
