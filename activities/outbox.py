"""Serve the outbox's activities. In and out values stand in `wedsync.domain.outbox.messages`."""

from __future__ import annotations

from temporalio import activity

from wedsync.domain.outbox.messages import SentDeliveries, SubscriptionWake, SubscriptionWakeResult, SweptOutbox
from wedsync.kit.clock import utc_now
from wedsync.kit.temporal import ClientProvider
from wedsync.store.db.session import Database
from wedsync.usecases.outbox.delivery_sender import DeliverySender
from wedsync.usecases.outbox.retry_subscription import wake_subscription
from wedsync.usecases.outbox.send import AttemptSender
from wedsync.usecases.outbox.sweep import sweep_outbox


class DeliveryActivities:
    """Does the outside work of the sender and the endpoints' workflows. Runs on the queue `records`."""

    def __init__(
        self, db: Database, client_provider: ClientProvider, sender: AttemptSender, pump: DeliverySender
    ) -> None:
        self._db = db
        self._client_provider = client_provider
        self._sender = sender
        self._delivery_sender = pump

    @activity.defn(name="deliveries.pump")
    async def pump(self) -> SentDeliveries:
        """Send first attempts until none is due, or for some seconds."""
        return await self._delivery_sender.run()

    @activity.defn(name="deliveries.retry_endpoint")
    async def retry_subscription(self, wanted: SubscriptionWake) -> SubscriptionWakeResult:
        """Do what is due for one endpoint at the workflow's time."""
        return await wake_subscription(self._db, self._sender, wanted.subscription_id, wanted.now)

    @activity.defn(name="deliveries.sweep")
    async def sweep(self) -> SweptOutbox:
        """Dispatch again what the sender and the endpoints' workflows missed."""
        return await sweep_outbox(self._db, self._client_provider, utc_now())
