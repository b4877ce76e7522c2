"""Work on the inbox by hand: read events, assign unmatched ones, have failed ones processed again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal, decode_cursor, encode_cursor
from wedsync.domain.errors import Conflict, InvalidInput, NotFound
from wedsync.domain.inbox.messages import Lane
from wedsync.domain.inbox.triage import lane_of
from wedsync.store.access import queries as access
from wedsync.store.inbox import operator_queries
from wedsync.store.inbox.operator_queries import Scope
from wedsync.usecases.weddings.read_wedding import View

#: The most events of one replay; another request replays more.
MOST_REPLAYED = 10_000


class InboxRow(View):
    """One recorded event, without its sealed body."""

    id: int
    source: str
    event_id: str
    #: received | retrying | processed | unmatched | dead
    state: str
    #: 0 of a wedding on its day | 1 critical | 2 high | 3 normal | 4 low
    priority: int
    type: str | None
    vendor_type: str | None
    object_id: str | None
    wedding_id: str | None
    step_id: str | None
    facts: dict[str, JsonValue]
    attempts: int
    error: str | None
    received_at: datetime
    due_at: datetime | None
    processed_at: datetime | None


class InboxPage(View):
    """A page, newest first; `next_cursor` requests what follows, None: there is no more."""

    data: tuple[InboxRow, ...]
    next_cursor: str | None


class ReplayedEvents(View):
    """A count of the events that are processed again."""

    replayed: int


async def list_inbox(
    conn: AsyncConnection, scope: Scope, *, state: str | None, source: str | None, limit: int, cursor: str | None
) -> InboxPage:
    """Read one page of what the scope sees; within `system()`. Raises InvalidInput(reason="invalid_cursor")."""
    before = _before(cursor) if cursor else None
    rows = await operator_queries.page(conn, scope, state=state, source=source, before=before, limit=limit + 1)
    shown = rows[:limit]
    more = encode_cursor(str(shown[-1].id)) if len(rows) > limit else None
    return InboxPage(data=tuple(_view(row) for row in shown), next_cursor=more)


async def show_event(conn: AsyncConnection, scope: Scope, row_id: int) -> InboxRow:
    """Read one event; within `system()`. Raises NotFound."""
    row = await operator_queries.find(conn, scope, row_id)
    if row is None:
        raise NotFound("no such event")
    return _view(row)


async def assign_event(
    conn: AsyncConnection,
    scope: Scope,
    principal: Principal,
    row_id: int,
    *,
    wedding_id: str | None,
    step_id: str | None,
    now: datetime,
) -> tuple[InboxRow, Lane]:
    """Assign an event, which is then processed at once. Within `system()`; `wedding_id` None: there is no such wedding.

    Raises NotFound (no such event or wedding in the organization), Conflict (it was processed).
    """
    row = await operator_queries.find(conn, scope, row_id, lock=True)
    if row is None:
        raise NotFound("no such event")
    if wedding_id is None:
        raise NotFound("no such wedding")
    if row.state == "processed" and row.wedding_id is not None:
        raise Conflict("the event was processed; it stays with its wedding")
    priority = await operator_queries.assign(conn, row_id, scope.organization_id, wedding_id, step_id, now)
    detail = {"wedding_id": wedding_id, "step_id": step_id, "was": row.state}
    await access.audit(conn, principal, "inbox.assigned", f"inbox/{row_id}", detail, now)
    return await show_event(conn, scope, row_id), lane_of(priority)


async def replay_events(
    conn: AsyncConnection,
    scope: Scope,
    principal: Principal,
    now: datetime,
    *,
    states: Sequence[str],
    ids: Sequence[int] | None = None,
    source: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[ReplayedEvents, set[Lane]]:
    """Process again one, many, or a time window of failed events; within `system()`."""
    if ids is None and since is None:
        raise InvalidInput("name the events by `ids`, or a time window by `since`", field="ids")
    done = await operator_queries.replay(
        conn, scope, now, states=states, ids=ids, source=source, since=since, until=until, limit=MOST_REPLAYED
    )
    detail: dict[str, Any] = {"count": len(done), "source": source, "states": list(states)}
    await access.audit(conn, principal, "inbox.replayed", "inbox", detail, now)
    return ReplayedEvents(replayed=len(done)), {lane_of(priority) for _, priority in done}


def _before(cursor: str) -> int:
    last = decode_cursor(cursor)
    if not last.isdigit() or len(last) > 18:
        raise InvalidInput("the cursor is not one that a list gave", field="cursor", reason="invalid_cursor")
    return int(last)


def _view(row: Any) -> InboxRow:
    event = row.event if isinstance(row.event, dict) else {}

    def text(name: str) -> str | None:
        value = event.get(name)
        return value if isinstance(value, str) else None

    facts = event.get("facts")
    return InboxRow(
        **{name: getattr(row, name) for name in InboxRow.model_fields if name in row._fields},
        type=text("type"),
        vendor_type=text("vendor_type"),
        object_id=text("object_id"),
        facts=facts if isinstance(facts, dict) else {},
    )
