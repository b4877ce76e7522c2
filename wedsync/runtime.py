"""The composition root: what the API, the worker and their tests are made of, built in one place."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from wedsync.dispatch.outbox import OutboxDispatcher
from wedsync.kit.crypto import Keyring
from wedsync.kit.http import Pool, new_pool
from wedsync.kit.settings import Settings
from wedsync.kit.temporal import ClientProvider
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.store.db.session import Database
from wedsync.store.outbox.events import NEWS
from wedsync.vendors.registry import Registry, limited_vendors, load_registry, set_up_vendors


@dataclass(frozen=True)
class Runtime:
    """One process's parts, each made once: its database, its vendors and the one way out to them."""

    settings: Settings
    registry: Registry
    database: Database
    provide: ClientProvider
    pool: Pool
    admission_controller: AdmissionController
    gateway: VendorGateway
    outbox_dispatcher: OutboxDispatcher

    @property
    def keyring(self) -> Keyring:
        """The keys under which secrets and payloads are sealed."""
        return Keyring.parse(self.settings.codec_keys.get_secret_value())


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    provide: ClientProvider,
    *,
    most_in_flight: int,
    registry: Registry | None = None,
    **admission: Any,
) -> AsyncIterator[Runtime]:
    """Build a process's parts and close them at the end.

    `most_in_flight`: calls to one vendor at once. `registry`: other vendors than the installed ones; `admission`: other
    options of the way out than those that the settings give.
    """
    vendors = registry or load_registry()
    options = {
        "limited": limited_vendors(settings, vendors.manifests),
        "set_up": set_up_vendors(settings, vendors.manifests),
        **admission,
    }
    database, pool = Database(settings.database_url, settings.database_pool_size), new_pool()
    outbox_dispatcher = OutboxDispatcher(provide)
    database.when_committed(NEWS, outbox_dispatcher.dispatch)
    admission_controller = AdmissionController(
        database, vendors.manifests, provide, most_in_flight=most_in_flight, **options
    )
    gateway = VendorGateway(settings, vendors, pool, admission_controller)
    try:
        async with admission_controller.open():
            yield Runtime(settings, vendors, database, provide, pool, admission_controller, gateway, outbox_dispatcher)
    finally:
        await outbox_dispatcher.close()
        await pool.aclose()
        await database.close()
