"""Decide who is called for a step, and with what: recorded in history before the deed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, StoreUnavailable
from wedsync.domain.weddings import references, saga, times
from wedsync.domain.weddings.closing import closing_as
from wedsync.domain.weddings.ledger import Binding, StepState
from wedsync.domain.weddings.materialize import materialize
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.plan import Plan, PlannedStep
from wedsync.domain.weddings.projection import ProjectionWrite, StepWrite
from wedsync.store.projection_writer import ProjectionWriter
from wedsync.usecases.weddings.load_plan import PlanShelf

log = structlog.get_logger(__name__)


class BindStep(Message):
    """A step about to run."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    plan_version: int
    step: PlannedStep
    #: The candidate at hand.
    vendor: str
    round: int
    results: dict[str, dict[str, JsonValue]]
    #: The step as it is shown while it runs, and that write's version.
    state: StepState
    version: int
    now: datetime


#: `links(payload, expires_at)`: a signed URL for what a vendor has no API for.
Links = Callable[[dict[str, JsonValue], datetime], str]


def hand_link(wanted: BindStep, plan: Plan, links: Links) -> str:
    """The link by which a person says that the step was done, or undone, by hand: good while it may be asked for."""
    payload: dict[str, JsonValue] = {
        "organization_id": wanted.organization_id,
        "wedding_id": wanted.wedding_id,
        "step_id": wanted.step.id,
        "transaction_id": wanted.transaction_id,
        "action": wanted.step.action,
        "vendor": wanted.vendor,
    }
    return links(payload, closing_as("ended", times.end_instant(plan), wanted.now).until)


async def bind_step(writer: ProjectionWriter, shelf: PlanShelf, links: Links, wanted: BindStep) -> Binding:
    """Bind the step to one account of the vendor and fill in its inputs; show it as running.

    Raises InvalidInput when the vendor can't do the action or the inputs don't fit it.
    """
    step = wanted.step
    spec = shelf.spec(wanted.vendor, step.action)
    if spec is None:
        raise InvalidInput(f"{wanted.vendor} can't do {step.action}", reason="vendor_cannot")
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.plan_version)
    inputs = materialize(step, wanted.vendor, plan, wanted.results)
    by_hand = spec.by_hand or spec.undo_by_hand or step.compensation.by == "hand"
    is_own = wanted.vendor == step.vendors[0]
    binding = Binding(
        vendor=wanted.vendor,
        account=step.account if is_own or wanted.vendor == "generic" else "default",
        inputs=inputs,
        round=wanted.round,
        reference=saga.reference(wanted.wedding_id, wanted.transaction_id, step.id, wanted.vendor, wanted.round),
        spec=spec,
        endpoints=step.endpoints if is_own else {},
        transaction_id=wanted.transaction_id,
        hand_link=hand_link(wanted, plan, links) if by_hand else "",
        counter_text=references.resolve_text(step.compensation.text, plan) if step.compensation.text else "",
        timeout_seconds=shelf.manifests[wanted.vendor].timeout_seconds,
        idempotency_hours=shelf.manifests[wanted.vendor].idempotency_hours,
        bound_at=wanted.now,
    )
    await _show(writer, wanted)
    return binding


async def _show(writer: ProjectionWriter, wanted: BindStep) -> None:
    write = ProjectionWrite(
        organization_id=wanted.organization_id,
        wedding_id=wanted.wedding_id,
        now=wanted.now,
        steps=(StepWrite(state=wanted.state, version=wanted.version),),
    )
    await show(writer, write)


async def show(writer: ProjectionWriter, write: ProjectionWrite) -> None:
    """Write for watchers. Losing the write loses nothing: the transaction's settling writes it again."""
    try:
        await writer.write(write)
    except StoreUnavailable:
        log.warning("projection.write_lost", wedding_id=write.wedding_id, steps=[s.state.step_id for s in write.steps])
