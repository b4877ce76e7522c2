"""How a wedding takes in what a transaction came to. Pure functions on its carried state."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.weddings import TransactionNews
    from wedsync.domain.weddings import agenda, requests, saga
    from wedsync.domain.weddings.ledger import (
        CompensationResult,
        LedgerEntry,
        Recheck,
        StepError,
        StepState,
        TransactionInput,
        TransactionResult,
    )
    from wedsync.domain.weddings.messages import TransactionStatus
    from wedsync.domain.weddings.plan import PlannedStep
    from wedsync.domain.weddings.wedding_state import KEPT_CARDS, TransactionCard, WeddingState

_TERMINAL = ("completed", "rolled_back", "cancelled", "needs_attention")


class Absorbed(NamedTuple):
    """The new state, which older transactions moved on, and which steps did that the transaction did not speak of."""

    state: WeddingState
    news: tuple[TransactionNews, ...]
    steps: tuple[StepState, ...] = ()


def absorb(state: WeddingState, given: TransactionInput, result: TransactionResult) -> Absorbed:
    """Take in a settled transaction: steps, ledger, rechecks, the origin's folded status."""
    states = {**state.states, **{s.step_id: s for s in result.steps if s.step_id in state.states}}
    entries, left = dict(state.entries), list(state.leftovers)
    for entry in result.entries:
        if (known := entries.get(entry.step_id)) and known.state == "parked" and known.binding != entry.binding:
            left.append(known)
        if entry.state == "undone" or not (saga.may_have_happened(entry) or entry.state == "waiting"):
            entries.pop(entry.step_id, None)
        else:
            entries[entry.step_id] = entry
    left = [entry for entry in left if not any(entry.binding == look.entry.binding for look in given.rechecks)]
    for entry in _parked_looks(states, given, result):
        if entries.setdefault(entry.step_id, entry).binding != entry.binding:
            left.append(entry)
    looked = {(r.entry.step_id, r.look) for r in given.rechecks}
    rechecks = (*(r for r in state.rechecks if (r.entry.step_id, r.look) not in looked), *result.rechecks)
    card = TransactionCard(
        id=result.id, kind=result.kind, status=result.status, origin=given.origin_tx, gaps=result.gaps
    )
    changed = state.model_copy(
        update={
            "states": states,
            "entries": entries,
            "leftovers": tuple(left),
            "rechecks": rechecks,
            "cards": {**state.cards, result.id: card},
            "events": _still_open(state, given),
        }
    )
    if given.kind == "orchestrate" and (result.rolled_back or result.status in ("rolled_back", "cancelled")):
        changed = _without_agenda(changed)
    changed = changed.model_copy(
        update={"events": tuple(event for event in changed.events if requests.may_matter(changed, event))}
    )
    folded, news = _fold(changed, result)
    # Results of earlier versions don't say so: their weddings replay without this.
    moved = tuple(s for i, s in folded.states.items() if s != states[i]) if result.rolled_back else ()
    return Absorbed(_pruned(folded), news, moved)


def _parked_looks(
    states: dict[str, StepState], given: TransactionInput, result: TransactionResult
) -> list[LedgerEntry]:
    """The effects whose last look ended in a park: they stay on the ledger, so that an undo may try them again."""
    again = [recheck.entry.binding for recheck in result.rechecks]
    found = []
    for entry in (recheck.entry for recheck in given.rechecks if recheck.entry.binding not in again):
        compensation = states[entry.step_id].compensation
        if compensation is not None and compensation.status == "needs_attention":
            found.append(entry.model_copy(update={"state": "parked"}))
    return found


def _still_open(state: WeddingState, given: TransactionInput) -> tuple[object, ...]:
    """The kept events without those that this transaction brought."""
    brought = {step_id for step_id, _ in requests.answers(state)} & {
        deed.step.id for deed in given.deeds if deed.kind == "answer"
    }
    return tuple(
        event
        for event in state.events
        if not any(requests.event_fits(event, state.states[i], state.entries.get(i)) for i in brought)
    )


def _without_agenda(state: WeddingState) -> WeddingState:
    """Nothing of an orchestration that was undone is due any more, though some of it may still stand."""
    states = {
        step_id: s.model_copy(update={"status": "skipped", "due_at": None}) if s.status in agenda.UNBEGUN else s
        for step_id, s in state.states.items()
    }
    return state.model_copy(update={"states": states, "origin": ""})


def _fold(state: WeddingState, result: TransactionResult) -> tuple[WeddingState, tuple[TransactionNews, ...]]:
    """The status of those before, now that a scheduled transaction answered some of what they waited for."""
    if result.kind != "scheduled":
        return state, ()
    cards, news = dict(state.cards), []
    for card in state.cards.values():
        if card.id == result.id or card.status not in ("waiting", "held"):
            continue
        if card.id != state.origin and card.kind != "scheduled":
            continue
        steps = [s for s in state.states.values() if s.status not in agenda.UNBEGUN and _is_of(s, card, state.origin)]
        status = agenda.folded_status(steps)
        if status != card.status:
            gaps = agenda.folded_gaps(steps)
            cards[card.id] = card.model_copy(update={"status": status, "gaps": gaps})
            news.append(TransactionNews(transaction_id=card.id, status=status, gaps=gaps))
    return state.model_copy(update={"cards": cards}), tuple(news)


def _is_of(step: StepState, card: TransactionCard, origin: str) -> bool:
    """The origin answers for every step, a scheduled transaction for those that nobody has worked on since."""
    return card.id == origin or step.transaction_id == card.id


def _pruned(state: WeddingState) -> WeddingState:
    """Old finished transactions are rows in Postgres; the wedding forgets them."""
    standing = (state.origin, state.ceremony_set_by)
    old = [c.id for c in state.cards.values() if c.status in _TERMINAL and c.id not in standing][:-KEPT_CARDS]
    if not old:
        return state
    return state.model_copy(update={"cards": {i: c for i, c in state.cards.items() if i not in old}})


def skipped(state: WeddingState, step_id: str, tx: str, now: datetime) -> WeddingState:
    """A held step that a person skips. What its vendor may hold all the same is looked for later."""
    step = requests.planned_step(state, step_id)
    held = state.states[step_id]
    entry = state.entries.get(step_id)
    rechecks = state.rechecks
    if entry is not None and saga.may_have_happened(entry):
        rechecks = (*rechecks, Recheck(entry=entry, due_at=now + saga.RECHECK_AFTER[0], look=1))
    change = {
        "status": "skipped",
        "transaction_id": tx,
        "results": step.default_results,
        "ended_at": now,
        "deadline_at": None,
        "unknown": False,
    }
    states = {**state.states, step_id: held.model_copy(update=change)}
    entries = {i: e for i, e in state.entries.items() if i != step_id}
    return state.model_copy(update={"states": states, "entries": entries, "rechecks": rechecks})


def undone_by_hand(state: WeddingState, step_ids: tuple[str, ...]) -> Absorbed:
    """A person did what no API could: the effects are gone, and what needed attention for them no longer does."""
    done = CompensationResult(status="undone", detail="undone by hand")
    undone = {i: state.states[i].model_copy(update={"compensation": done}) for i in step_ids}
    states = {**state.states, **undone}
    parked = any(s.compensation is not None and s.compensation.status == "needs_attention" for s in states.values())
    cards, news = dict(state.cards), []
    for card in state.cards.values():
        if card.status == "needs_attention" and not parked:
            status: TransactionStatus = "cancelled" if card.cancels else "rolled_back"
            cards[card.id] = card.model_copy(update={"status": status})
            news.append(TransactionNews(transaction_id=card.id, status=status))
    changed = {
        "states": states,
        # What stands at another vendor is not what the person undid.
        "entries": {i: e for i, e in state.entries.items() if i not in step_ids or e.state == "standing"},
        "leftovers": tuple(entry for entry in state.leftovers if entry.step_id not in step_ids),
        "cards": cards,
        "events": tuple(event for event in state.events if event.step_id not in step_ids),
    }
    return Absorbed(state.model_copy(update=changed), tuple(news))


def _left_parked(entry: LedgerEntry, step: PlannedStep) -> LedgerEntry:
    """An effect whose undo got lost: parked, unless nothing would have been done about it."""
    plan, _ = saga.undo_plan(entry, step)
    return entry if plan in ("leave", "nothing") else entry.model_copy(update={"state": "parked"})


def lost_child(given: TransactionInput, why: str, now: datetime, *, keeps_looks: bool = True) -> TransactionResult:
    """What a transaction that was ended from outside comes to: its steps wait for a person, its looks for later."""
    error = StepError(code="transaction_lost", detail=f"the transaction ended without settling ({why})")
    before = (deed.state or StepState(step_id=deed.step.id, status="held") for deed in given.deeds)
    states = tuple(
        state.model_copy(
            update={
                "status": "held",
                "error": error,
                "unknown": True,
                "transaction_id": state.transaction_id or given.transaction_id,
            }
        )
        for state in before
    )
    entries = tuple(deed.entry for deed in given.deeds if deed.entry is not None)
    planned = {step.id: step for step in given.undo_steps}
    undo = (_left_parked(entry, planned[entry.step_id]) for entry in given.undo)
    due = now + saga.RECHECK_AFTER[0]
    looks = tuple(r.model_copy(update={"due_at": due}) for r in given.rechecks) if keeps_looks else ()
    return TransactionResult(
        id=given.transaction_id,
        seq=given.seq,
        kind=given.kind,
        status="needs_attention",
        steps=states,
        entries=(*entries, *undo),
        rechecks=looks,
        started_at=now,
        ended_at=now,
        error=error,
    )
