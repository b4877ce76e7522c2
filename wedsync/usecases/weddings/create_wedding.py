"""Record a plan as a wedding with its steps; no vendor is called yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict
from wedsync.domain.plans import times
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.vendors.manifest import Manifest
from wedsync.store.outbox import events as outbox
from wedsync.store.weddings import projection
from wedsync.store.weddings import queries as store
from wedsync.usecases.weddings.read_wedding import CeremonyView, StepView, WeddingView

_STORED = {"id", "service", "capability", "action", "status", "due_at"}


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
    ceremony = CeremonyView(
        local=plan.wedding.ceremony.at, zone=plan.wedding.ceremony.zone, instant=times.ceremony_instant(plan)
    )
    steps = tuple(_step_view(step, plan) for step in compile_plan(plan, manifests))
    view = _view(wedding_id, plan.wedding.id, ceremony, steps, now)
    is_wanted = await store.add_wedding(conn, _values(view, principal, plan))
    if is_wanted is None:
        raise await _taken(conn, plan.wedding.id)
    if is_wanted:
        await outbox.publish(conn, wedding_id, 1, now, until=1)
    return view


def _view(
    wedding_id: str, reference: str, ceremony: CeremonyView, steps: tuple[StepView, ...], now: datetime
) -> WeddingView:
    return WeddingView(
        id=wedding_id,
        reference=reference,
        status="planned",
        phase="preparation",
        mode="normal",
        ceremony=ceremony,
        plan_version=1,
        created_at=now,
        updated_at=now,
        ended_at=None,
        steps=steps,
        transactions=(),
    )


def _values(view: WeddingView, principal: Principal, plan: Plan) -> dict[str, Any]:
    rows = [{**step.model_dump(mode="json", include=_STORED), "position": i} for i, step in enumerate(view.steps)]
    return {
        "id": view.id,
        "organization_id": principal.organization_id,
        "reference": view.reference,
        "ceremony_local": view.ceremony.local,
        "zone": view.ceremony.zone,
        "ceremony_at": view.ceremony.instant,
        "now": view.created_at,
        "plan": plan.model_dump_json(),
        "steps": json.dumps(rows),
        "actor": principal.actor,
        "detail": json.dumps({"reference": view.reference, "plan_version": 1, "steps": len(rows)}),
        "event": view.model_dump_json(include={"id", "status", "phase", "mode", "plan_version"}),
        "channel": projection.EVENTS_CHANNEL,
    }


async def _taken(conn: AsyncConnection, reference: str) -> Conflict:
    row = await store.find_wedding(conn, reference)
    where = f" (wedding {row.id})" if row is not None else ""
    return Conflict(f"a wedding with the plan id {reference!r} stands already{where}", reason="reference_taken")


def _step_view(step: PlannedStep, plan: Plan) -> StepView:
    due = times.due_at(step, plan, {})
    return StepView(
        id=step.id,
        service=step.service,
        capability=step.capability,
        action=step.action,
        status="pending" if isinstance(due, times.AtOnce) else "scheduled",
        vendor=None,
        fallback_used=False,
        attempts=0,
        external_id=None,
        due_at=due.at if isinstance(due, times.At) else None,
        started_at=None,
        ended_at=None,
        error=None,
        compensation=None,
        transaction_id=None,
    )
