"""Let an operator configure a vendor, leave it, restore it or hold it; every action is audited."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.vendor_config import ServiceConfig
from wedsync.pipeline.circuit_breakers import CircuitBreakers, Moved
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.access import queries as access
from wedsync.store.routing import circuits
from wedsync.vendors.registry import vendor_probe

OperatorAction = Literal["trigger", "restore", "hold"]
Position = Literal["open", "closed", "auto"]


class Operator:
    """Works the circuits in one operator's name. Raises StoreUnavailable."""

    def __init__(self, breakers: CircuitBreakers, principal: Principal, now: datetime) -> None:
        self._breakers = breakers
        self._routing_table: RoutingTable = breakers.routing_table
        self._principal = principal
        self._now = now

    async def configure(self, config: ServiceConfig) -> ServiceConfig:
        """Set a vendor's configuration, in effect in every process within a second. Raises NotFound, InvalidInput."""
        self._known(config.service)
        unknown = [name for name in config.backups if name not in self._routing_table.services()]
        if unknown:
            raise InvalidInput(f"no vendor is called {unknown[0]!r}", field="backups", reason="unknown_vendor")
        if config.health.kind == "custom" and vendor_probe(config.service) is None:
            raise InvalidInput(f"{config.service} has no probe of its own", field="health.kind", reason="no_probe")
        before = self._routing_table.config(config.service)
        async with self._breakers.db.system() as conn:
            await circuits.put_config(conn, config, self._principal.actor, self._now)
            changed = sorted(
                name for name in type(config).model_fields if getattr(before, name) != getattr(config, name)
            )
            detail = {"changed": changed, "config": config.model_dump(mode="json")}
            await access.audit(
                conn, self._principal, "service.configured", f"service/{config.service}", detail, self._now
            )
        await self._routing_table.load()
        return config

    async def failover(
        self, service: str, endpoint: str, action: OperatorAction, *, even_if_last: bool = False
    ) -> Moved:
        """Leave a vendor, probe it at once, or keep it out. A repetition changes nothing.

        Raises NotFound, Conflict(reason="last_provider") when no other vendor could do its work, Conflict when there is
        nothing to restore or hold.
        """
        config = self._known(service, endpoint)
        policy, now = config.circuit, self._now

        def change(circuit: Circuit, is_last: bool) -> Circuit:
            match action:
                case "trigger":
                    left = rules.left(circuit, now, policy, gradually=config.failover.strategy == "gradual")
                    _refuse_last(left != circuit and is_last and not even_if_last, service)
                    return left
                case "restore":
                    _refuse_proposed(circuit, service)
                    return rules.restorable(circuit, now)
                case "hold":
                    _refuse_proposed(circuit, service)
                    _refuse_last(circuit.state == "draining" and is_last and not even_if_last, service)
                    return rules.kept_out(circuit, now, policy)

        return await self._do(service, endpoint, f"failover.{action}", change)

    async def force(self, service: str, endpoint: str, position: Position, *, even_if_last: bool = False) -> Moved:
        """Hold a circuit open or closed whatever calls say, or let it work by itself again. Raises as `failover`."""
        config = self._known(service, endpoint)

        def change(circuit: Circuit, is_last: bool) -> Circuit:
            manual = None if position == "auto" else position
            if circuit.forced == manual:
                return circuit
            _refuse_last(position == "open" and is_last and not even_if_last, service)
            return rules.forced(circuit, manual, self._now, config.circuit)

        return await self._do(service, endpoint, f"circuit.{position}", change)

    async def _do(self, service: str, endpoint: str, action: str, change: Callable[[Circuit, bool], Circuit]) -> Moved:
        async def account(conn: AsyncConnection, moved: Moved) -> None:
            detail: dict[str, Any] = {
                "endpoint": endpoint,
                "was": moved.was.state,
                "now_is": moved.now_is.state,
                "epoch": moved.now_is.epoch,
                "has_moved": moved.has_moved,
            }
            await access.audit(conn, self._principal, action, f"service/{service}", detail, self._now)

        # The action and its line in the log are written together or not at all.
        moved = await self._breakers.apply(
            service, endpoint, change, self._now, actor=self._principal.actor, after=account
        )
        if moved.failover_id is not None:
            await self._breakers.describe(moved.failover_id, service, self._now)
        elif moved.has_moved and moved.now_is.epoch:
            self._breakers.wake_recovery(moved.now_is)
        return moved

    def _known(self, service: str, endpoint: str | None = None) -> ServiceConfig:
        if service not in self._routing_table.services():
            raise NotFound(f"there is no service {service!r}")
        config = self._routing_table.config(service)
        if endpoint is not None and all(one.name != endpoint for one in config.endpoints):
            raise NotFound(f"{service} has no endpoint {endpoint!r}")
        return config


def _refuse_last(is_refused: bool, service: str) -> None:
    if is_refused:
        raise Conflict(f"nobody is left who could do what {service} does", reason="last_provider")


def _refuse_proposed(circuit: Circuit, service: str) -> None:
    if circuit.state == "closed":
        raise Conflict(f"{service} is not failed over", reason="not_failed_over")
