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
from wedsync.domain.routing import circuit as rules
from wedsync.domain.routing.messages import LOOK_SIGNAL, guard_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.usecases.routing.switchboard import Switchboard

SERVICE = "twilio"


class Guarded:
    """A service on a stage, and its guard."""

    def __init__(self, board: Switchboard, client: Client, sandbox: EmbeddedSandbox, env: Any = None) -> None:
        self.board, self.client, self.sandbox, self.env = board, client, sandbox, env

    @property
    def circuit(self) -> rules.Circuit:
        return self.board.book.circuit(SERVICE, "default")

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(guard_workflow_id(SERVICE, "default", self.circuit.epoch))

    async def trip(self) -> None:
        epoch = self.circuit.epoch
        await fail(self.board, 4, SERVICE)
        await eventually(lambda: self.circuit.epoch == epoch + 1 and self.circuit.state == "open")
        await eventually(self.is_guarded)

    async def failover(self) -> Any:
        where = {"service": SERVICE, "epoch": self.circuit.epoch}
        statement = "SELECT * FROM failovers WHERE from_service = :service AND epoch = :epoch"
        (found,) = await rows(self.board, statement, **where)
        return found

    async def is_guarded(self) -> bool:
        return (await self.failover()).guarded_at is not None

    async def forward(self, duration: timedelta) -> None:
        with suppress(RPCError):
            await self.env.fast_forward(self.env.client.get_workflow_handle(self.handle.id), duration)

    async def until(self, state: str) -> None:
        await eventually(lambda: self.circuit.state == state, 30)

    async def ended(self) -> str:
        return str((await asyncio.wait_for(self.handle.result(), 30))["outcome"])


async def restored(guarded: Guarded) -> None:
    """Restore the service: whatever a test has left, the next one finds it closed and unconfigured."""
    board = guarded.board
    policy = board.book.policy(SERVICE)
    await board.transitions.apply(SERVICE, "default", lambda c, _: rules.closed(c, utc_now()), utc_now())
    await board.transitions.apply(SERVICE, "default", lambda c, _: rules.forced(c, None, utc_now(), policy), utc_now())
    await guarded.sandbox.clear_faults(SERVICE)
    if guarded.circuit.epoch:
        with suppress(RPCError):
            await guarded.handle.signal(LOOK_SIGNAL)
    async with board.transitions.db.system() as conn:
        await conn.execute(text("DELETE FROM services"))
