"""`/api/v1/audit`: who did what, and when."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from wedsync.http.deps import Context
from wedsync.store.access.queries import AuditQuery
from wedsync.usecases.access.read_audit import AuditPage, list_audit

router = APIRouter(tags=["audit"])
_Word = Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$")


@router.get("/audit", summary="Read the audit log")
async def list_audit_entries(
    context: Context,
    subject: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            pattern=r"^[^\x00]+$",
            description="Of this, and of what stands beneath it: `service/stripe` has `service/stripe/version`, too.",
            examples=["service/stripe"],
        ),
    ] = None,
    action: Annotated[str | None, _Word] = None,
    actor: Annotated[str | None, _Word] = None,
    organization: Annotated[
        str | None,
        Query(min_length=1, max_length=64, pattern=r"^[^\x00]+$", description="Of one organization; for operators."),
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="From when on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Until when.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(min_length=1, max_length=200, description="As the last page said.")] = None,
) -> AuditPage:
    """List audit entries, newest first. An operator reads everybody's actions, an organization its own."""
    query = AuditQuery(subject, action, actor, organization, since, until)
    is_operator = context.state.settings.is_operator(context.organization_id)
    async with context.db.system() if is_operator else context.db.tenant(context.organization_id) as conn:
        return await list_audit(conn, query, limit=limit, cursor=cursor)
