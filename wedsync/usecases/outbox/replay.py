"""Send deliveries again: one, many, or a window."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict
from wedsync.domain.outbox.catalogue import EVENT_TYPES
from wedsync.domain.outbox.matching import check_patterns, wants
from wedsync.store.access import queries as access
from wedsync.store.outbox import subscriptions as store
from wedsync.usecases.outbox.read import delivery_row
from wedsync.usecases.outbox.subscribe import row_of
from wedsync.usecases.outbox.views import ReplayedDeliveries

#: The most of one request.
MOST_REPLAYED = 10_000


class DeliveryReplay(BaseModel):
    """A choice of a subscription's deliveries: by their ids, or by when their events happened."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    delivery_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9A-Z]{26}$")], ...] | None, Field(min_length=1, max_length=1000)
    ] = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    event_types: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...] | None, Field(min_length=1, max_length=50)
    ] = None
    statuses: Annotated[tuple[Literal["delivered", "failed", "retrying"], ...], Field(min_length=1)] = ("failed",)

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if self.delivery_ids is None and self.since is None:
            raise ValueError("name `delivery_ids`, or a window by `since`")
        return self


async def replay_many(
    conn: AsyncConnection, principal: Principal, subscription_id: str, wanted: DeliveryReplay, now: datetime
) -> ReplayedDeliveries:
    """Make deliveries due again, at most `MOST_REPLAYED`, the oldest first; raises NotFound, Conflict, InvalidInput."""
    _refuse_stopped(await row_of(conn, subscription_id))
    types = None
    if wanted.event_types is not None:
        check_patterns(wanted.event_types)
        types = [name for name in EVENT_TYPES if wants(wanted.event_types, name)]
    count = await store.replay(
        conn,
        subscription_id,
        statuses=wanted.statuses,
        most=MOST_REPLAYED,
        now=now,
        ids=wanted.delivery_ids,
        types=types,
        since=wanted.since,
        until=wanted.until,
    )
    detail = {**wanted.model_dump(mode="json", exclude_none=True), "count": count}
    subject = f"webhook_subscription/{subscription_id}"
    await access.audit(conn, principal, "webhook_subscription.replayed", subject, detail, now)
    return ReplayedDeliveries(count=count)


async def replay_one(conn: AsyncConnection, principal: Principal, delivery_id: str, now: datetime) -> None:
    """Make a delivery due again, delivered or not; raises NotFound, Conflict."""
    row = await delivery_row(conn, delivery_id)
    _refuse_stopped(await row_of(conn, row.subscription_id))
    statuses = ("pending", "retrying", "delivered", "failed")
    await store.replay(conn, row.subscription_id, statuses=statuses, most=1, now=now, ids=[delivery_id])
    await access.audit(conn, principal, "delivery.replayed", f"delivery/{delivery_id}", {}, now)


def _refuse_stopped(row: object) -> None:
    status = getattr(row, "status", "")
    if status in ("paused", "disabled"):
        raise Conflict(f"the subscription is {status}: resume it first", reason="subscription_stopped")
