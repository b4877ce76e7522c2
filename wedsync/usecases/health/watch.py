"""Watch the vendors: probe each when it is due, record only changes, leave those that are down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.health.messages import Watched, WatchStart
from wedsync.domain.health.status import (
    Health,
    HealthPolicy,
    ProbeResult,
    failures_in_row,
    next_health,
    seconds_to_next_probe,
    seconds_until_certain,
)
from wedsync.domain.health.trend import Metric, Sample, TrendPolicy, new_warnings, next_concerns
from wedsync.domain.incidents import notice as incidents_notice
from wedsync.domain.routing.endpoint_selection import Endpoint
from wedsync.domain.routing.vendor_config import watched_every_seconds
from wedsync.kit import telemetry
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.health import queries as health
from wedsync.store.incidents import notifications
from wedsync.store.routing import failovers
from wedsync.usecases.health.probe import probe
from wedsync.usecases.health.sweep_failovers import tend_failovers
from wedsync.usecases.incidents.deliver import Notifier

log = structlog.get_logger(__name__)

POLICY = HealthPolicy()
TREND = TrendPolicy()
#: Real calls so recent count in a probe's error rate.
_RECENT_CALLS = timedelta(minutes=5)
_WARNINGS = telemetry.meter().create_counter("health_warnings", description="Warnings that a trend gave rise to")
#: The vendors of a wedding so near are watched closely.
NEAR = timedelta(hours=48)
#: Records of calls are kept so long.
RETENTION = timedelta(days=30)
_CHORES_SECONDS = 10.0
#: As many as would all hang when our own network is away.
_PROBES_AT_ONCE = 32
#: While a failed probe waits to be confirmed.
_HURRIED_TICK_SECONDS = 0.25
_LEASE_MARGIN_SECONDS = 1.0
_CALLS_FAIL = "its calls fail, and its circuit stays closed"
#: A watch that ends waits so long for its notifications to operators.
_NOTIFY_SECONDS = 2.0


class Watch:
    """Probes vendors. Several watches may run at once: one of them claims each probe."""

    def __init__(
        self, gateway: VendorGateway, controller: AdmissionController, notifier: Notifier | None = None
    ) -> None:
        self._gateway = gateway
        self._controller = controller
        self._notifier = notifier
        self._notifying: asyncio.Task[None] | None = None
        self._db = controller.breakers.db
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._near: set[str] = set()
        self._next: dict[str, datetime] = {}
        #: By vendor; a probe that hangs holds up no other.
        self._probing: dict[str, asyncio.Task[None]] = {}
        #: Vendors with a failed probe that is to be confirmed.
        self._unsure: set[str] = set()
        #: By vendor: how many probes in a row its endpoints have failed.
        self._failures: dict[str, dict[Endpoint, int]] = {}
        self.probes = self.changes = self.recoveries_started = 0

    async def run(self, start: WatchStart, stop: asyncio.Event) -> Watched:
        """Watch for `start.seconds`, or until told to stop."""
        try:
            return await self._run(start, stop)
        finally:
            under_way = [*self._probing.values(), *([self._notifying] if self._notifying is not None else [])]
            if under_way:
                # The next watch repeats what is cut short.
                await asyncio.wait(under_way, timeout=_NOTIFY_SECONDS)
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _run(self, start: WatchStart, stop: asyncio.Event) -> Watched:
        loop = asyncio.get_running_loop()
        ends_at, chores_at = loop.time() + start.seconds, 0.0
        while not stop.is_set() and loop.time() < ends_at:
            try:
                if loop.time() >= chores_at:
                    await self.chores(utc_now())
                    chores_at = loop.time() + _CHORES_SECONDS
                await self.start_probes(utc_now())
                self._notify()
            except StoreUnavailable:
                log.warning("health.store_away")
            tick = min(start.tick_seconds, _HURRIED_TICK_SECONDS) if self._unsure else start.tick_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tick):
                    await stop.wait()
        return Watched(probes=self.probes, changes=self.changes, recoveries_started=self.recoveries_started)

    def _notify(self) -> None:
        """Send operators what they were not sent yet; nobody waits for their servers."""
        if self._notifier is not None and (self._notifying is None or self._notifying.done()):
            self._notifying = asyncio.create_task(self._deliver(self._notifier))

    async def _deliver(self, notifier: Notifier) -> None:
        try:
            await notifier.deliver(utc_now())
        except StoreUnavailable:
            log.warning("notify.store_away")

    def services(self) -> list[str]:
        """List the vendors at which somebody has an account; a generic business has only its plan's address."""
        every = self._controller.routing_table.services()
        return [name for name in every if self._gateway.is_set_up(name) and not self._gateway.manifest(name).endpoints]

    async def chores(self, now: datetime) -> None:
        """Find the weddings that are near, tend failovers, delete old records. Raises StoreUnavailable."""
        async with self._db.system() as conn:
            await health.ensure(conn, self.services(), now)
            found = await failovers.dependents(conn, now)
            await failovers.forget_calls(conn, now - RETENTION)
            await notifications.forget(conn, now - RETENTION)
        self._next = {name: next_at for name, (_, next_at) in found.items() if next_at is not None}
        self._near = {name for name, next_at in self._next.items() if next_at - now <= NEAR}
        self.recoveries_started += await tend_failovers(self._controller.breakers, now, self._up())

    async def start_probes(self, now: datetime) -> list[asyncio.Task[None]]:
        """Begin to probe every vendor that is due. Raises StoreUnavailable."""
        leases = {name: self._lease(name) for name in self.services() if name not in self._probing}
        async with self._db.system() as conn:
            due = await health.claim(conn, leases, now)
        return [self._start(name, was) for name, was in due.items()]

    async def probe_due(self, now: datetime) -> int:
        """Probe every vendor that is due; return how many. Raises StoreUnavailable."""
        begun = await self.start_probes(now)
        await asyncio.gather(*begun)
        return len(begun)

    def _start(self, service: str, was: Health) -> asyncio.Task[None]:
        task = asyncio.create_task(self._try_to_probe(service, was), name=f"look-{service}")
        self._probing[service] = task
        task.add_done_callback(lambda _: self._probing.pop(service, None))
        return task

    async def _try_to_probe(self, service: str, was: Health) -> None:
        try:
            await self._probe_vendor(service, was)
        except StoreUnavailable:
            log.warning("health.store_away")
        except Exception:
            # One vendor's rows are no reason to stop watching the others.
            log.exception("health.look_broken", service=service)

    def _interval(self, service: str) -> float:
        return watched_every_seconds(self._controller.routing_table.config(service), is_near=service in self._near)

    def _lease(self, service: str) -> float:
        """Return how long after this watch falls silent another one probes."""
        timeout = self._controller.routing_table.config(service).health.timeout_seconds
        return max(self._interval(service), timeout + _LEASE_MARGIN_SECONDS)

    async def _probe_vendor(self, service: str, was: Health) -> None:
        config = self._controller.routing_table.config(service)
        async with self._slots:
            found = await asyncio.gather(*(probe(self._gateway, config, one) for one in config.endpoints))
        results = dict(zip(config.endpoints, found, strict=True))
        self.probes += len(results)
        failures = self._failures[service] = failures_in_row(self._failures.get(service, {}), results)
        # A vendor is as well as its best endpoint; each endpoint has a circuit of its own.
        best = next((result for result in found if result.ok), found[0])
        now = utc_now()
        now_is = next_health(was, best, now, POLICY)
        async with self._db.system() as conn:
            await health.write(conn, service, was, now_is, now + self._pause(service, now_is, best, results))
            if now_is.status != was.status:
                notice = incidents_notice.health_changed(service, was.status, now_is.status, now_is.detail, now)
                await notifications.announce(conn, notice)
            await self._follow(conn, service, best, now_is, now)
        if now_is.status != was.status:
            self.changes += 1
            log.warning("health.changed", service=service, was=was.status, now_is=now_is.status, detail=now_is.detail)
        least = 1 if now_is.status == "down" else POLICY.down_after
        await self._leave(
            service, [one for one, times in failures.items() if times >= least], self._controller.routing_table.now()
        )

    def _pause(
        self, service: str, now_is: Health, best: ProbeResult, results: Mapping[Endpoint, ProbeResult]
    ) -> timedelta:
        """Return the time until the next probe: short while nobody knows whether the vendor or an endpoint is down."""
        wait = seconds_to_next_probe(now_is, best, self._interval(service), POLICY)
        doubt = seconds_until_certain(self._failures[service], results, POLICY) if best.ok else None
        if doubt is None and (best.ok or now_is.status == "down"):
            self._unsure.discard(service)
        else:
            self._unsure.add(service)
        return timedelta(seconds=wait if doubt is None else min(wait, doubt))

    def _up(self) -> dict[tuple[str, str], bool]:
        """Tell, for vendors with several endpoints, whether each of them answered this watch's last probe."""
        return {
            (service, one.name): one not in failures
            for service, failures in self._failures.items()
            if len(endpoints := self._controller.routing_table.config(service).endpoints) > 1
            for one in endpoints
        }

    async def _follow(
        self, conn: AsyncConnection, service: str, result: ProbeResult, now_is: Health, now: datetime
    ) -> None:
        """Find the probes' trends, and warn of what will come before the next wedding."""
        rate = max(now_is.error_rate, await health.failing(conn, service, now - _RECENT_CALLS))
        fails = self._controller.routing_table.is_failing(service, now)
        await health.note_calls(
            conn, service, "down" if fails else "healthy", now, error_rate=rate, detail=_CALLS_FAIL if fails else ""
        )
        sample = Sample(at=now, response_ms=result.response_ms, error_rate=rate)
        samples, were = await health.add_sample(conn, service, sample, TREND.keep)
        config = self._controller.routing_table.config(service)
        slow_seconds = min(config.circuit.slow_seconds, config.health.timeout_seconds)
        thresholds: dict[Metric, float] = {"response_time": slow_seconds * 1000, "error_rate": POLICY.unhealthy_at}
        now_are = next_concerns(were, samples, thresholds, self._next.get(service), now, TREND)
        if now_are != were:
            await health.write_concerns(conn, service, now_are)
        for warned in new_warnings(were, now_are):
            _WARNINGS.add(1, {"service": service, "metric": warned.metric})
            await notifications.announce(conn, incidents_notice.health_warned(service, warned, now))
            log.warning("health.warning", service=service, **warned.model_dump(mode="json"))

    async def _leave(self, service: str, endpoints: Sequence[Endpoint], now: datetime) -> None:
        """Cut off the endpoints that gave no answer, with or without traffic that would show it."""
        configured = self._controller.routing_table.config(service).endpoints
        # Nothing is known of one that was changed while it was probed.
        for endpoint in (one for one in endpoints if one in configured):
            known = self._controller.routing_table.circuit(service, endpoint.name)
            if known.state == "closed" and known.forced is None:
                moved = await self._controller.breakers.trip(service, endpoint.name, now, is_down=True)
                if moved is not None and moved.failover_id is not None:
                    await self._controller.breakers.describe(moved.failover_id, service, now)
