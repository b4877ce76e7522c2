"""What a process knows of services and circuits: read at once, refreshed by NOTIFY, and every five seconds beneath."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

import structlog

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.routing.circuit import Circuit, CircuitPolicy
from wedsync.domain.routing.services import ServiceConfig, default_config, is_last
from wedsync.domain.routing.vendor import Manifest
from wedsync.store import circuits
from wedsync.store.session import Database

log = structlog.get_logger(__name__)

POLL_SECONDS = 5.0
#: News that come together are read together.
_BREATH_SECONDS = 0.02


class Book:
    """The process's copy. Stale by no more than a notification takes; without Postgres it keeps what it had."""

    def __init__(
        self,
        db: Database,
        manifests: Mapping[str, Manifest],
        *,
        policy: CircuitPolicy | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._db = db
        self._manifests = manifests
        #: Of circuits that no operator has configured; None: by the vendor's manifest.
        self._policy = policy
        self._poll_seconds = poll_seconds
        self._defaults: dict[str, ServiceConfig] = {}
        self._configured: dict[str, ServiceConfig] = {}
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._learned: dict[tuple[str, str], Circuit] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: How often it was read in full.
        self.loads = 0

    async def start(self) -> None:
        """Read, then keep reading."""
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
        self._learned.clear()
        async with self._db.system() as conn:
            configured, found = await circuits.read_configs(conn), await circuits.read_all(conn)
        self._configured = {name: config for name, config in configured.items() if name in self._manifests}
        # What this process wrote while the rows were being read may be newer than they are; its own news comes, too.
        self._circuits = {circuit.key: circuit for circuit in found} | self._learned
        self.loads += 1

    def services(self) -> list[str]:
        """Every vendor that can be called, by name."""
        return sorted(name for name, manifest in self._manifests.items() if manifest.has_api)

    def config(self, service: str) -> ServiceConfig:
        """How a service is routed to: as its operator says, else by its manifest. Raises KeyError."""
        return self._configured.get(service) or self.default(service)

    def default(self, service: str) -> ServiceConfig:
        """What holds for a service that no operator has configured. Raises KeyError."""
        found = self._defaults.get(service)
        if found is None:
            found = default_config(self._manifests[service], self._manifests)
            if self._policy is not None:
                found = found.model_copy(update={"circuit": self._policy})
            self._defaults[service] = found
        return found

    def is_configured(self, service: str) -> bool:
        """Whether an operator has changed it."""
        return service in self._configured

    def policy(self, service: str, *, is_wedding_day: bool = False) -> CircuitPolicy:
        """When its circuits open."""
        policy = self.config(service).circuit
        return policy.on_wedding_day() if is_wedding_day else policy

    def circuit(self, service: str, endpoint: str) -> Circuit:
        """An endpoint's circuit as last heard; a closed one when nothing was ever counted."""
        found = self._circuits.get((service, endpoint))
        return found if found is not None else Circuit(service=service, endpoint=endpoint)

    def learn(self, circuit: Circuit) -> None:
        """What this process has just written itself; never takes an older transition for a newer one."""
        known = self._circuits.get(circuit.key)
        if known is None or (known.epoch, known.round) <= (circuit.epoch, circuit.round):
            self._circuits[circuit.key] = self._learned[circuit.key] = circuit

    def is_last(self, service: str, endpoint: str, known: Iterable[Circuit] | None = None) -> bool:
        """Whether nobody else is left to do the endpoint's work; by `known` circuits when they are given."""
        config = self.config(service)
        others = {name: self.config(name) for name in config.backups if name in self._manifests}
        every = self._circuits.values() if known is None else known
        return is_last(config, endpoint, {c.key for c in every if c.state == "open"}, others)

    async def _listen(self) -> None:
        async for _ in self._db.listen(circuits.CHANNEL):
            self._news.set()

    async def _refresh(self) -> None:
        while True:
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation that comes with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._news.wait()
                await asyncio.sleep(_BREATH_SECONDS)
            self._news.clear()
            await self._try_to_load()

    async def _try_to_load(self) -> None:
        try:
            await self.load()
        except StoreUnavailable:
            log.warning("routing.not_refreshed")
        except Exception as error:  # noqa: BLE001 - a database that is not migrated yet; the next look may find it so
            log.warning("routing.not_readable", error=type(error).__name__)
