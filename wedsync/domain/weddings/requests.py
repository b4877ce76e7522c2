"""Decide on a request to a wedding: why it is refused, or which tasks and undos it leads to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from wedsync.domain.plans import references, topology
from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings import agenda, saga
from wedsync.domain.weddings.ledger import RECHECK_AFTER, LedgerEntry, Recheck
from wedsync.domain.weddings.messages import Decision, TransactionRequest
from wedsync.domain.weddings.step import VENDOR_BACK, StepError, StepState
from wedsync.domain.weddings.task import StepTask
from wedsync.domain.weddings.wedding_state import OVER, TransactionCard, WeddingState

#: Capabilities whose effects hold a time of the wedding.
TIMED_CAPABILITIES = frozenset({"calendar", "booking", "video"})
#: Topics of events that report how something went; a step waits for them only if it names them.
_REPORTS = ("message", "calendar")
_OVER = ("rolled_back", "cancelled")


def refusal(state: WeddingState, request: TransactionRequest) -> StepError | None:
    """Say why the wedding can't take the request now, or None."""
    if state.status in OVER:
        return StepError(code="wedding_over", detail=f"the wedding is {state.status}")
    if state.closing is not None and request.kind in ("orchestrate", "timeline"):
        return StepError(code="wedding_over", detail="the wedding is closing: nothing new is begun")
    if request.decision is not None:
        return _decision_refusal(state, request.decision)
    if request.kind == "orchestrate":
        return _orchestrate_refusal(state)
    if request.kind == "timeline":
        return _timeline_refusal(state)
    if request.kind == "undo" and request.target:
        card = state.cards.get(request.target)
        if card is not None and card.status in _OVER:
            return StepError(code="already_undone", detail=f"transaction {request.target} is {card.status}")
    return None


def _orchestrate_refusal(state: WeddingState) -> StepError | None:
    """Refuse a second orchestration: one stands at a time, also one whose undo needs a person."""
    cards = (card.id for card in state.cards.values() if card.kind == "orchestrate" and card.status not in _OVER)
    committed = state.origin or next(cards, "")
    if not committed:
        return None
    return StepError(code="already_orchestrated", detail=f"transaction {committed} stands; undo it first")


def _decision_refusal(state: WeddingState, decision: Decision) -> StepError | None:
    step = state.states.get(decision.step_id)
    if step is None or step.status != "held":
        return StepError(code="not_held", detail=f"step {decision.step_id} does not wait for a decision")
    if decision.choice == "use":
        planned = planned_step(state, decision.step_id)
        if not decision.vendor:
            return StepError(code="vendor_missing", detail="`use` needs a vendor")
        if step.unknown:
            return StepError(
                code="outcome_unknown",
                detail=f"{step.vendor} may hold an effect of {planned.id}: retry it, skip it, or roll back",
            )
    if decision.choice == "skip":
        return _skip_refusal(state, decision.step_id)
    if decision.choice == "retry" and is_lost(state, decision.step_id):
        detail = f"nobody knows what a vendor holds of {decision.step_id}: look there, then skip it or roll back"
        return StepError(code="outcome_unknown", detail=detail)
    return None


def is_lost(state: WeddingState, step_id: str) -> bool:
    """Tell whether a vendor may hold an effect of the step that the ledger does not know: its transaction got lost."""
    return state.states[step_id].unknown and step_id not in state.entries


def _skip_refusal(state: WeddingState, step_id: str) -> StepError | None:
    skipped = planned_step(state, step_id)
    for step in steps(state):
        for source, result in sorted(references.names(step.inputs)):
            if source == step_id and result not in skipped.default_results:
                detail = f"step {step.id} needs its {result}; give default_results in the plan, or retry"
                return StepError(code="result_needed", detail=detail)
    return None


def _timeline_refusal(state: WeddingState) -> StepError | None:
    open_steps = sorted(s.step_id for s in state.states.values() if s.status in ("waiting", "held"))
    if open_steps:
        detail = f"decide or await these steps first: {', '.join(open_steps)}"
        return StepError(code="steps_open", detail=detail)
    return None


def steps(state: WeddingState) -> tuple[PlannedStep, ...]:
    """Return the compiled steps."""
    return state.plan.steps if state.plan else ()


def planned_step(state: WeddingState, step_id: str) -> PlannedStep:
    """Return the compiled step `step_id`."""
    return next(step for step in steps(state) if step.id == step_id)


def first_tasks(state: WeddingState, now: datetime) -> tuple[StepTask, ...]:
    """Return the tasks due when the wedding is first orchestrated, or whenever nothing else starts them."""
    return tuple(_task(state, step) for step in agenda.due_steps(steps(state), state.states, now))


def _task(state: WeddingState, step: PlannedStep) -> StepTask:
    held = state.states[step.id]
    return StepTask(kind="do", step=step, round=held.round + 1, state=held)


def _begins_steps(state: WeddingState) -> bool:
    """Tell whether due steps of the agenda are begun."""
    return bool(state.origin) and state.closing is None


def scheduled_tasks(state: WeddingState, now: datetime) -> tuple[StepTask, ...]:
    """Return the tasks that are due on the agenda now: answers that came, deadlines that passed, steps that are due."""
    tasks: dict[str, StepTask] = {}
    for step_id, event in answers(state):
        tasks[step_id] = StepTask(
            kind="answer",
            step=planned_step(state, step_id),
            entry=state.entries.get(step_id),
            state=state.states[step_id],
            event_type=event.type,
            event_facts=event.facts,
        )
    for late in agenda.overdue(state.states.values(), "waiting", now):
        if late.waits_for == VENDOR_BACK:
            tasks[late.step_id] = _task(state, planned_step(state, late.step_id))
        elif late.step_id not in tasks:
            tasks[late.step_id] = StepTask(
                kind="late",
                step=planned_step(state, late.step_id),
                entry=state.entries.get(late.step_id),
                state=late,
            )
    if _begins_steps(state):
        for step in agenda.due_steps(steps(state), state.states, now, settling=tasks):
            tasks[step.id] = _task(state, step)
    return tuple(tasks.values())


def stands(state: WeddingState, step_id: str) -> bool:
    """Tell whether other steps may build on this one: not if it was undone, nor if a person is to undo it."""
    step, entry = state.states[step_id], state.entries.get(step_id)
    if step.status != "succeeded" or step.compensation is None:
        return step.status in saga.SATISFYING
    return entry is not None and entry.state != "parked"


def on_active_entries(state: WeddingState, tasks: Iterable[StepTask]) -> tuple[StepTask, ...]:
    """Return the tasks; those whose step has an effect already drop the needs that were undone since."""
    return tuple(
        task if task.kind == "do" and task.entry is None else task.on(_grounded(state, task)) for task in tasks
    )


def _grounded(state: WeddingState, task: StepTask) -> PlannedStep:
    kept = tuple(need for need in task.step.needs if stands(state, need) or state.states[need].status != "succeeded")
    return task.step.needing(kept)


def answers(state: WeddingState) -> Iterable[tuple[str, VendorEvent]]:
    """Yield the kept events that end a waiting step's wait: at most one a step, a refusal only if nothing better is."""
    found: dict[str, VendorEvent] = {}
    for event in state.events:
        for step_id, step in state.states.items():
            if step.status == "waiting" and event_fits(event, step, state.entries.get(step_id)):
                known = found.get(step_id)
                if known is None or known.type != step.waits_for:
                    found[step_id] = event
    return found.items()


def may_matter(state: WeddingState, event: VendorEvent) -> bool:
    """Tell whether a step may still wait for the event, now or later: a receipt for a finished step is not kept."""
    step = state.states.get(event.step_id) if event.step_id else None
    if step is None or step.status not in saga.FINAL:
        return True
    return step.compensation is not None and step.compensation.status == "needs_attention"


def shed(events: tuple[VendorEvent, ...]) -> tuple[VendorEvent, ...]:
    """Drop one of the `events`: the oldest report that names no step, else the oldest of all.

    Reports are of messages and calendars; a step may yet wait for a payment's or a business's answer.
    """
    reports = (i for i, e in enumerate(events) if e.step_id is None and e.type.partition(".")[0] in _REPORTS)
    oldest = next(reports, 0)
    return events[:oldest] + events[oldest + 1 :]


def event_fits(event: VendorEvent, step: StepState, entry: LedgerEntry | None) -> bool:
    """Tell whether the event is about the step's effect: about that very object, not an earlier one."""
    if event.type != step.waits_for and event.type not in step.refused_by:
        return False
    if event.object_id is not None and entry is not None and entry.external_id:
        return event.object_id in _ids(entry)
    return event.step_id == step.step_id


def _ids(entry: LedgerEntry) -> set[str]:
    """Return the ids by which the vendor may name the object; a message of several parts has an id for each."""
    facts = [fact for value in entry.facts.values() for fact in (value if isinstance(value, list) else [value])]
    return {value for value in (entry.external_id, *facts) if isinstance(value, str)}


#: A person's answers through a signed link, for a vendor without an API: done, unavailable, undone.
MANUAL_CONFIRMED, MANUAL_DECLINED, MANUAL_UNDONE = "hand.confirmed", "hand.declined", "hand.undone"


def manually_undone(state: WeddingState) -> tuple[str, ...]:
    """Name the steps whose parked undo a person reports as done."""
    answered = {event.step_id for event in state.events if event.type == MANUAL_UNDONE}
    return tuple(
        step_id
        for step_id, step in state.states.items()
        if step_id in answered and step.compensation is not None and step.compensation.status == "needs_attention"
    )


def decision_tasks(state: WeddingState, decision: Decision, now: datetime) -> tuple[StepTask, ...]:
    """Return the tasks of a `retry`, `use` or `skip` of a held step (the skipped step is over already)."""
    step = planned_step(state, decision.step_id)
    held = state.states[decision.step_id]
    tasks: list[StepTask] = []
    if decision.choice == "retry" and held.unknown:
        tasks.append(_retried(step, held, state.entries[decision.step_id]))
    elif decision.choice == "retry":
        tasks.append(StepTask(kind="do", step=step, round=held.round + 1, state=held))
    elif decision.choice == "use" and decision.vendor:
        tasks.append(StepTask(kind="do", step=step, round=held.round + 1, vendors=(decision.vendor,), state=held))
    settling = [task.step.id for task in tasks]
    due = agenda.due_steps(steps(state), state.states, now, settling=settling) if _begins_steps(state) else []
    return (*tasks, *(_task(state, other) for other in due))


def _retried(step: PlannedStep, held: StepState, entry: LedgerEntry) -> StepTask:
    """Retry a step that may have an effect: probe it if it waited for its vendor's confirmation, else go on with it."""
    spec, vendor = entry.binding.spec, entry.binding.vendor
    if spec.manual:
        entry = entry.refused_by_hand()
    elif entry.unknown_operation is None and any(o.waits_for and o.name in entry.done[-1:] for o in spec.operations):
        return StepTask(kind="late", step=step, entry=entry, state=held)
    return StepTask(kind="do", step=step, round=held.round, vendors=(vendor,), entry=entry, state=held)


def change_tasks(state: WeddingState) -> tuple[StepTask, ...]:
    """Return tasks that move every effect with a time to the plan's new times."""
    return tuple(
        StepTask(kind="change", step=step, entry=state.entries[step.id], state=state.states[step.id])
        for step in steps(state)
        if step.capability in TIMED_CAPABILITIES
        and step.id in state.entries
        and state.entries[step.id].state == "standing"
        and state.states[step.id].status == "succeeded"
    )


def to_undo(state: WeddingState, target: str | None) -> tuple[LedgerEntry, ...]:
    """Return the effects that undoing `target` (None: everything) touches: those still set by it."""
    return tuple(
        entry
        for entry in state.entries.values()
        if entry.state != "undone" and saga.may_have_happened(entry) and (target is None or entry.set_by(target))
    )


def left_behind(state: WeddingState, target: str | None, now: datetime) -> tuple[Recheck, ...]:
    """Return the rechecks by which an undo of `target` (None: everything) retries what earlier vendors may still hold.

    Steps that another transaction still works on are left out: an undo ends the steps that it covers.
    """
    spoken_of = {step.step_id for step in undo_states(state, target, to_undo(state, target))}
    left = (
        entry
        for entry in state.leftovers
        if (target is None or entry.set_by(target))
        and (entry.step_id in spoken_of or state.states[entry.step_id].status in saga.FINAL)
    )
    return tuple(Recheck(entry=entry, due_at=now, look=len(RECHECK_AFTER) + 1) for entry in left)


def superseded(target: str | None, entries: Iterable[LedgerEntry]) -> tuple[str, ...]:
    """List `step.field` of each field that another transaction than the effect's own has set last, sorted.

    Undoing everything (None) supersedes nothing: it includes the later changes.
    """
    if target is None:
        return ()
    return tuple(
        sorted(
            f"{entry.step_id}.{name}"
            for entry in entries
            for name, field in entry.fields.items()
            if "effect" in entry.fields and field.set_by_tx != entry.fields["effect"].set_by_tx
        )
    )


def move_back_refusal(state: WeddingState, card: TransactionCard) -> StepError | None:
    """Say why a change of the ceremony's time can't be undone, or None: only the one in effect can."""
    if state.ceremony_set_by == card.id:
        return None
    if card.status != "completed":
        detail = "the change was put back; what could not be put back needs a person's attention"
        return StepError(code="not_undoable", detail=detail)
    later = state.ceremony_set_by or "a change that was undone since"
    return StepError(code="superseded", detail=f"the time was set anew by {later}")


def origin_of(state: WeddingState, step_id: str) -> str:
    """Return the transaction that put the step on the agenda."""
    entry = state.entries.get(step_id)
    return entry.origin_tx if entry is not None and entry.origin_tx else state.origin


def rollback_target(state: WeddingState, step_id: str) -> str:
    """Return what the rollback of a held step undoes: the orchestration if the step was due with it.

    For a step that came later, at a time of its own or after one with such a time, only the effects of the transaction
    that held it are undone: what had settled before stays.
    """
    whole = origin_of(state, step_id)
    timed = (step.id for step in steps(state) if step.at is not None)
    came_later = step_id in topology.downstream(timed, {step.id: step.needs for step in steps(state)})
    return (state.states[step_id].transaction_id or whole) if came_later else whole


def undo_states(state: WeddingState, target: str | None, entries: Iterable[LedgerEntry]) -> tuple[StepState, ...]:
    """Return the steps that an undo covers: those with effects, and the unfinished ones, of the target or of all.

    It covers lost ones, too, and those that an earlier undo of the target left to a person.
    """
    touched = {entry.step_id for entry in entries}
    whole = target is None or target == state.origin
    card = state.cards.get(target) if target else None
    again = target is None or (card is not None and card.status == "needs_attention")

    def is_meant(step: StepState) -> bool:
        if step.status not in saga.FINAL:
            return whole or step.transaction_id == target
        return again and is_lost(state, step.step_id) and saga.needs_attention(step.compensation)

    every = (state.states[step.id] for step in steps(state))
    return tuple(step for step in every if step.step_id in touched or is_meant(step))
