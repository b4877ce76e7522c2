"""Switchboards on a real Postgres, and calls to pass to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import insert, text

from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing.circuit_policy import CircuitPolicy
from wedsync.domain.routing.vendor_config import ServiceConfig, default_config
from wedsync.domain.vendors.call import Call
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.pipeline.admission import Admission, AdmissionController
from wedsync.pipeline.endpoint_selector import ORDINARY, Situation
from wedsync.store.access import queries as access
from wedsync.store.db.session import Database
from wedsync.store.routing import circuits
from wedsync.store.weddings.tables import plans, weddings
from wedsync.vendors.registry import load_registry

#: Opens soon and comes back soon.
QUICK: dict[str, Any] = {"min_calls": 4, "open_seconds": 0.2, "probes": 3, "ramp_step_seconds": 0.1}


def a_call(vendor: str = "stripe", wedding_id: str = "w1", **changes: Any) -> Call:
    """Return a call of no importance, of a step of its own."""
    values: dict[str, Any] = {
        "organization_id": "org",
        "wedding_id": wedding_id,
        "transaction_id": "t",
        "step_id": new_id(),
        "vendor": vendor,
        "action": "payments.collect",
        "operation": "create_intent",
        "idempotency_key": "k",
        "reference": "r",
        "inputs": {},
        "first_sent_at": utc_now(),
    }
    return Call.model_validate({**values, **changes})


@asynccontextmanager
async def open_admission_controller(
    url: str, provide: Any = None, **options: Any
) -> AsyncIterator[AdmissionController]:
    """Open a process's switchboard with a pool of its own."""
    db = Database(url, 4)
    try:
        async with AdmissionController(db, load_registry().manifests, provide, **options).open() as controller:
            yield controller
    finally:
        await db.close()


async def configure(
    controller: AdmissionController, service: str = "stripe", circuit: dict[str, Any] | None = None, **changes: Any
) -> ServiceConfig:
    """Change a service's configuration, as an operator does."""
    policy = CircuitPolicy(**{**QUICK, **(circuit or {})})
    config = controller.routing_table.config(service).model_copy(update={"circuit": policy, **changes})
    async with controller.breakers.db.system() as conn:
        await circuits.put_config(conn, config, "key:test", utc_now())
    await controller.routing_table.load()
    return config


async def pass_one(
    controller: AdmissionController, vendor: str = "stripe", *, ok: bool, situation: Situation = ORDINARY, **call: Any
) -> Admission:
    """Admit one call and record its outcome: it succeeds (`ok`), or the vendor is unavailable."""
    said = a_call(vendor, **call)
    admission = await controller.admit(said, situation)
    await controller.complete(admission, said, "send", None if ok else VendorUnavailable("down", vendor=vendor), 0.01)
    return admission


async def fail(controller: AdmissionController, times: int = 4, vendor: str = "stripe") -> None:
    """Make calls that the vendor does not take; calls that are cut off meanwhile do not count."""
    for _ in range(times):
        await pass_one(controller, vendor, ok=False)


async def eventually(check: Callable[[], Awaitable[Any] | Any], seconds: float = 10) -> Any:
    """Return the first answer of `check` that is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


async def rows(controller: AdmissionController, statement: str, **values: Any) -> list[Any]:
    """Return what a query over all organizations finds."""
    async with controller.breakers.db.system() as conn:
        return list((await conn.execute(text(statement), values)).all())


async def married_at(controller: AdmissionController, ceremony_at: datetime, vendor: str = "stripe") -> None:
    """Record a wedding that depends on the vendor."""
    now = utc_now()
    of = {"organization_id": "studio", "wedding_id": "vows"}
    body = {"services": [{"id": "a", "name": "A", "role": "planning", "vendor": vendor}], "steps": []}
    wedding = {
        "id": "vows", "organization_id": "studio", "reference": "vows", "status": "planned", "phase": "preparation",
        "mode": "normal", "ceremony_local": "2027-06-19T16:00", "zone": "Europe/Rome", "ceremony_at": ceremony_at,
        "plan_version": 1, "created_at": now, "updated_at": now,
    }  # fmt: skip
    async with controller.breakers.db.system() as conn:
        await access.add_organization(conn, "studio", "Studio", now)
    async with controller.breakers.db.tenant("studio") as conn:
        await conn.execute(insert(weddings).values(wedding))
        await conn.execute(insert(plans).values({**of, "version": 1, "body": body, "created_at": now}))


@asynccontextmanager
async def calm(db: Database) -> AsyncIterator[None]:
    """Keep every circuit closed within the block, in any process."""
    registry = load_registry()
    policy = CircuitPolicy(min_calls=100_000)
    async with db.system() as conn:
        for manifest in registry.manifests.values():
            config = default_config(manifest, registry.manifests).model_copy(update={"circuit": policy})
            await circuits.put_config(conn, config, "key:test", utc_now())
        await conn.execute(text("UPDATE circuits SET state = 'closed', open_until = NULL"))
    try:
        yield
    finally:
        async with db.system() as conn:
            await conn.execute(text("DELETE FROM services"))
            await circuits.publish(conn, "all")
