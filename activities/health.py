"""Serve the activities of the circuits and of the vendors' health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from temporalio import activity

from activities.errors import translated
from wedsync.domain.health.messages import RecoveryWake, RecoveryWakeResult, Watched, WatchStart
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.usecases.health.recover_vendor import recover_vendor
from wedsync.usecases.health.watch import Watch
from wedsync.usecases.incidents.deliver import Notifier

_BEAT_SECONDS = 3.0


class RoutingActivities:
    """Runs on the queue `records`: guards must not wait behind the calls of the vendor that they guard."""

    def __init__(
        self, gateway: VendorGateway, controller: AdmissionController, notifier: Notifier | None = None
    ) -> None:
        self._gateway = gateway
        self._controller = controller
        self._notifier = notifier

    @activity.defn(name="routing.guard_vendor")
    @translated
    async def recover_vendor(self, wake: RecoveryWake) -> RecoveryWakeResult:
        """Do what is due for a failing vendor: probe, let more traffic back, restore."""
        async with beating():
            return await recover_vendor(self._gateway, self._controller, wake)

    @activity.defn(name="routing.watch_health")
    @translated
    async def watch_health(self, start: WatchStart) -> Watched:
        """Watch the vendors for a while; ends early when its worker does."""
        async with beating(), _worker_ending() as ending:
            return await Watch(self._gateway, self._controller, self._notifier).run(start, ending)


@contextlib.asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Heartbeat for as long as the block lasts."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT_SECONDS)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _worker_ending() -> AsyncIterator[asyncio.Event]:
    """Return an event that is set as soon as the worker is asked to end."""
    ending = asyncio.Event()

    async def wait() -> None:
        await activity.wait_for_worker_shutdown()
        ending.set()

    task = asyncio.create_task(wait())
    try:
        yield ending
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
