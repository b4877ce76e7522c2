"""Serve the inbox's activities. In and out values stand in `wedsync.domain.inbox.messages`."""

from __future__ import annotations

from temporalio import activity

from activities.errors import translated
from wedsync.dispatch.inbox import signal_drain
from wedsync.domain.inbox.messages import (
    DrainBatch,
    DrainedBatch,
    Reconciled,
    ReconcileStart,
    RetriedEvent,
    RetryEvent,
    SweptInbox,
)
from wedsync.kit.clock import utc_now
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.usecases.inbox.drain import drain_batch, retry_event
from wedsync.usecases.inbox.reconcile import Reconciler
from wedsync.usecases.inbox.sweep import sweep_inbox


class WebhookActivities:
    """Does the outside work of the inbox's drains and sweeps. Runs on the queue `records`."""

    def __init__(self, db: Database, client_provider: ClientProvider, reconciler: Reconciler | None = None) -> None:
        self._db = db
        self._client_provider = client_provider
        self._reconciler = reconciler

    @activity.defn(name="webhooks.drain_batch")
    async def drain_batch(self, batch: DrainBatch) -> DrainedBatch:
        """Claim due rows, signal their weddings, record the verdicts; an infrastructure failure fails the batch."""
        return await drain_batch(self._db, self._client_provider, batch.lane, batch.limit, utc_now())

    @activity.defn(name="webhooks.retry_event")
    async def retry_event(self, event: RetryEvent) -> RetriedEvent:
        """Try again one event whose own processing failed; an infrastructure failure counts as no try."""
        return await retry_event(self._db, self._client_provider, event.row_id, utc_now())

    @activity.defn(name="webhooks.reconcile")
    @translated
    async def reconcile(self, start: ReconcileStart) -> Reconciled:
        """Fill the inbox with what the vendor lists and its webhooks left out, and have the drains dispatched."""
        if self._reconciler is None:
            return Reconciled()
        found = await self._reconciler.reconcile(start.source, utc_now())
        for lane in found.lanes:
            await signal_drain(await self._client_provider(), lane)
        return found

    @activity.defn(name="webhooks.sweep_inbox")
    async def sweep_inbox(self) -> SweptInbox:
        """Dispatch the drains again for rows that were missed, put off, or not claimed yet."""
        return await sweep_inbox(self._db, self._client_provider, utc_now())
