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
from wedsync.domain.routing.vendor import Manifest
from wedsync.domain.weddings import changes
from wedsync.domain.weddings.changes import Standing
from wedsync.domain.weddings.compile import compile_plan
from wedsync.domain.weddings.messages import Decision, TransactionRequest, wedding_workflow_id
from wedsync.domain.weddings.plan import Plan
from wedsync.domain.weddings.validate import check_plan
from wedsync.store import outbox, projection
from wedsync.store import weddings as store
from wedsync.usecases.weddings.read_transaction import TemporalUrl, TransactionView, transaction_row
from wedsync.usecases.weddings.read_wedding import step_view, wedding_row
from wedsync.usecases.weddings.revise_plan import RevisePlan, revised
from wedsync.usecases.weddings.validate_plan import InvalidPlan


@dataclass(frozen=True)
class Asking:
    """One request's actor, time and transaction, and what its answer needs."""

    principal: Principal
    #: The transaction's id; the same for a repeated request.
    transaction_id: str
    now: datetime
    manifests: Mapping[str, Manifest]
    temporal_url: TemporalUrl
    #: W3C trace context of the request.
    traceparent: str | None = None


class _Book:
    """A locked wedding with all that is on record about it."""

    def __init__(self, row: Any, standing: list[Standing], steps: list[Any]) -> None:
        self.row = row
        self.standing = standing
        self.steps = {step.step_id: step for step in steps}


async def orchestrate(conn: AsyncConnection, wedding: str, asking: Asking) -> TransactionView:
    """Request the wedding's first orchestration; raises NotFound, Conflict."""
    book = await _open(conn, wedding, begins=True)
    changes.check_orchestrate(book.standing)
    changes.check_whole(book.standing)
    due = [step.step_id for step in book.steps.values() if step.status == "pending"]
    return await _record(conn, book, asking, {"kind": "orchestrate"}, due)


async def shift(
    conn: AsyncConnection, wedding: str, asking: Asking, *, ceremony_at: str, zone: str | None
) -> TransactionView:
    """Request another ceremony time; raises NotFound, Conflict, InvalidPlan when the plan is not valid then."""
    book = await _open(conn, wedding, begins=True)
    changes.check_whole(book.standing)
    wanted = RevisePlan(
        organization_id=asking.principal.organization_id,
        wedding_id=book.row.id,
        transaction_id=asking.transaction_id,
        from_version=book.row.plan_version,
        ceremony_at=ceremony_at,
        zone=zone,
        now=asking.now,
    )
    errors = check_plan(revised(await _plan(conn, book), wanted), asking.manifests)
    if errors:
        raise InvalidPlan(errors)
    request = {"kind": "timeline", "ceremony_at": ceremony_at, "zone": zone}
    return await _record(conn, book, asking, request, list(book.steps))


async def undo(
    conn: AsyncConnection, wedding: str, asking: Asking, *, target: str, how: Literal["undo", "cancel"]
) -> TransactionView:
    """Request the undo of a transaction, which may be running; raises NotFound, Conflict."""
    book = await _open(conn, wedding)
    row = await transaction_row(conn, book.row.id, target)
    changes.check_undo(_standing(row), book.standing)
    request = {"kind": "undo", "target": target, "cancel": how == "cancel"}
    return await _record(conn, book, asking, request, row.step_ids)


async def cancel_wedding(conn: AsyncConnection, wedding: str, asking: Asking) -> TransactionView:
    """Request the end of the wedding and the undo of all it did, of what runs too; raises NotFound, Conflict."""
    book = await _open(conn, wedding)
    changes.check_cancel(book.standing)
    return await _record(conn, book, asking, {"kind": "undo", "everything": True, "cancel": True}, list(book.steps))


async def decide(conn: AsyncConnection, wedding: str, asking: Asking, decision: Decision) -> TransactionView:
    """Record a person's decision on a held step; raises NotFound, Conflict, InvalidInput."""
    book = await _open(conn, wedding)
    step = book.steps.get(decision.step_id)
    compiled = compile_plan(await _plan(conn, book), asking.manifests)
    changes.check_decision(decision, step.status if step else None, book.standing, compiled)
    if decision.vendor is not None:
        _check_vendor(decision.vendor, next(s.action for s in compiled if s.id == decision.step_id), asking.manifests)
    request = {"kind": "scheduled", "decision": decision.model_dump()}
    return await _record(conn, book, asking, request, [decision.step_id])


def _check_vendor(vendor: str, action: str, manifests: Mapping[str, Manifest]) -> None:
    manifest = manifests.get(vendor)
    if manifest is None:
        raise InvalidInput(f"there is no vendor {vendor!r}", field="vendor", reason="unknown_vendor")
    if manifest.action(action) is None:
        raise InvalidInput(f"{vendor} can't do {action}", field="vendor", reason="vendor_cannot")


async def _open(conn: AsyncConnection, wedding: str, *, begins: bool = False) -> _Book:
    row = await wedding_row(conn, wedding, lock=True)
    changes.check_open(row.status, begins=begins)
    standing = [_standing(other) for other in await store.read_transactions(conn, row.id)]
    return _Book(row, standing, await store.read_steps(conn, row.id))


def _standing(row: Any) -> Standing:
    decision = row.request.get("decision") or {}
    return Standing(
        id=row.id,
        kind=row.kind,
        status=row.status,
        step_ids=tuple(row.step_ids),
        decides=decision.get("step_id"),
        target=row.request.get("target"),
        everything=bool(row.request.get("everything")),
    )


async def _plan(conn: AsyncConnection, book: _Book) -> Plan:
    body = await projection.read_plan(conn, book.row.id, book.row.plan_version)
    if body is None:
        raise NotFound(f"wedding {book.row.id} has no plan version {book.row.plan_version}")
    return Plan.model_validate_json(json.dumps(body))


async def _record(
    conn: AsyncConnection, book: _Book, asking: Asking, request: dict[str, Any], step_ids: list[str]
) -> TransactionView:
    wedding_id, now = book.row.id, asking.now
    # The row is locked: nobody else numbers a transaction meanwhile.
    said = TransactionRequest(id=asking.transaction_id, seq=book.row.transaction_seq + 1, **request)
    detail = {**said.model_dump(mode="json", exclude_defaults=True), "wedding": wedding_id}
    values = {
        "id": said.id,
        "wedding_id": wedding_id,
        "kind": said.kind,
        "request": said.model_dump_json(),
        "step_ids": json.dumps(step_ids),
        "now": now,
        "traceparent": asking.traceparent,
        "actor": asking.principal.actor,
        "action": "step.decided" if said.decision else f"transaction.{said.kind}",
        "detail": json.dumps(detail),
        "event": json.dumps({"id": said.id, "kind": said.kind, "status": "running"}),
        "channel": projection.EVENTS_CHANNEL,
    }
    wanted = await store.add_transaction(conn, values)
    if wanted is not None:
        await outbox.publish(conn, wedding_id, wanted, now, until=wanted)
    return _requested(book, said, step_ids, asking)


def _requested(book: _Book, said: TransactionRequest, step_ids: list[str], asking: Asking) -> TransactionView:
    covered = set(step_ids)
    return TransactionView(
        id=said.id,
        wedding_id=book.row.id,
        kind=said.kind,
        status="running",
        gaps=(),
        target=said.target,
        superseded=(),
        error=None,
        requested_at=asking.now,
        started_at=None,
        ended_at=None,
        temporal_url=asking.temporal_url(wedding_workflow_id(book.row.id), None),
        steps=tuple(step_view(step) for step in book.steps.values() if step.step_id in covered),
    )
