"""Keep what a process knows of vendors and circuits: read from memory, refreshed by NOTIFY and every five seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import structlog

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.quotas.quota import Quota, QuotaPolicy, policy_of
from wedsync.domain.routing.circuit_breaker import Circuit
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.circuit_window import Tally, is_failing, merged, total
from wedsync.domain.routing.vendor_config import ServiceConfig, available_backups, default_config, is_last
from wedsync.domain.vendors.manifest import Manifest, VersionSpec
from wedsync.domain.versions.selection import Pin
from wedsync.kit.clock import FleetClock, utc_now
from wedsync.store.db.session import Database
from wedsync.store.quotas import queries as quotas
from wedsync.store.routing import circuits
from wedsync.store.versions import queries as versions

log = structlog.get_logger(__name__)

POLL_SECONDS = 5.0
#: A policy for every account of a vendor that has none of its own.
ANY_ACCOUNT = "*"
UNLIMITED = QuotaPolicy()
#: Notifications that come together cause one reading.
_BREATH_SECONDS = 0.02


class RoutingTable:
    """Holds the process's copy of the routing state, at most one notification old; kept as it is without Postgres."""

    def __init__(
        self,
        db: Database,
        manifests: Mapping[str, Manifest],
        *,
        policy: CircuitPolicy | None = None,
        limited: Collection[str] = (),
        set_up: Collection[str] | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._db = db
        self._manifests = manifests
        #: Vendors that somebody has set up: only they can stand in for others. None: every vendor.
        self._set_up = frozenset(manifests if set_up is None else set_up)
        #: For circuits that no operator has configured; None: as the vendor's manifest says.
        self._policy = policy
        #: Vendors whose manifests' quotas are in effect where no operator has set others.
        self._limited = frozenset(limited)
        self._quota_policies: dict[quotas.Key, QuotaPolicy] = {}
        self._quota_defaults: dict[str, QuotaPolicy] = {}
        self._quotas: dict[quotas.Key, Quota] = {}
        self._poll_seconds = poll_seconds
        self._defaults: dict[str, ServiceConfig] = {}
        self._configured: dict[str, ServiceConfig] = {}
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._learned: dict[tuple[str, str], Circuit] = {}
        self._loading = asyncio.Lock()
        self._specs: dict[str, dict[str, VersionSpec]] = {}
        self._pins: dict[str, tuple[Pin, ...]] = {}
        self._has_changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.clock = FleetClock()
        #: How often everything was read.
        self.loads = 0

    async def start(self) -> None:
        """Read everything, then keep reading."""
        await self._try_to_load()
        self._tasks = [
            asyncio.create_task(self._listen(), name="routing-listen"),
            asyncio.create_task(self._refresh(), name="routing-refresh"),
        ]

    async def close(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def load(self) -> None:
        """Read everything anew. Raises StoreUnavailable."""
        # One reading at a time: an earlier one must not overwrite what a later one read.
        async with self._loading:
            await self._read_all()

    async def _read_all(self) -> None:
        self._learned.clear()
        async with self._db.system() as conn:
            before = utc_now()
            self.clock.set(await circuits.read_clock(conn), before, utc_now())
            # What a newer release wrote and this one can't read stays as it was.
            configured = await circuits.read_configs(conn, self._configured)
            found = await circuits.read_all(conn, self._circuits)
            specs = await versions.read_specs(conn, self._specs)
            pins = await versions.read_pins(conn, utc_now())
            self._quota_policies = await quotas.read_policies(conn, self._quota_policies)
            self._quotas = await quotas.read_all(conn, self._quotas)
        self._specs = {name: self._manifest_versions(name) | specs.get(name, {}) for name in self._manifests}
        self._pins = pins
        self._configured = {name: config for name, config in configured.items() if name in self._manifests}
        # What this process wrote meanwhile may be newer than the rows that were read; its own notification comes, too.
        self._circuits = {circuit.key: circuit for circuit in found} | self._learned
        self.loads += 1

    def now(self) -> datetime:
        """Return the fleet's time, by which circuits and quotas are kept."""
        return self.clock.now()

    def services(self) -> list[str]:
        """Return the name of every vendor that can be called."""
        return sorted(name for name, manifest in self._manifests.items() if manifest.has_api)

    def config(self, service: str) -> ServiceConfig:
        """Return a vendor's routing as its operator configured it, else as its manifest says. Raises KeyError."""
        return self._configured.get(service) or self.default(service)

    def default(self, service: str) -> ServiceConfig:
        """Return the routing of a vendor that no operator has configured. Raises KeyError."""
        found = self._defaults.get(service)
        if found is None:
            found = default_config(self._manifests[service], self._manifests)
            if self._policy is not None:
                found = found.model_copy(update={"circuit": self._policy})
            self._defaults[service] = found
        return found

    def is_configured(self, service: str) -> bool:
        """Tell whether an operator has configured the vendor."""
        return service in self._configured

    def is_set_up(self, service: str) -> bool:
        """Tell whether the vendor can be called: it is installed, and somebody has an account at it."""
        return service in self._manifests and service in self._set_up

    def policy(self, service: str, *, is_wedding_day: bool = False) -> CircuitPolicy:
        """Return the policy by which the vendor's circuits open."""
        policy = self.config(service).circuit
        return policy.on_wedding_day() if is_wedding_day else policy

    def circuit(self, service: str, endpoint: str) -> Circuit:
        """Return an endpoint's circuit as last read; a closed one when no call was ever counted."""
        found = self._circuits.get((service, endpoint))
        return found if found is not None else Circuit(service=service, endpoint=endpoint)

    def is_failing(self, service: str, now: datetime) -> bool:
        """Tell whether the vendor's calls fail as those that open a circuit do, although not all circuits are open."""
        config = self.config(service)
        every = [self.circuit(service, one.name) for one in config.endpoints]
        in_use = [
            total(merged(circuit.window, Tally(), now, config.circuit)) for circuit in every if circuit.state != "open"
        ]
        verdicts = {is_failing(calls, config.circuit) for calls in in_use}
        return bool(verdicts) and verdicts <= {"failure_rate", "failures_in_row"}

    def quota_policy(self, service: str, account: str) -> QuotaPolicy:
        """Return an account's limits: an operator's for it, else for all the vendor's accounts, else the manifest's."""
        for key in ((service, account), (service, ANY_ACCOUNT)):
            if key in self._quota_policies:
                return self._quota_policies[key]
        if service not in self._limited:
            return UNLIMITED
        if service not in self._quota_defaults:
            self._quota_defaults[service] = policy_of(self._manifests[service].quotas)
        return self._quota_defaults[service]

    def quota_upgrade(self, service: str) -> str:
        """Return where the vendor says how to get more calls."""
        manifest = self._manifests[service]
        return manifest.quota_upgrade or manifest.documentation_url

    def quota(self, service: str, account: str) -> Quota:
        """Return an account's quota as last read. NOTIFY reports every change but the acquiring of calls."""
        found = self._quotas.get((service, account))
        return found if found is not None else Quota(service=service, account=account)

    def governed(self, key: quotas.Key) -> list[quotas.Key]:
        """List whose limits the policy of `key` sets: its own account; for `*` all with calls and no policy."""
        service, account = key
        if account != ANY_ACCOUNT:
            return [key] if key in self._quotas else []
        return sorted(one for one in self._quotas if one[0] == service and one not in self._quota_policies)

    def accounts(self) -> list[quotas.Key]:
        """List every account that has limits or has acquired calls."""
        known = {*self._quota_policies, *self._quotas, *((name, "default") for name in self._limited)}
        return sorted(key for key in known if key[1] != ANY_ACCOUNT)

    def versions(self, service: str) -> dict[str, VersionSpec]:
        """Return the versions of a vendor by name: its manifest's, with what operators have added or changed."""
        found = self._specs.get(service)
        return found if found is not None else self._manifest_versions(service)

    def manifest_version(self, service: str) -> str:
        """Return the version that the vendor's client was written for."""
        return self._manifests[service].api_version

    def pins(self, service: str) -> tuple[Pin, ...]:
        """Return the pins of a vendor that are or lately were in effect, oldest first."""
        return self._pins.get(service, ())

    def _manifest_versions(self, service: str) -> dict[str, VersionSpec]:
        return {spec.name: spec for spec in self._manifests[service].versions}

    def learn(self, circuit: Circuit) -> None:
        """Remember what this process has just written; an older transition never replaces a newer one."""
        known = self._circuits.get(circuit.key)
        if known is None or (known.epoch, known.round) <= (circuit.epoch, circuit.round):
            self._circuits[circuit.key] = self._learned[circuit.key] = circuit

    def is_last(self, service: str, endpoint: str, known: Iterable[Circuit] | None = None) -> bool:
        """Tell whether no other vendor is left to do the endpoint's work; by `known` circuits when they are given."""
        return is_last(self.config(service), endpoint, self._cut_off(known), self._others(service))

    def available_backups(self, service: str, known: Iterable[Circuit] | None = None) -> tuple[str, ...]:
        """List who could take over the vendor's work now, in order; by `known` circuits when they are given."""
        return available_backups(self.config(service), self._cut_off(known), self._others(service))

    def _others(self, service: str) -> dict[str, ServiceConfig]:
        return {name: self.config(name) for name in self.config(service).backups if self.is_set_up(name)}

    def _cut_off(self, known: Iterable[Circuit] | None) -> set[tuple[str, str]]:
        every = self._circuits.values() if known is None else known
        return {circuit.key for circuit in every if circuit.state == "open"}

    async def _listen(self) -> None:
        async for _ in self._db.listen(circuits.CHANNEL):
            self._has_changed.set()

    async def _refresh(self) -> None:
        while True:
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation that comes with the notification.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._has_changed.wait()
                await asyncio.sleep(_BREATH_SECONDS)
            self._has_changed.clear()
            await self._try_to_load()

    async def _try_to_load(self) -> None:
        try:
            await self.load()
        except StoreUnavailable:
            log.warning("routing.not_refreshed")
        except Exception as error:  # noqa: BLE001 - a database that is not migrated yet; the next look may find it so
            log.warning("routing.not_readable", error=type(error).__name__)
