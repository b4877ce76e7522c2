"""A service that trips, and its guard, as tests see them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from tests.support.routing import eventually, fail, rows
from wedsync.domain.health.messages import WAKE_SIGNAL, recovery_workflow_id
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.sandbox.embedded import EmbeddedSandbox

SERVICE = "twilio"


class RecoveryStage:
    """A service on a stage, and its guard."""

    def __init__(
        self, controller: AdmissionController, client: Client, sandbox: EmbeddedSandbox, env: Any = None
    ) -> None:
        self.controller, self.client, self.sandbox, self.env = controller, client, sandbox, env

    @property
    def circuit(self) -> rules.Circuit:
        return self.controller.routing_table.circuit(SERVICE, "default")

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(recovery_workflow_id(SERVICE, "default", self.circuit.epoch))

    async def trip(self) -> None:
        epoch = self.circuit.epoch
        await fail(self.controller, 4, SERVICE)
        await eventually(lambda: self.circuit.epoch == epoch + 1 and self.circuit.state == "open")
        await eventually(self.is_recovering)

    async def failover(self) -> Any:
        where = {"service": SERVICE, "epoch": self.circuit.epoch}
        statement = "SELECT * FROM failovers WHERE from_service = :service AND epoch = :epoch"
        (found,) = await rows(self.controller, statement, **where)
        return found

    async def is_recovering(self) -> bool:
        return (await self.failover()).guarded_at is not None

    async def forward(self, duration: timedelta) -> None:
        with suppress(RPCError):
            await self.env.fast_forward(self.env.client.get_workflow_handle(self.handle.id), duration)

    async def until(self, state: str) -> None:
        await eventually(lambda: self.circuit.state == state, 30)

    async def ended(self) -> str:
        return str((await asyncio.wait_for(self.handle.result(), 30))["outcome"])


async def restored(recovery: RecoveryStage) -> None:
    """Restore the service: whatever a test has left, the next one finds it closed and unconfigured."""
    controller = recovery.controller
    policy = controller.routing_table.policy(SERVICE)
    await controller.breakers.apply(SERVICE, "default", lambda c, _: rules.closed(c, utc_now()), utc_now())
    await controller.breakers.apply(
        SERVICE, "default", lambda c, _: rules.forced(c, None, utc_now(), policy), utc_now()
    )
    await recovery.sandbox.clear_faults(SERVICE)
    if recovery.circuit.epoch:
        with suppress(RPCError):
            await recovery.handle.signal(WAKE_SIGNAL)
    async with controller.breakers.db.system() as conn:
        await conn.execute(text("DELETE FROM services"))
