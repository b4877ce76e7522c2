"""Tend the failovers that are active: start missing guards, withdraw proposals that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog

from wedsync.domain.health.status import Health
from wedsync.domain.routing import failover as rules
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.pipeline.circuit_breakers import CircuitBreakers
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.health import queries as health
from wedsync.store.routing import circuits, failovers

log = structlog.get_logger(__name__)


async def tend_failovers(breakers: CircuitBreakers, now: datetime, up: Mapping[tuple[str, str], bool] = {}) -> int:
    """Start guards for failovers that never got one, and for those whose guard did not wake when it should have.
    A guard that lives is not started twice. Returns how many were started.

    `up`: which of the endpoints of a service that has several answer their probes. Raises StoreUnavailable.
    """
    async with breakers.db.system() as conn:
        await failovers.refresh_moments(conn, now)
        proposed = _installed(breakers.routing_table, await failovers.proposed(conn))
        if proposed:
            known = {circuit.key: circuit for circuit in await circuits.read_all(conn)}
            over = _over(breakers.routing_table, proposed, known, await health.read_all(conn), up, now)
            await failovers.supersede(conn, [one.id for one in over])
        missing = _installed(breakers.routing_table, await failovers.without_recovery(conn, now))
    started = 0
    for failover in missing:
        circuit = breakers.routing_table.circuit(failover.from_service, failover.endpoint)
        circuit = circuit.model_copy(update={"epoch": failover.epoch})
        started += await breakers.start_recovery(failover.id, circuit, now)
    return started


def _installed(routing_table: RoutingTable, found: Iterable[Any]) -> list[Any]:
    """Keep the failovers of vendors that are still installed: a vendor that was taken out stops nobody."""
    services = frozenset(routing_table.services())
    return [failover for failover in found if failover.from_service in services]


def _over(
    routing_table: RoutingTable,
    proposed: Any,
    known: Mapping[tuple[str, str], Circuit],
    healths: Mapping[str, Health],
    up: Mapping[tuple[str, str], bool],
    now: datetime,
) -> list[Any]:
    """List the proposals whose vendor is well again."""
    found = []
    for one in proposed:
        key = (one.from_service, one.endpoint)
        circuit, health_of = known.get(key), healths.get(one.from_service)
        is_up = (
            None if health_of is None or health_of.checked_at is None else health_of.status in ("healthy", "degraded")
        )
        if len(routing_table.config(one.from_service).endpoints) > 1:
            # A vendor is as well as its best endpoint, which need not be this one.
            is_up = up.get(key)
        if circuit is not None and rules.is_well_again(circuit, is_up, now, routing_table.policy(one.from_service)):
            log.info("failover.superseded", service=one.from_service, endpoint=one.endpoint, reason=one.reason)
            found.append(one)
    return found
