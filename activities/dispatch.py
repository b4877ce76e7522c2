"""Serve the sweep that dispatches transactions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from temporalio import activity

from activities.errors import translated
from wedsync.dispatch.weddings import redispatch_transactions
from wedsync.kit.clock import utc_now
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.usecases.weddings.tell_stuck import StuckWatch


class RedispatchedTransactions(BaseModel):
    """Counts of recorded transactions: dispatched now, and still waiting."""

    model_config = ConfigDict(frozen=True)
    dispatched: int
    left: int


class DispatchActivities:
    """Does the outside work of the dispatching sweep. Runs on the queue `records`."""

    def __init__(self, db: Database, client_provider: ClientProvider) -> None:
        self._db = db
        self._client_provider = client_provider
        self._stuck = StuckWatch()

    @activity.defn(name="handoffs.sweep_transactions")
    @translated
    async def redispatch_transactions(self) -> RedispatchedTransactions:
        """Tell weddings again of transactions that they have not taken, and operators of workflows that are stuck."""
        client = await self._client_provider()
        dispatched, left = await redispatch_transactions(self._db, client, utc_now())
        await self._stuck.watch(self._db, client, utc_now())
        return RedispatchedTransactions(dispatched=dispatched, left=left)
