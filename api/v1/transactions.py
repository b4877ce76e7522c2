"""`/api/v1/weddings/{w}/transactions` and `/steps/{s}/decision`: requests changes of a wedding."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.examples import DECIDED, REQUESTED
from wedsync.domain.weddings.messages import Choice, Decision
from wedsync.http.deps import Context, MustBeOnce, Wait, accept
from wedsync.usecases.weddings import request_transaction
from wedsync.usecases.weddings.read_transaction import TransactionView, read_transaction

router = APIRouter(prefix="/weddings/{wedding}", tags=["transactions"])


class Strict(BaseModel):
    """Body in which unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TransactionBody(Strict):
    """Starts a transaction.

    `orchestrate`: book what is due. `timeline`: move the ceremony to another wall time, perhaps another zone.
    """

    kind: Literal["orchestrate", "timeline"]
    ceremony_at: Annotated[
        str | None, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$", max_length=19)
    ] = None
    zone: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "timeline" and self.ceremony_at is None:
            raise ValueError("a timeline change needs `ceremony_at`")
        if self.kind == "orchestrate" and (self.ceremony_at is not None or self.zone is not None):
            raise ValueError("`ceremony_at` and `zone` go with `timeline` only")
        return self


class DecisionBody(Strict):
    """A person's decision on a held step; `use` names a vendor."""

    choice: Choice
    vendor: Annotated[str | None, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = None


@router.post("/transactions", status_code=202, response_model=TransactionView, summary="Ask for a transaction")
async def submit_transaction(
    wedding: str,
    body: Annotated[TransactionBody, Body(openapi_examples=REQUESTED)],
    context: Context,
    idempotency: MustBeOnce,
    wait: Wait,
) -> JSONResponse:
    """Record the requested transaction and answer at once; with `?wait=30s` when it has settled, or after that time."""
    if body.kind == "orchestrate":
        return await accept(
            context, idempotency, lambda conn, a: request_transaction.orchestrate(conn, wedding, a), wait
        )
    at, zone = body.ceremony_at or "", body.zone
    return await accept(
        context,
        idempotency,
        lambda conn, a: request_transaction.shift(conn, wedding, a, ceremony_at=at, zone=zone),
        wait,
    )


@router.get("/transactions/{transaction}", summary="Show a transaction")
async def get_transaction(wedding: str, transaction: str, context: Context) -> TransactionView:
    """Show the transaction with the steps that it covers, as they stand now."""
    async with context.db.tenant(context.organization_id) as conn:
        return await read_transaction(conn, wedding, transaction, context.state.temporal_url)


@router.post(
    "/transactions/{transaction}/undo", status_code=202, response_model=TransactionView, summary="Undo a transaction"
)
async def undo_transaction(
    wedding: str, transaction: str, context: Context, idempotency: MustBeOnce, wait: Wait
) -> JSONResponse:
    """Undo what the transaction, perhaps still running, has in effect; the answer is the undo's own transaction."""
    return await accept(
        context,
        idempotency,
        lambda conn, a: request_transaction.undo(conn, wedding, a, target=transaction, how="undo"),
        wait,
    )


@router.post(
    "/transactions/{transaction}/cancel",
    status_code=202,
    response_model=TransactionView,
    summary="Cancel a transaction",
)
async def cancel_transaction(
    wedding: str, transaction: str, context: Context, idempotency: MustBeOnce, wait: Wait
) -> JSONResponse:
    """Undo as `undo` does, but end the transaction as `cancelled`."""
    return await accept(
        context,
        idempotency,
        lambda conn, a: request_transaction.undo(conn, wedding, a, target=transaction, how="cancel"),
        wait,
    )


@router.post(
    "/steps/{step}/decision", status_code=202, response_model=TransactionView, summary="Decide about a held step"
)
async def decide_step(
    wedding: str,
    step: str,
    body: Annotated[DecisionBody, Body(openapi_examples=DECIDED)],
    context: Context,
    idempotency: MustBeOnce,
    wait: Wait,
) -> JSONResponse:
    """Try the step again, skip it, use another vendor, or roll its transaction back."""
    decision = Decision(step_id=step, choice=body.choice, vendor=body.vendor)
    return await accept(
        context, idempotency, lambda conn, a: request_transaction.decide(conn, wedding, a, decision), wait
    )
