"""Begin a transaction: claim its row for the workflow's run, and read at once the inputs of the transaction."""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.weddings import agenda
from wedsync.domain.weddings.binding import Preparation
from wedsync.domain.weddings.messages import Message, TransactionKind
from wedsync.domain.weddings.projection import StepWrite, TransactionBegin
from wedsync.domain.weddings.step import StepState, unbegun
from wedsync.domain.weddings.transaction import TransactionResult
from wedsync.usecases.plans.load import LoadedPlan, PlanShelf, loaded_plan
from wedsync.usecases.weddings.prepare_steps import Links, PrepareSteps, StepAtVendor, StepPreparer
from wedsync.usecases.weddings.resolve_agenda import due_instants
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader


class FirstSteps(Message):
    """A first orchestration: every step begins anew, in the round after its earlier ones."""

    rounds: dict[str, int] = {}


class BeginTransaction(Message):
    """A transaction that starts now."""

    header: WeddingHeader
    transaction_id: str
    kind: TransactionKind
    seq: int
    origin_tx: str
    plan_version: int
    wants_plan: bool = False
    #: Set for a first orchestration, which finds and prepares what is due first.
    first: FirstSteps | None = None
    #: The steps to prepare otherwise.
    steps: tuple[StepAtVendor, ...] = ()
    step_ids: tuple[str, ...] = ()


class Begun(Message):
    """Inputs of a transaction, in history once: who claimed it, the plan, instants, specs."""

    #: The run that claimed it first: another one asks vendors before it repeats what that one may have sent.
    held_by: str
    plan: LoadedPlan | None = None
    #: Every step of a first orchestration as it is before it begins.
    first_states: tuple[StepState, ...] = ()
    preparation: Preparation = Preparation()
    #: Its outcome, when a run before a reset has run it already.
    settled: TransactionResult | None = None
    tzdata_version: str = ""


async def begin_transaction(
    writer: HeldWriter, shelf: PlanShelf, links: Links, wanted: BeginTransaction, run_id: str
) -> Begun:
    """Claim the transaction and show it as running; another run's claim stays as it is.

    Raises NotFound for an unknown plan, InvalidInput for times that do not exist, StoreUnavailable.
    """
    header = wanted.header
    plan = await shelf.plan(header.organization_id, header.wedding_id, wanted.plan_version)
    steps = shelf.compiled(header.wedding_id, wanted.plan_version, plan)
    states = _first_states(wanted.first, plan, steps) if wanted.first is not None else ()
    due = agenda.due_steps(steps.values(), {s.step_id: s for s in states}, header.now) if states else []
    first = tuple(StepAtVendor(step_id=step.id, vendor=step.vendors[0]) for step in due)
    begin = TransactionBegin(
        id=wanted.transaction_id,
        kind=wanted.kind,
        request=_request(wanted),
        step_ids=wanted.step_ids or tuple(one.step_id for one in first),
        run_id=run_id,
        continued_from=header.continued_from,
    )
    shown = tuple(StepWrite(state=state, version=header.version) for state in states if state.due_at is not None)
    written = await writer.write(header.write(run_id, begin=begin, steps=shown))
    loaded = loaded_plan(plan, steps)
    preparing = _preparing(wanted, wanted.steps or first)
    return Begun(
        held_by=written.claim.run_id if written.claim is not None else run_id,
        plan=loaded if wanted.wants_plan else None,
        first_states=states,
        preparation=StepPreparer(shelf, links, plan, preparing).prepare(steps),
        settled=written.claim.settled_result if written.claim is not None else None,
        tzdata_version=loaded.tzdata_version,
    )


def _request(wanted: BeginTransaction) -> dict[str, JsonValue]:
    return {"kind": wanted.kind, "seq": wanted.seq, "origin": wanted.origin_tx}


def _first_states(first: FirstSteps, plan: Plan, steps: dict[str, PlannedStep]) -> tuple[StepState, ...]:
    due = due_instants(plan, steps.values(), {})
    before = {i: StepState(step_id=i, status="pending", round=number) for i, number in first.rounds.items()}
    return tuple(unbegun(step.id, step.at, before.get(step.id)).due(due.get(step.id)) for step in steps.values())


def _preparing(wanted: BeginTransaction, steps: tuple[StepAtVendor, ...]) -> PrepareSteps:
    header = wanted.header
    now: datetime = header.now
    return PrepareSteps(
        organization_id=header.organization_id,
        wedding_id=header.wedding_id,
        transaction_id=wanted.transaction_id,
        plan_version=wanted.plan_version,
        steps=steps,
        now=now,
    )
