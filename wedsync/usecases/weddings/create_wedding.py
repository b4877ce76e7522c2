"""Take a plan in: a wedding with its steps, nothing asked of any vendor yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict
from wedsync.domain.routing.vendor import Manifest
from wedsync.domain.weddings import times
from wedsync.domain.weddings.compile import compile_plan
from wedsync.domain.weddings.plan import Plan, PlannedStep
from wedsync.domain.weddings.projection import EventRow
from wedsync.store import access, projection
from wedsync.store import weddings as store
from wedsync.usecases.weddings.read_wedding import WeddingView, view_of, wedding_row


async def create_wedding(
    conn: AsyncConnection,
    principal: Principal,
    plan: Plan,
    manifests: Mapping[str, Manifest],
    *,
    wedding_id: str,
    now: datetime,
) -> WeddingView:
    """Record the wedding of a valid plan; raises Conflict(reason="reference_taken")."""
    owner = {"organization_id": principal.organization_id}
    ceremony = plan.wedding.ceremony
    values = {
        **owner,
        **store.opening(now),
        "id": wedding_id,
        "reference": plan.wedding.id,
        "ceremony_local": ceremony.at,
        "zone": ceremony.zone,
        "ceremony_at": times.ceremony_instant(plan),
    }
    if not await store.add_wedding(conn, values):
        raise await _taken(conn, plan.wedding.id)
    of_wedding = {**owner, "wedding_id": wedding_id}
    await store.add_plan(conn, {**of_wedding, "version": 1, "body": plan.model_dump(mode="json"), "created_at": now})
    compiled = compile_plan(plan, manifests)
    rows = [{**of_wedding, **_step_row(step, index, plan)} for index, step in enumerate(compiled)]
    await store.add_steps(conn, rows)
    detail = {"reference": plan.wedding.id, "plan_version": 1, "steps": len(rows)}
    await access.audit(conn, principal, "wedding.created", f"wedding/{wedding_id}", detail, now)
    shown = {"id": wedding_id, "status": "planned", "phase": "preparation", "mode": "normal", "plan_version": 1}
    event = EventRow(type="wedding", data=shown)
    await projection.write_event(conn, principal.organization_id, wedding_id, event, now)
    return await view_of(conn, await wedding_row(conn, wedding_id))


async def _taken(conn: AsyncConnection, reference: str) -> Conflict:
    row = await store.find_wedding(conn, reference)
    where = f" (wedding {row.id})" if row is not None else ""
    return Conflict(f"a wedding with the plan id {reference!r} stands already{where}", reason="reference_taken")


def _step_row(step: PlannedStep, position: int, plan: Plan) -> dict[str, Any]:
    due = times.due_at(step, plan, {})
    return {
        "step_id": step.id,
        "position": position,
        "service": step.service,
        "capability": step.capability,
        "action": step.action,
        "status": "pending" if isinstance(due, times.AtOnce) else "scheduled",
        "due_at": due.at if isinstance(due, times.At) else None,
    }
