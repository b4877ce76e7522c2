"""Record a requested change of a wedding; it is dispatched to the wedding's workflow afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import InvalidInput, NotFound
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.plan import Plan
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.weddings import refusals
from wedsync.domain.weddings.messages import Decision, TransactionRequest, wedding_workflow_id
from wedsync.domain.weddings.refusals import ActiveTransaction
from wedsync.store.outbox import events as outbox
from wedsync.store.weddings import projection
from wedsync.store.weddings import queries as store
from wedsync.usecases.plans.validate import InvalidPlan
from wedsync.usecases.weddings.read_transaction import TemporalUrl, TransactionView, transaction_row
from wedsync.usecases.weddings.read_wedding import step_view, wedding_row
from wedsync.usecases.weddings.revise_plan import RevisePlan, revised


@dataclass(frozen=True)
class RequestedBy:
    """One request's actor, time and transaction, and what its answer needs."""

    principal: Principal
    #: The transaction's id; the same for a repeated request.
    transaction_id: str
    now: datetime
    manifests: Mapping[str, Manifest]
    temporal_url: TemporalUrl
    #: W3C trace context of the request.
    traceparent: str | None = None


class _LockedWedding:
    """A locked wedding with all that is on record about it."""

    def __init__(self, row: Any, active: list[ActiveTransaction], steps: list[Any]) -> None:
        self.row = row
        self.active = active
        self.steps = {step.step_id: step for step in steps}


async def orchestrate(conn: AsyncConnection, wedding: str, requested_by: RequestedBy) -> TransactionView:
    """Request the wedding's first orchestration; raises NotFound, Conflict."""
    locked = await _open(conn, wedding, begins=True)
    refusals.check_orchestrate(locked.active)
    refusals.check_whole(locked.active)
    due = [step.step_id for step in locked.steps.values() if step.status == "pending"]
    return await _record(conn, locked, requested_by, {"kind": "orchestrate"}, due)


async def shift(
    conn: AsyncConnection, wedding: str, requested_by: RequestedBy, *, ceremony_at: str, zone: str | None
) -> TransactionView:
    """Request another ceremony time; raises NotFound, Conflict, InvalidPlan when the plan is not valid then."""
    locked = await _open(conn, wedding, begins=True)
    refusals.check_whole(locked.active)
    wanted = RevisePlan(
        organization_id=requested_by.principal.organization_id,
        wedding_id=locked.row.id,
        transaction_id=requested_by.transaction_id,
        from_version=locked.row.plan_version,
        ceremony_at=ceremony_at,
        zone=zone,
        now=requested_by.now,
    )
    errors = check_plan(revised(await _plan(conn, locked), wanted), requested_by.manifests)
    if errors:
        raise InvalidPlan(errors)
    request = {"kind": "timeline", "ceremony_at": ceremony_at, "zone": zone}
    return await _record(conn, locked, requested_by, request, list(locked.steps))


async def undo(
    conn: AsyncConnection, wedding: str, requested_by: RequestedBy, *, target: str, how: Literal["undo", "cancel"]
) -> TransactionView:
    """Request the undo of a transaction, which may be running; raises NotFound, Conflict."""
    locked = await _open(conn, wedding)
    row = await transaction_row(conn, locked.row.id, target)
    refusals.check_undo(_active(row), locked.active)
    request = {"kind": "undo", "target": target, "cancel": how == "cancel"}
    return await _record(conn, locked, requested_by, request, row.step_ids)


async def cancel_wedding(conn: AsyncConnection, wedding: str, requested_by: RequestedBy) -> TransactionView:
    """Request the end of the wedding and the undo of all it did, of what runs too; raises NotFound, Conflict."""
    locked = await _open(conn, wedding)
    refusals.check_cancel(locked.active)
    return await _record(
        conn, locked, requested_by, {"kind": "undo", "everything": True, "cancel": True}, list(locked.steps)
    )


async def decide(conn: AsyncConnection, wedding: str, requested_by: RequestedBy, decision: Decision) -> TransactionView:
    """Record a person's decision on a held step; raises NotFound, Conflict, InvalidInput."""
    locked = await _open(conn, wedding)
    step = locked.steps.get(decision.step_id)
    compiled = compile_plan(await _plan(conn, locked), requested_by.manifests)
    refusals.check_decision(decision, step.status if step else None, locked.active, compiled)
    if decision.vendor is not None:
        _check_vendor(
            decision.vendor, next(s.action for s in compiled if s.id == decision.step_id), requested_by.manifests
        )
    request = {"kind": "scheduled", "decision": decision.model_dump()}
    return await _record(conn, locked, requested_by, request, [decision.step_id])


def _check_vendor(vendor: str, action: str, manifests: Mapping[str, Manifest]) -> None:
    manifest = manifests.get(vendor)
    if manifest is None:
        raise InvalidInput(f"there is no vendor {vendor!r}", field="vendor", reason="unknown_vendor")
    if manifest.action(action) is None:
        raise InvalidInput(f"{vendor} can't do {action}", field="vendor", reason="vendor_cannot")


async def _open(conn: AsyncConnection, wedding: str, *, begins: bool = False) -> _LockedWedding:
    row = await wedding_row(conn, wedding, lock=True)
    refusals.check_open(row.status, begins=begins)
    active = [_active(other) for other in await store.read_transactions(conn, row.id)]
    return _LockedWedding(row, active, await store.read_steps(conn, row.id))


def _active(row: Any) -> ActiveTransaction:
    decision = row.request.get("decision") or {}
    return ActiveTransaction(
        id=row.id,
        kind=row.kind,
        status=row.status,
        step_ids=tuple(row.step_ids),
        decides=decision.get("step_id"),
        target=row.request.get("target"),
        everything=bool(row.request.get("everything")),
    )


async def _plan(conn: AsyncConnection, locked: _LockedWedding) -> Plan:
    body = await projection.read_plan(conn, locked.row.id, locked.row.plan_version)
    if body is None:
        raise NotFound(f"wedding {locked.row.id} has no plan version {locked.row.plan_version}")
    return Plan.model_validate_json(json.dumps(body))


async def _record(
    conn: AsyncConnection,
    locked: _LockedWedding,
    requested_by: RequestedBy,
    request: dict[str, Any],
    step_ids: list[str],
) -> TransactionView:
    wedding_id, now = locked.row.id, requested_by.now
    # The row is locked: nobody else numbers a transaction meanwhile.
    recorded = TransactionRequest(id=requested_by.transaction_id, seq=locked.row.transaction_seq + 1, **request)
    detail = {**recorded.model_dump(mode="json", exclude_defaults=True), "wedding": wedding_id}
    values = {
        "id": recorded.id,
        "wedding_id": wedding_id,
        "kind": recorded.kind,
        "request": recorded.model_dump_json(),
        "step_ids": json.dumps(step_ids),
        "now": now,
        "traceparent": requested_by.traceparent,
        "actor": requested_by.principal.actor,
        "action": "step.decided" if recorded.decision else f"transaction.{recorded.kind}",
        "detail": json.dumps(detail),
        "event": json.dumps({"id": recorded.id, "kind": recorded.kind, "status": "running"}),
        "channel": projection.EVENTS_CHANNEL,
    }
    wanted = await store.add_transaction(conn, values)
    if wanted is not None:
        await outbox.publish(conn, wedding_id, wanted, now, until=wanted)
    return _requested(locked, recorded, step_ids, requested_by)


def _requested(
    locked: _LockedWedding, recorded: TransactionRequest, step_ids: list[str], requested_by: RequestedBy
) -> TransactionView:
    covered = set(step_ids)
    return TransactionView(
        id=recorded.id,
        wedding_id=locked.row.id,
        kind=recorded.kind,
        status="running",
        gaps=(),
        target=recorded.target,
        superseded=(),
        error=None,
        requested_at=requested_by.now,
        started_at=None,
        ended_at=None,
        temporal_url=requested_by.temporal_url(wedding_workflow_id(locked.row.id), None),
        steps=tuple(step_view(step) for step in locked.steps.values() if step.step_id in covered),
    )
