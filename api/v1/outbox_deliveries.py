"""`/api/v1/deliveries`: shows what was sent to whom and why it failed, and sends it again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Answer
from wedsync.domain.outbox.subscription import DeliveryStatus
from wedsync.http.deps import Context, MustBeOnce, respond
from wedsync.kit.clock import utc_now
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.outbox import read
from wedsync.usecases.outbox.replay import replay_one
from wedsync.usecases.outbox.views import DeliveryDetail, DeliveryPage, DeliveryView

router = APIRouter(prefix="/deliveries", tags=["webhook subscriptions"])
_ID = r"^[0-9A-Za-z]{1,40}$"


@router.get("", summary="List deliveries")
async def list_deliveries(
    context: Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
    subscription: Annotated[str | None, Query(pattern=_ID, description="Only of this subscription.")] = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only with this status.")] = None,
    wedding: Annotated[str | None, Query(pattern=_ID, description="Only about the wedding with this id.")] = None,
) -> DeliveryPage:
    """List the organization's deliveries, newest first."""
    async with context.db.tenant(context.organization_id) as conn:
        return await read.list_deliveries(
            conn,
            context.organization_id,
            limit,
            cursor,
            subscription_id=subscription,
            status=status,
            wedding_id=wedding,
        )


@router.get("/{delivery}", summary="Show a delivery")
async def get_delivery(delivery: str, context: Context) -> DeliveryDetail:
    """Show the delivery with its body, every attempt with its answer, and why it is not delivered."""
    async with context.db.tenant(context.organization_id) as conn:
        return await read.read_delivery(conn, delivery)


@router.post("/{delivery}/replay", status_code=202, response_model=DeliveryView, summary="Send a delivery again")
async def replay_delivery(delivery: str, context: Context, idempotency: MustBeOnce) -> JSONResponse:
    """Send the delivery again, delivered or not, with the same `webhook-id`."""

    async def action(conn: AsyncConnection) -> Answer:
        await replay_one(conn, context.principal, delivery, utc_now())
        view = await read.show_delivery(conn, delivery)
        location = {"Location": f"/api/v1/deliveries/{view.id}"}
        return Answer(status=202, headers=location, body=view.model_dump(mode="json"))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)
