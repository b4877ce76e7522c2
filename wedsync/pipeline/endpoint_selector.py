"""Choose the endpoint that takes a call, and decide whether it goes out, as a call or as a probe with a permit."""

from __future__ import annotations

import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from wedsync.domain.errors import StoreUnavailable, VendorError, VendorRejected, VendorUnavailable
from wedsync.domain.health.messages import CIRCUIT_OPEN
from wedsync.domain.quotas.quota import WEDDING_DAY
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.routing.circuit_breaker import Circuit, CircuitDecision
from wedsync.domain.routing.circuit_window import caller_of
from wedsync.domain.routing.endpoint_selection import Endpoint, Load, choose, home
from wedsync.domain.routing.vendor_config import ServiceConfig
from wedsync.domain.value import Value
from wedsync.domain.vendors.call import PLATFORM_ACCOUNT, Call
from wedsync.domain.vendors.manifest import Manifest
from wedsync.pipeline.routing_table import RoutingTable
from wedsync.store.db.session import Database
from wedsync.store.routing import circuits, failovers

#: After "all permits are taken" nobody requests one again for so long.
_NO_PERMIT = timedelta(milliseconds=500)
_LEASE_MARGIN = timedelta(seconds=5)
_MOST_VENUES = 10_000
#: The field in which an effect names its endpoint.
FACT = "endpoint"
#: Why a call was not sent: its object lives at an endpoint that the vendor no longer has.
ENDPOINT_REMOVED = "endpoint_removed"


class Situation(Value):
    """A call's place in its wedding, as its caller knows it."""

    #: Another vendor is ready, and nothing of the step was begun at this one.
    can_go_elsewhere: bool = False
    is_wedding_day: bool = False
    #: The version to speak, whatever the pins say; for comparing versions.
    version: str = ""
    #: A version is tried out: its results say nothing of the vendor that everybody uses.
    is_trial: bool = False
    #: 2 high, 3 normal, 4 low; what a wedding needs on its day comes before all.
    priority: Literal[2, 3, 4] = 3

    @property
    def rank(self) -> int:
        """Return the order in which quotas are given out: 1 first."""
        return WEDDING_DAY if self.is_wedding_day else self.priority


#: Where nothing is known of the call.
ORDINARY = Situation()


@dataclass(frozen=True)
class Route:
    """A route: where a call goes, or why it is not sent."""

    endpoint: Endpoint
    #: The circuit and slot of the permit with which it goes out as a probe.
    probe: tuple[Circuit, int] | None = None
    error: VendorError | None = None


class EndpointSelector:
    """Chooses each call's endpoint; `load` returns what the process has measured of an endpoint."""

    def __init__(
        self,
        db: Database,
        routing_table: RoutingTable,
        manifests: Mapping[str, Manifest],
        holder: str,
        load: Callable[[str, str], Load],
        *,
        has_guards: bool = True,
    ) -> None:
        self._db = db
        self._routing_table = routing_table
        self._manifests = manifests
        self._holder = holder
        self._load = load
        #: Whether circuits that open get a guard, which probes the vendor.
        self._has_guards = has_guards
        self._turns: dict[str, itertools.count[int]] = defaultdict(itertools.count)
        self._no_permit: dict[tuple[str, str, int], datetime] = {}
        self._leasing: dict[tuple[str, str, int], int] = defaultdict(int)
        self._venues: OrderedDict[str, tuple[float, float] | None] = OrderedDict()

    async def route(self, config: ServiceConfig, call: Call, situation: Situation) -> Route:
        """Choose the route of one call. What was begun at an endpoint stays there, whatever its state."""
        endpoints: Sequence[Endpoint] = config.endpoints
        if call.facts:
            lives_at = call.facts.get(FACT)
            found = home(endpoints, lives_at if isinstance(lives_at, str) else None)
            if found is None and call.account == PLATFORM_ACCOUNT:
                return Route(Endpoint(name=str(lives_at)), error=_removed(config.service, str(lives_at)))
            endpoints = [found or endpoints[0]]
        if len(endpoints) > 1 and not situation.can_go_elsewhere:
            # Another endpoint is an alternative, too. Only when none takes the call is each tried as if it were alone.
            route = await self._route_among(config, endpoints, call, situation, elsewhere=True)
            if route.error is None:
                return route
        return await self._route_among(config, endpoints, call, situation, elsewhere=situation.can_go_elsewhere)

    async def endpoint_of(self, config: ServiceConfig, call: Call, situation: Situation) -> Endpoint:
        """Tell where a call would go; it takes no permit, and prefers an endpoint that needs none."""
        decisions = self._decisions(config, config.endpoints, call, situation, elsewhere=True)
        decisions = {name: decision if decision == "pass" else "refuse" for name, decision in decisions.items()}
        pick = await self._picker(config, config.endpoints, call, situation)
        return pick(decisions)

    async def _route_among(
        self, config: ServiceConfig, endpoints: Sequence[Endpoint], call: Call, situation: Situation, *, elsewhere: bool
    ) -> Route:
        """Choose, by the vendor's strategy, among the endpoints that let the call through."""
        decisions = self._decisions(config, endpoints, call, situation, elsewhere=elsewhere)
        if situation.is_trial or (situation.is_wedding_day and "pass" in decisions.values()):
            decisions = {name: decision if decision == "pass" else "refuse" for name, decision in decisions.items()}
        pick = await self._picker(config, endpoints, call, situation)
        while True:
            chosen = pick(decisions)
            if decisions[chosen.name] == "pass":
                return Route(chosen)
            circuit = self._routing_table.circuit(config.service, chosen.name)
            if decisions[chosen.name] == "refuse":
                return Route(chosen, error=_closed(circuit))
            if (slot := await self._permit(circuit, caller_of(call), self._routing_table.now())) is not None:
                return Route(chosen, probe=(circuit, slot))
            decisions[chosen.name] = "refuse"

    async def _picker(
        self, config: ServiceConfig, endpoints: Sequence[Endpoint], call: Call, situation: Situation
    ) -> Callable[[Mapping[str, CircuitDecision]], Endpoint]:
        """Choose an endpoint by the vendor's strategy; to be repeated when the endpoints' state has changed."""
        if len(endpoints) == 1:
            return lambda _: endpoints[0]
        turn = next(self._turns[config.service])
        venue = await self._venue(call) if config.strategy == "geographic" else None

        def pick(decisions: Mapping[str, CircuitDecision]) -> Endpoint:
            loads = [
                self._load(config.service, one.name).model_copy(update={"is_cut_off": decisions[one.name] == "refuse"})
                for one in endpoints
            ]
            return choose(
                config.strategy,
                endpoints,
                loads,
                turn=turn,
                key=call.wedding_id,
                venue=venue,
                is_wedding_day=situation.is_wedding_day,
            )

        return pick

    def _decisions(
        self, config: ServiceConfig, endpoints: Sequence[Endpoint], call: Call, situation: Situation, *, elsewhere: bool
    ) -> dict[str, CircuitDecision]:
        now = self._routing_table.now()
        return {one.name: self._decide(config, one, call, situation, elsewhere, now) for one in endpoints}

    def _decide(
        self, config: ServiceConfig, one: Endpoint, call: Call, situation: Situation, elsewhere: bool, now: datetime
    ) -> CircuitDecision:
        circuit = self._routing_table.circuit(config.service, one.name)
        if circuit.state == "closed" and circuit.forced is None:
            return "pass"
        return rules.admit(
            circuit,
            now,
            config.circuit,
            key=call.wedding_id,
            can_go_elsewhere=elsewhere,
            is_last=self._routing_table.is_last(config.service, one.name),
            overrides=situation.is_wedding_day,
        )

    async def _venue(self, call: Call) -> tuple[float, float] | None:
        """Return where the wedding is; read once per wedding and process."""
        if not call.wedding_id:
            return None
        if call.wedding_id not in self._venues:
            try:
                async with self._db.tenant(call.organization_id) as conn:
                    self._venues[call.wedding_id] = await failovers.read_venue(conn, call.wedding_id)
            except StoreUnavailable:
                return None
            if len(self._venues) > _MOST_VENUES:
                self._venues.popitem(last=False)
        return self._venues[call.wedding_id]

    async def _permit(self, circuit: Circuit, caller: str, now: datetime) -> int | None:
        """Acquire one of the epoch's permits, which all processes share."""
        place = (*circuit.key, circuit.round)
        leasing = self._leasing.get(place, 0)
        policy = self._routing_table.policy(circuit.service)
        probes = policy.probes
        if not rules.may_probe(circuit, caller, now, policy, has_guard=self._has_guards):
            return None
        if now < self._no_permit.get(place, now) or leasing >= probes:
            return None
        lease = timedelta(seconds=self._manifests[circuit.service].timeout_seconds) + _LEASE_MARGIN
        self._leasing[place] = leasing + 1
        try:
            async with self._db.system() as conn:
                slot = await circuits.lease_permit(conn, circuit, self._holder, lease, probes=probes, caller=caller)
        except StoreUnavailable:
            return None
        finally:
            self._leasing[place] -= 1
            if not self._leasing[place]:
                del self._leasing[place]
        if slot is None:
            self._no_permit = {place: now + _NO_PERMIT, **{k: v for k, v in self._no_permit.items() if v > now}}
        return slot


def _closed(circuit: Circuit) -> VendorError:
    return VendorUnavailable(
        f"{circuit.service} is cut off for now ({circuit.reason or 'no reason given'}); nothing was sent",
        vendor=circuit.service,
        reason=CIRCUIT_OPEN,
    )


def _removed(service: str, name: str) -> VendorError:
    return VendorRejected(
        f"{service} has no endpoint {name!r} any more, and what this call is about lives there; nothing was sent",
        vendor=service,
        reason=ENDPOINT_REMOVED,
    )
