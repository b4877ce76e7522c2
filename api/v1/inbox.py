"""`/api/v1/inbox`: events that came in, that nobody owns, that failed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from api.webhooks import get_receiver
from wedsync.domain.access.principal import Answer, Once
from wedsync.domain.inbox.messages import Lane
from wedsync.http.deps import Context, MustBeOnce, respond
from wedsync.kit.clock import utc_now
from wedsync.store.db.session import as_system
from wedsync.store.inbox.operator_queries import Scope
from wedsync.store.weddings.queries import find_wedding
from wedsync.usecases.access.answer_once import Write, answer_once
from wedsync.usecases.inbox import operate
from wedsync.usecases.inbox.operate import InboxPage, InboxRow, ReplayedEvents

router = APIRouter(prefix="/inbox", tags=["webhooks"])

_Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
RowId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventAssignment(_Strict):
    """Names the event's owner: the wedding by its id or its plan's own id, and perhaps the step that waits for it."""

    wedding_id: _Text
    step_id: _Text | None = None


class EventReplay(_Strict):
    """Selects events: by `ids`, or a time window by `since` and perhaps `until`; perhaps of one `source`."""

    ids: Annotated[tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] | None, Field(max_length=10_000)] = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    source: _Text | None = None
    states: Annotated[tuple[Literal["dead", "unmatched", "retrying"], ...], Field(min_length=1)] = ("dead",)

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if (self.ids is None) == (self.since is None):
            raise ValueError("name the events either by `ids` or by a window that begins at `since`")
        return self


def _scope(context: Context) -> Scope:
    return Scope(context.organization_id, context.state.settings.is_operator(context.organization_id))


@router.get("", summary="List inbound events")
async def list_inbox_events(
    context: Context,
    state: Annotated[Literal["received", "retrying", "processed", "unmatched", "dead"] | None, Query()] = None,
    source: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> InboxPage:
    """List events, newest first. Assign `unmatched` events, whose owner is unknown. Replay failed (`dead`) events."""
    async with context.db.system() as conn:
        return await operate.list_inbox(conn, _scope(context), state=state, source=source, limit=limit, cursor=cursor)


@router.post("/replay", status_code=202, response_model=ReplayedEvents, summary="Process failed events again")
async def replay_inbox_events(body: EventReplay, context: Context, idempotency: MustBeOnce) -> JSONResponse:
    """Replay one, many, or a time window of dead, unmatched or retrying events; processed events are never replayed."""
    lanes: set[Lane] = set()

    async def action(conn: AsyncConnection) -> Answer:
        async with as_system(conn):
            replayed, signalled = await operate.replay_events(
                conn, _scope(context), context.principal, utc_now(), **body.model_dump()
            )
        lanes.update(signalled)
        return Answer(status=202, body=replayed.model_dump(mode="json"))

    return await _answered(context, idempotency, action, lanes)


@router.get("/{inbox_event}", summary="Show an inbound event")
async def get_inbox_event(inbox_event: RowId, context: Context) -> InboxRow:
    """Show what the event said, what became of it, and why."""
    async with context.db.system() as conn:
        return await operate.show_event(conn, _scope(context), inbox_event)


@router.post("/{inbox_event}/assign", status_code=202, response_model=InboxRow, summary="Say whose an event is")
async def assign_inbox_event(
    inbox_event: RowId, body: EventAssignment, context: Context, idempotency: MustBeOnce
) -> JSONResponse:
    """Assign the event to a wedding, which hears of it at once."""
    lanes: set[Lane] = set()

    async def action(conn: AsyncConnection) -> Answer:
        owner = await find_wedding(conn, body.wedding_id)
        async with as_system(conn):
            row, lane = await operate.assign_event(
                conn,
                _scope(context),
                context.principal,
                inbox_event,
                wedding_id=owner.id if owner else None,
                step_id=body.step_id,
                now=utc_now(),
            )
        lanes.add(lane)
        return Answer(status=202, body=row.model_dump(mode="json"))

    return await _answered(context, idempotency, action, lanes)


async def _answered(context: Context, idempotency: Once, action: Write, lanes: set[Lane]) -> JSONResponse:
    answer, is_replay = await answer_once(context.db, context.organization_id, idempotency, action)
    for lane in lanes:
        (await get_receiver(context.request)).dispatch(lane)
    return respond(answer, is_replay=is_replay)
