"""A post office: an organization with weddings and subscriptions, and what sends its events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update
from temporalio.client import Client

from wedsync.dispatch.outbox import OutboxDispatcher
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.messages import SubscriptionWakeResult
from wedsync.domain.ssrf import SsrfPolicy
from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import Keyring
from wedsync.kit.http_guard import SsrfSafeHttp
from wedsync.kit.ids import new_id
from wedsync.kit.lookups import resolve
from wedsync.kit.settings import LOCAL_CODEC_KEY
from wedsync.kit.ssrf import Resolver
from wedsync.store.access.tables import organizations
from wedsync.store.db.session import Database
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox.tables import deliveries, delivery_attempts, outgoing_events, webhook_subscriptions
from wedsync.store.weddings.tables import weddings
from wedsync.usecases.outbox import subscribe
from wedsync.usecases.outbox.delivery_sender import DeliveryLimits, DeliverySender
from wedsync.usecases.outbox.retry_subscription import wake_subscription
from wedsync.usecases.outbox.send import AttemptSender
from wedsync.usecases.outbox.subscribe import NewSubscription
from wedsync.usecases.outbox.views import SubscriptionWithSecret

CEREMONY = datetime(2031, 6, 19, 14, tzinfo=UTC)
KEYRING = Keyring.parse(LOCAL_CODEC_KEY)


async def no_temporal() -> Client:
    raise TemporalUnreachable("no Temporal here")


@dataclass
class PostOffice:
    """Outbox of one organization and its delivery sender."""

    db: Database
    sender: AttemptSender
    delivery_sender: DeliverySender
    dispatcher: OutboxDispatcher
    organization_id: str
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def principal(self) -> Principal:
        return Principal(organization_id=self.organization_id, key_id="k")

    async def subscribe(self, url: str, *event_types: str, **changes: Any) -> str:
        wanted = NewSubscription.model_validate({"url": url, "event_types": event_types or ("*",), **changes})
        made: SubscriptionWithSecret
        async with self.db.tenant(self.organization_id) as conn:
            made = await subscribe.create(
                conn, self.principal, wanted, KEYRING, subscription_id=new_id(), now=utc_now()
            )
        self.secrets[made.id] = made.secret or ""
        return made.id

    async def wedding(self, ceremony_at: datetime = CEREMONY) -> str:
        wedding_id = new_id()
        row = {
            "id": wedding_id,
            "organization_id": self.organization_id,
            "reference": wedding_id,
            "status": "active",
            "phase": "preparation",
            "mode": "normal",
            "ceremony_local": "2031-06-19T16:00",
            "zone": "Europe/Rome",
            "ceremony_at": ceremony_at,
            "plan_version": 1,
            "created_at": utc_now(),
            "updated_at": utc_now(),
        }
        async with self.db.system() as conn:
            await conn.execute(insert(weddings).values(row))
        return wedding_id

    async def dispatch(self, count: int = 1, event_type: str = "payment.captured", **facts: Any) -> None:
        """Record so many events, as a change would."""
        events = [
            DomainEvent.model_validate({"type": event_type, "data": {"id": f"thing-{number}"}, **facts})
            for number in range(1, count + 1)
        ]
        async with self.db.tenant(self.organization_id) as conn:
            await outbox.announce(conn, self.organization_id, events, utc_now())

    async def send(self) -> int:
        """Send what is due and wait for what is under way; return how many were claimed."""
        total = 0
        while sent := (await self.delivery_sender.run()).sent:
            total += sent
            await self.delivery_sender.idle()
        return total

    async def wake(self, subscription_id: str, now: datetime) -> SubscriptionWakeResult:
        """Return what the endpoint's workflow has done at `now`."""
        return await wake_subscription(self.db, self.sender, subscription_id, now)

    async def until_recorded(self, subscription_id: str, now: datetime, most: int = 60) -> tuple[Any, datetime]:
        """Run the endpoint's timers until nothing is due; return its row, and when that was."""
        for _ in range(most):
            wake = await self.wake(subscription_id, now)
            if wake.wait_seconds is None:
                break
            now += timedelta(seconds=max(wake.wait_seconds, 0.001))
        return await self.row(subscription_id), now

    async def expire_leases(self) -> None:
        """Expire leases, as time does to what a dead process had claimed."""
        async with self.db.system() as conn:
            await conn.execute(update(deliveries).values(leased_until=utc_now() - timedelta(seconds=1)))

    async def row(self, subscription_id: str) -> Any:
        table = webhook_subscriptions
        async with self.db.system() as conn:
            return (await conn.execute(select(table).where(table.c.id == subscription_id))).one()

    async def deliveries(self, subscription_id: str | None = None) -> list[Any]:
        query = select(deliveries).order_by(deliveries.c.number)
        if subscription_id:
            query = query.where(deliveries.c.subscription_id == subscription_id)
        async with self.db.system() as conn:
            return list((await conn.execute(query)).all())

    async def statuses(self, subscription_id: str | None = None) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in await self.deliveries(subscription_id):
            found[row.status] = found.get(row.status, 0) + 1
        return found

    async def until_statuses(self, wanted: dict[str, int], seconds: float = 30.0) -> None:
        """Wait until the deliveries stand so."""
        async with asyncio.timeout(seconds):
            while True:
                if await self.statuses() == wanted:
                    return
                await asyncio.sleep(0.02)

    async def until_status(self, subscription_id: str, wanted: str, seconds: float = 30.0) -> None:
        """Wait until the subscription stands so."""
        async with asyncio.timeout(seconds):
            while True:
                if (await self.row(subscription_id)).status == wanted:
                    return
                await asyncio.sleep(0.02)

    async def attempts(self) -> list[Any]:
        async with self.db.system() as conn:
            return list((await conn.execute(select(delivery_attempts).order_by(delivery_attempts.c.at))).all())

    async def events(self) -> list[Any]:
        async with self.db.system() as conn:
            return list((await conn.execute(select(outgoing_events).order_by(outgoing_events.c.id))).all())

    async def count(self, table: Any) -> int:
        async with self.db.system() as conn:
            return int((await conn.execute(select(func.count()).select_from(table))).scalar_one())


@contextlib.asynccontextmanager
async def open_post_office(
    database_url: str,
    *,
    timeout_seconds: float = 10.0,
    limits: DeliveryLimits | None = None,
    provider: Any = no_temporal,
    resolver: Resolver = resolve,
) -> AsyncIterator[PostOffice]:
    """Open a post office on an empty database."""
    db = Database(database_url, 5)
    dispatcher = OutboxDispatcher(provider, interval_seconds=0.01)
    http = SsrfSafeHttp(SsrfPolicy(allow_loopback=True), resolver=resolver)
    sender = AttemptSender(http, KEYRING, timeout_seconds=timeout_seconds)
    delivery_sender = DeliverySender(db, sender, dispatcher, limits)
    async with db.system() as conn:
        await conn.execute(insert(organizations).values(id="o1", name="Studio", created_at=utc_now()))
    try:
        yield PostOffice(db, sender, delivery_sender, dispatcher, "o1")
    finally:
        await delivery_sender.close()
        await dispatcher.close()
        await sender.close()
        await db.close()
