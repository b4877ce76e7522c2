"""Make one call of a step at its vendor and show its result."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Literal

import structlog

from wedsync.domain.errors import OutcomeUnknown, StoreUnavailable, TemporalUnreachable
from wedsync.domain.plans import when_down
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.projection import Answer, ProjectionWrite, Reference, StepWrite
from wedsync.domain.weddings.step import StepState
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.usecases.weddings.write_projection import HeldWriter

log = structlog.get_logger(__name__)

#: A call that takes longer shows its step as running: most take less, and nobody sees those run.
SHOWN_AFTER_SECONDS = 0.15


class VendorCall(Message):
    """One call, and the step as it will be shown when the call ends well."""

    call: Call
    #: send: do it. find_or_send: an earlier attempt may have done it, so find it first and send only when it is absent.
    #: find: only find it. look: read the present state of the effect.
    intent: Literal["send", "find_or_send", "find", "look"] = "send"
    #: Shown with the effect's vendor id once it is known, and as running before; None: nothing is shown.
    state: StepState | None = None
    #: The new `state.status` when the vendor answers at once.
    last: bool = False
    version: int = 0
    now: datetime
    #: Another vendor is ready, and nothing of the step was begun at this one.
    can_go_elsewhere: bool = False
    is_wedding_day: bool = False
    #: A read whose answer is kept for the time when its vendors are down.
    remembers: bool = False
    #: The workflow run that claimed the transaction: another one sends nothing that this one may have sent.
    held_by: str = ""


class CallOutcome(Message):
    """One call's result; `effect` is None when a `find` found nothing."""

    effect: Effect | None
    #: The effect was found, not made by this call.
    found: bool = False


class StepCaller:
    """Calls vendors for steps, and shows each call's progress."""

    def __init__(
        self, gateway: VendorGateway, writer: HeldWriter, shown_after_seconds: float = SHOWN_AFTER_SECONDS
    ) -> None:
        self._gateway = gateway
        self._writer = writer
        self._shown_after_seconds = shown_after_seconds

    async def call(self, wanted: VendorCall, run_id: str) -> CallOutcome:
        """Make the call, then show it; while it takes long, show the step as running.

        Raises the vendor errors of `wedsync.domain.errors`; OutcomeUnknown, with nothing sent, where another run of
        the wedding's workflow may have sent it.
        """
        if wanted.held_by not in ("", run_id):
            detail = "another run of the wedding's workflow may have done this: it is looked up first"
            raise OutcomeUnknown(detail, vendor=wanted.call.vendor, reason="another_run")
        showing = asyncio.create_task(self._show_running(wanted, run_id))
        try:
            outcome = await self._request(wanted)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
        if outcome.effect is not None:
            await self._show(self._projection(wanted, outcome.effect, run_id))
        return outcome

    async def _request(self, wanted: VendorCall) -> CallOutcome:
        call = wanted.call
        situation = Situation(can_go_elsewhere=wanted.can_go_elsewhere, is_wedding_day=wanted.is_wedding_day)
        if wanted.intent == "look":
            return CallOutcome(effect=await self._gateway.inspect(call, situation), found=True)
        if wanted.intent in ("find", "find_or_send"):
            found = await self._gateway.find(call, situation)
            if found is not None or wanted.intent == "find":
                return CallOutcome(effect=found, found=True)
        return CallOutcome(effect=await self._gateway.send(call, situation))

    async def _show_running(self, wanted: VendorCall, run_id: str) -> None:
        if wanted.state is None or self._shown_after_seconds <= 0:
            return
        await asyncio.sleep(self._shown_after_seconds)
        # A version below that of the call's own end, and above all earlier ones.
        running = StepWrite(state=wanted.state, version=wanted.version - 1)
        await self._show(_write(wanted, run_id, steps=(running,)))

    async def _show(self, write: ProjectionWrite) -> None:
        """Show the step as running; a lost write loses nothing: the transaction's end writes it all again."""
        if not (write.references or write.steps or write.answer):
            return
        try:
            await self._writer.write(write)
        except (StoreUnavailable, TemporalUnreachable):
            log.warning("projection.write_lost", wedding_id=write.wedding_id)

    def _projection(self, wanted: VendorCall, effect: Effect, run_id: str) -> ProjectionWrite:
        state = wanted.state
        shown = () if state is None else (StepWrite(state=_shown(state, effect, wanted), version=wanted.version),)
        return _write(
            wanted,
            run_id,
            references=_references(wanted.call, effect),
            steps=shown,
            answer=_answer(wanted, effect) if wanted.remembers and effect.state == "done" else None,
        )


def _write(wanted: VendorCall, run_id: str, **rows: object) -> ProjectionWrite:
    call = wanted.call
    return ProjectionWrite.model_validate(
        {
            "organization_id": call.organization_id,
            "wedding_id": call.wedding_id,
            "now": wanted.now,
            "run_id": run_id,
            "takes_from": wanted.held_by if wanted.held_by != run_id else "",
            **rows,
        }
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


def _answer(wanted: VendorCall, effect: Effect) -> Answer:
    call = wanted.call
    return Answer(question=when_down.question(call.action, call.inputs), vendor=call.vendor, facts=effect.facts)


def _shown(state: StepState, effect: Effect, wanted: VendorCall) -> StepState:
    shown = state.holding(effect.external_id or state.external_id)
    return shown.answered(waits=effect.state == "waiting", now=wanted.now) if wanted.last else shown
