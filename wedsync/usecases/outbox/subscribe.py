"""Manage subscriptions to our events: make, change, delete, pause, resume and test them, rotate their secrets."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict, NotFound
from wedsync.domain.outbox.catalogue import NEWEST_VERSION, ApiVersion, PingData
from wedsync.domain.outbox.domain_events import DomainEvent
from wedsync.domain.outbox.matching import check_filters, check_patterns
from wedsync.domain.outbox.schedule import DeliveryRetryPolicy
from wedsync.domain.outbox.signing import Payload
from wedsync.kit.crypto import Keyring
from wedsync.store.access import queries as access
from wedsync.store.outbox import events as outbox
from wedsync.store.outbox import subscriptions as store
from wedsync.usecases.outbox import secrets
from wedsync.usecases.outbox.views import SubscriptionView, SubscriptionWithSecret, subscription_view

#: Of one organization.
MOST_SUBSCRIPTIONS = 200
_TEXT_LIMIT = 2000
#: The shape of our ids.
ID = re.compile(r"[0-9A-Z]{26}")

_FilterText = Annotated[StrictStr, Field(pattern=r"^[^\x00]*$")]
FilterValues = Annotated[tuple[_FilterText | StrictBool | StrictInt | None, ...], Field(min_length=1, max_length=100)]


class NewSubscription(BaseModel):
    """A subscription as requested."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: Annotated[str, Field(min_length=8, max_length=_TEXT_LIMIT)]
    description: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""
    event_types: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(min_length=1, max_length=50)]
    filters: Annotated[dict[str, FilterValues], Field(max_length=10)] = {}
    api_version: ApiVersion = NEWEST_VERSION
    payload: Payload = "full"
    ordered: StrictBool = False
    rate_per_second: Annotated[float | None, Field(ge=0.01, le=1000, strict=True)] = None
    retry_policy: DeliveryRetryPolicy = DeliveryRetryPolicy()

    def check(self) -> None:
        """Raise InvalidInput for patterns or filters that fit no event; the URL is checked before, with its host."""
        check_patterns(self.event_types)
        check_filters(self.filters)

    def columns(self) -> dict[str, Any]:
        """Return the subscription as stored."""
        values = self.model_dump(mode="json", exclude={"retry_policy"})
        return {**values, "max_attempts": self.retry_policy.max_attempts, "backoff": self.retry_policy.backoff}


async def create(
    conn: AsyncConnection,
    principal: Principal,
    wanted: NewSubscription,
    keyring: Keyring,
    *,
    subscription_id: str,
    now: datetime,
) -> SubscriptionWithSecret:
    """Make a subscription whose URL was checked, with its first secret; raises Conflict, InvalidInput."""
    wanted.check()
    if await store.count(conn, principal.organization_id) >= MOST_SUBSCRIPTIONS:
        raise Conflict(f"there are {MOST_SUBSCRIPTIONS} subscriptions already", reason="too_many_subscriptions")
    secret = secrets.new_secret(now)
    sealed = secrets.seal(keyring, principal.organization_id, subscription_id, [secret])
    values = {
        **wanted.columns(),
        "id": subscription_id,
        "organization_id": principal.organization_id,
        "secrets": sealed,
        "created_at": now,
        "updated_at": now,
    }
    await store.add(conn, values)
    await _audit(conn, principal, "created", subscription_id, now, url=wanted.url)
    return await _with_secret(conn, subscription_id, secret.secret)


async def change(
    conn: AsyncConnection, principal: Principal, subscription_id: str, changes: dict[str, Any], now: datetime
) -> SubscriptionView:
    """Change some fields of a subscription; raises NotFound, InvalidInput."""
    view = subscription_view(await row_of(conn, subscription_id, lock=True))
    wanted = NewSubscription.model_validate({**view.model_dump(include=set(NewSubscription.model_fields)), **changes})
    wanted.check()
    await store.change(conn, subscription_id, wanted.columns(), now)
    await _audit(conn, principal, "changed", subscription_id, now, fields=sorted(changes))
    return subscription_view(await row_of(conn, subscription_id))


async def delete(conn: AsyncConnection, principal: Principal, subscription_id: str, now: datetime) -> None:
    """Delete a subscription and give up what waits for it; what was delivered stays readable. Raises NotFound."""
    await row_of(conn, subscription_id, lock=True)
    await store.change(conn, subscription_id, {"status": "deleted", "secrets": b"", "reason": None}, now)
    await store.give_up(conn, subscription_id, "the subscription was deleted")
    await _audit(conn, principal, "deleted", subscription_id, now)


async def pause(conn: AsyncConnection, principal: Principal, subscription_id: str, now: datetime) -> SubscriptionView:
    """Park its events until it is resumed; raises NotFound, Conflict when it was disabled."""
    row = await row_of(conn, subscription_id, lock=True)
    if row.status == "disabled":
        raise Conflict("the subscription is disabled", reason="subscription_disabled")
    if row.status != "paused":
        await store.change(conn, subscription_id, {"status": "paused", "reason": None}, now)
        await _audit(conn, principal, "paused", subscription_id, now)
    return subscription_view(await row_of(conn, subscription_id))


async def resume(conn: AsyncConnection, principal: Principal, subscription_id: str, now: datetime) -> SubscriptionView:
    """Send what was parked, in order, then go on; for a failing one: try at once. Raises NotFound."""
    row = await row_of(conn, subscription_id, lock=True)
    if row.status in ("paused", "disabled"):
        well = {"status": "recovering", "reason": None, "consecutive_failures": 0, "round": 0, "warned": 0}
        await store.change(
            conn, subscription_id, {**well, "failing_since": None, "next_probe_at": None, "pace_per_second": None}, now
        )
        await store.make_due(conn, subscription_id, now)
        await _audit(conn, principal, "resumed", subscription_id, now)
    elif row.status == "failing":
        await store.change(conn, subscription_id, {"next_probe_at": now}, now)
        await _audit(conn, principal, "resumed", subscription_id, now)
    return subscription_view(await row_of(conn, subscription_id))


async def rotate(
    conn: AsyncConnection,
    principal: Principal,
    subscription_id: str,
    keyring: Keyring,
    *,
    overlap: timedelta,
    now: datetime,
) -> SubscriptionWithSecret:
    """Give it a new secret; the present ones sign along for `overlap`. Raises NotFound, Conflict for too many."""
    row = await row_of(conn, subscription_id, lock=True)
    held = secrets.active(secrets.unseal(keyring, row.organization_id, subscription_id, row.secrets), now)
    ends = now + overlap
    kept = [
        item if item.expires_at is not None and item.expires_at < ends else item.model_copy(update={"expires_at": ends})
        for item in held
    ]
    kept = list(secrets.active(kept, now))
    if len(kept) >= secrets.MOST_SECRETS:
        raise Conflict(f"{len(kept)} secrets are active already: wait, or rotate without overlap", reason="conflict")
    secret = secrets.new_secret(now)
    sealed = secrets.seal(keyring, row.organization_id, subscription_id, [secret, *kept])
    await store.change(conn, subscription_id, {"secrets": sealed}, now)
    await _audit(conn, principal, "rotated", subscription_id, now, overlap_seconds=int(overlap.total_seconds()))
    return await _with_secret(conn, subscription_id, secret.secret)


async def test(conn: AsyncConnection, principal: Principal, subscription_id: str, now: datetime) -> str:
    """Send it a `webhook.test` and return the delivery's id. Raises NotFound."""
    await row_of(conn, subscription_id)
    event = DomainEvent(type="webhook.test", data=PingData(id=subscription_id).model_dump(mode="json"))
    (delivery_id,) = await outbox.announce(conn, principal.organization_id, [event], now, only=subscription_id)
    return delivery_id


async def row_of(conn: AsyncConnection, subscription_id: str, *, lock: bool = False) -> Any:
    """Read a subscription's row; raises NotFound."""
    row = await store.find(conn, subscription_id, lock=lock) if ID.fullmatch(subscription_id) else None
    if row is None:
        raise NotFound("no such subscription")
    return row


async def _with_secret(conn: AsyncConnection, subscription_id: str, secret: str) -> SubscriptionWithSecret:
    view = subscription_view(await row_of(conn, subscription_id))
    return SubscriptionWithSecret(**view.model_dump(), secret=secret)


async def _audit(
    conn: AsyncConnection, principal: Principal, what: str, subscription_id: str, now: datetime, **detail: Any
) -> None:
    subject = f"webhook_subscription/{subscription_id}"
    await access.audit(conn, principal, f"webhook_subscription.{what}", subject, detail, now)
