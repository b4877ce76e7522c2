"""Carry out one call of a step at its vendor and show what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import structlog

from wedsync.domain.errors import StoreUnavailable
from wedsync.domain.routing.vendor import Call, Effect
from wedsync.domain.weddings import degradation
from wedsync.domain.weddings.ledger import StepState
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.projection import Answer, ProjectionWrite, Reference, StepWrite
from wedsync.store.projection_writer import ProjectionWriter
from wedsync.usecases.routing.call_vendor import VendorGateway
from wedsync.usecases.routing.route import Situation

log = structlog.get_logger(__name__)


class CarryOut(Message):
    """One call, and the step as it will be shown when the call ends well."""

    call: Call
    #: send: do it. find_or_send: an earlier attempt may have done it, look first and send only when it is absent.
    #: find: only look. look: the present state of what stands.
    ask: Literal["send", "find_or_send", "find", "look"] = "send"
    #: Shown with the effect's vendor id once it is known; None: nothing is shown.
    state: StepState | None = None
    #: What `state.status` becomes when the vendor answers at once.
    last: bool = False
    version: int = 0
    now: datetime
    #: Another vendor stands ready, and nothing of the step was begun at this one.
    can_go_elsewhere: bool = False
    is_wedding_day: bool = False
    #: A read whose answer is kept for the time when its vendors are down.
    remembers: bool = False


class CarriedOut(Message):
    """What came of it; `effect` is None when a `find` found nothing."""

    effect: Effect | None
    #: The effect was found, not made by this call.
    found: bool = False


async def carry_out(gateway: VendorGateway, writer: ProjectionWriter, wanted: CarryOut) -> CarriedOut:
    """Do it, then show it. Raises the vendor errors of `wedsync.domain.errors`."""
    done = await _ask(gateway, wanted)
    if done.effect is not None:
        await _show(writer, wanted, done.effect)
    return done


async def _ask(gateway: VendorGateway, wanted: CarryOut) -> CarriedOut:
    call = wanted.call
    situation = Situation(can_go_elsewhere=wanted.can_go_elsewhere, is_wedding_day=wanted.is_wedding_day)
    if wanted.ask == "look":
        return CarriedOut(effect=await gateway.look(call, situation), found=True)
    if wanted.ask in ("find", "find_or_send"):
        found = await gateway.find(call, situation)
        if found is not None or wanted.ask == "find":
            return CarriedOut(effect=found, found=True)
    return CarriedOut(effect=await gateway.send(call, situation))


async def _show(writer: ProjectionWriter, wanted: CarryOut, effect: Effect) -> None:
    """Remember the vendor's id, so that its webhooks find their step, and show the step.

    The deed is done whatever happens to this write, and the transaction's settling writes it all again.
    """
    write = _projection(wanted, effect)
    if not (write.references or write.steps or write.answer):
        return
    try:
        await writer.write(write)
    except StoreUnavailable:
        log.warning("projection.write_lost", wedding_id=write.wedding_id, step_id=wanted.call.step_id)


def _projection(wanted: CarryOut, effect: Effect) -> ProjectionWrite:
    call, state = wanted.call, wanted.state
    return ProjectionWrite(
        organization_id=call.organization_id,
        wedding_id=call.wedding_id,
        now=wanted.now,
        references=_references(call, effect),
        steps=() if state is None else (StepWrite(state=_shown(state, effect, wanted), version=wanted.version),),
        answer=_answer(wanted, effect) if wanted.remembers and effect.state == "done" else None,
    )


def _references(call: Call, effect: Effect) -> tuple[Reference, ...]:
    found = {effect.external_id or "", str(call.facts.get("external_id") or "")} - {""}
    return tuple(
        Reference(
            vendor=call.vendor,
            account=call.account,
            object_id=object_id,
            step_id=call.step_id,
            transaction_id=call.transaction_id,
        )
        for object_id in sorted(found)
    )


def _answer(wanted: CarryOut, effect: Effect) -> Answer:
    call = wanted.call
    return Answer(question=degradation.question(call.action, call.inputs), vendor=call.vendor, facts=effect.facts)


def _shown(state: StepState, effect: Effect, wanted: CarryOut) -> StepState:
    changes: dict[str, object] = {"external_id": effect.external_id or state.external_id}
    if wanted.last:
        changes["status"] = "waiting" if effect.state == "waiting" else "succeeded"
        changes["ended_at"] = None if effect.state == "waiting" else wanted.now
    return state.model_copy(update=changes)
