"""`/api/v1/weddings/{w}/events`: server-sent events that resume where a client left off."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from wedsync.http.deps import Context, RequestContext
from wedsync.usecases.weddings.follow_events import follow_events
from wedsync.usecases.weddings.read_wedding import wedding_row

router = APIRouter(prefix="/weddings/{wedding}", tags=["weddings"])
HEARTBEAT_SECONDS = 15.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `step`, `transaction` and `wedding`; `id` counts 1, 2, 3, ... within the wedding",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
    summary="Follow a wedding",
)
async def stream_wedding_events(
    wedding: str,
    context: Context,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,18}$", description="Resume after this event.")
    ] = None,
) -> StreamingResponse:
    """Stream everything that happened to the wedding, and then each event as it happens."""
    async with context.db.tenant(context.organization_id) as conn:
        wedding_id = (await wedding_row(conn, wedding)).id
    return StreamingResponse(
        _stream(context, wedding_id, int(last_event_id or 0)), media_type="text/event-stream", headers=_HEADERS
    )


async def _stream(context: RequestContext, wedding_id: str, after: int) -> AsyncGenerator[bytes]:
    yield format_sse_event(retry=1000)
    events = follow_events(
        context.db,
        context.state.notices,
        context.organization_id,
        wedding_id,
        after,
        heartbeat_seconds=context.state.heartbeat,
    )
    async for event in events:
        if event is None:
            yield KEEPALIVE_COMMENT
        else:
            data = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
            yield format_sse_event(data_str=data, event=event.type, id=str(event.id))
