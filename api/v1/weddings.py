"""`/api/v1/weddings`: takes weddings in, lists, shows, cancels and repairs them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncConnection

from api.examples import PLAN_BODY
from api.v1.plans import is_yaml
from wedsync.domain.access.principal import Answer
from wedsync.http.deps import Context, MayBeOnce, MustBeOnce, Wait, accept, respond
from wedsync.kit.clock import utc_now
from wedsync.usecases.access.answer_once import answer_once
from wedsync.usecases.plans.validate import require_plan
from wedsync.usecases.weddings import request_transaction
from wedsync.usecases.weddings.create_wedding import create_wedding as record_wedding
from wedsync.usecases.weddings.list_weddings import WeddingPage
from wedsync.usecases.weddings.list_weddings import list_weddings as read_weddings
from wedsync.usecases.weddings.read_transaction import TransactionView
from wedsync.usecases.weddings.read_wedding import StepView, View, WeddingView, read_steps, read_wedding
from wedsync.usecases.weddings.remember_contacts import remember_contacts
from wedsync.usecases.weddings.repair_wedding import repair_wedding as rewrite_wedding

router = APIRouter(prefix="/weddings", tags=["weddings"])


class Steps(View):
    """A wedding's steps in plan order."""

    data: tuple[StepView, ...]


class Repaired(View):
    """Number of steps that were written anew."""

    steps: int


@router.post("", status_code=201, response_model=WeddingView, openapi_extra=PLAN_BODY, summary="Hand in a wedding plan")
async def create_wedding(request: Request, context: Context, idempotency: MustBeOnce) -> JSONResponse:
    """Record a wedding from a valid plan in JSON or YAML. No vendor is called before the wedding is orchestrated."""
    plan = require_plan(await request.body(), is_yaml=is_yaml(request), manifests=context.manifests)

    async def action(conn: AsyncConnection) -> Answer:
        view = await record_wedding(
            conn, context.principal, plan, context.manifests, wedding_id=context.new_id(idempotency), now=utc_now()
        )
        pepper = context.state.settings.api_key_pepper.get_secret_value()
        await remember_contacts(conn, context.organization_id, view.id, plan, pepper, utc_now())
        location = {"Location": f"/api/v1/weddings/{view.id}"}
        return Answer(status=201, headers=location, body=view.model_dump(mode="json"))

    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    return respond(answer, is_replay=is_replay)


@router.get("", summary="List weddings")
async def list_weddings(
    context: Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> WeddingPage:
    """List the organization's weddings, newest first."""
    return await read_weddings(context.db, context.organization_id, limit, cursor)


@router.get("/{wedding}", summary="Show a wedding")
async def get_wedding(wedding: str, context: Context) -> WeddingView:
    """Show the wedding, named by its id or its plan's own id, with its steps and transactions."""
    return await read_wedding(context.db, context.organization_id, wedding)


@router.delete("/{wedding}", status_code=202, response_model=TransactionView, summary="Cancel a wedding")
async def cancel_wedding(wedding: str, context: Context, idempotency: MayBeOnce, wait: Wait) -> JSONResponse:
    """Undo everything that was done for the wedding, and end it. Running transactions are stopped first."""
    return await accept(
        context,
        idempotency,
        lambda conn, requested_by: request_transaction.cancel_wedding(conn, wedding, requested_by),
        wait,
    )


@router.get("/{wedding}/steps", summary="Show a wedding's steps")
async def list_wedding_steps(wedding: str, context: Context) -> Steps:
    """List every step of the plan as it stands, in plan order."""
    return Steps(data=await read_steps(context.db, context.organization_id, wedding))


@router.post("/{wedding}/repair", summary="Rebuild what is shown of a wedding")
async def repair_wedding(wedding: str, context: Context) -> Repaired:
    """Write the wedding's rows anew from its workflow, which always has the true state."""
    written = await rewrite_wedding(context.db, context.state.temporal, context.organization_id, wedding)
    return Repaired(steps=written)
