"""Apply a transaction's result to its wedding. Pure functions on its carried state."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from wedsync.domain.vendors.event import VendorEvent
from wedsync.domain.weddings import agenda, closing, requests, saga
from wedsync.domain.weddings.ledger import LedgerEntry, first_recheck
from wedsync.domain.weddings.messages import TransactionStatus
from wedsync.domain.weddings.step import CompensationResult, StepState
from wedsync.domain.weddings.transaction import TransactionInput, TransactionResult, TransactionUpdate
from wedsync.domain.weddings.wedding_state import KEPT_CARDS, Course, PlanFacts, TransactionCard, WeddingState

_TERMINAL = ("completed", "rolled_back", "cancelled", "needs_attention")
_UNDONE = ("rolled_back", "cancelled")


class Applied(NamedTuple):
    """A new state, the older transactions that moved on, and the steps that changed outside the transaction."""

    state: WeddingState
    updates: tuple[TransactionUpdate, ...]
    steps: tuple[StepState, ...] = ()


def apply_result(state: WeddingState, given: TransactionInput, result: TransactionResult) -> Applied:
    """Apply a settled transaction: steps, ledger, rechecks, the origin's folded status."""
    states = {**state.states, **{s.step_id: s for s in result.steps if s.step_id in state.states}}
    entries, leftovers = _ledger_after(state, states, given, result)
    looked = {(r.entry.step_id, r.look) for r in given.rechecks}
    rechecks = (*(r for r in state.rechecks if (r.entry.step_id, r.look) not in looked), *result.rechecks)
    card = TransactionCard(
        id=result.id, kind=result.kind, status=result.status, origin=given.origin_tx, gaps=result.gaps
    )
    changed = (
        state.with_ledger(states=states, entries=entries, rechecks=rechecks, leftovers=leftovers)
        .with_cards({**state.cards, result.id: card})
        .keeping(_still_open(state, given))
    )
    if given.kind == "orchestrate" and (result.rolled_back or result.status in _UNDONE):
        changed = _without_agenda(changed)
    changed = changed.keeping(event for event in changed.events if requests.may_matter(changed, event))
    folded, updates = _fold(changed, result)
    moved = tuple(s for i, s in folded.states.items() if s != states[i])
    return Applied(_pruned(folded), updates, moved)


def _ledger_after(
    state: WeddingState, states: dict[str, StepState], given: TransactionInput, result: TransactionResult
) -> tuple[dict[str, LedgerEntry], list[LedgerEntry]]:
    """Return the entries by step, and what vendors before the last may still hold."""
    entries, left = dict(state.entries), list(state.leftovers)
    for entry in result.entries:
        if (known := entries.get(entry.step_id)) and known.state == "parked" and known.binding != entry.binding:
            left.append(known)
        if entry.state == "undone" or not (saga.may_have_happened(entry) or entry.state == "waiting"):
            entries.pop(entry.step_id, None)
        else:
            entries[entry.step_id] = entry
    left = [entry for entry in left if not any(entry.binding == r.entry.binding for r in given.rechecks)]
    for entry in _parked_rechecks(states, given, result):
        if entries.setdefault(entry.step_id, entry).binding != entry.binding:
            left.append(entry)
    return entries, left


def _parked_rechecks(
    states: dict[str, StepState], given: TransactionInput, result: TransactionResult
) -> list[LedgerEntry]:
    """Return the effects whose last recheck ended parked: they stay on the ledger, so that an undo may retry them."""
    again = [recheck.entry.binding for recheck in result.rechecks]
    found = []
    for entry in (recheck.entry for recheck in given.rechecks if recheck.entry.binding not in again):
        if saga.needs_attention(states[entry.step_id].compensation):
            found.append(entry.in_state("parked"))
    return found


def _still_open(state: WeddingState, given: TransactionInput) -> Iterable[VendorEvent]:
    """Yield the kept events without those that this transaction brought."""
    brought = {step_id for step_id, _ in requests.answers(state)} & {
        task.step.id for task in given.tasks if task.kind == "answer"
    }
    return tuple(
        event
        for event in state.events
        if not any(requests.event_fits(event, state.states[i], state.entries.get(i)) for i in brought)
    )


def _without_agenda(state: WeddingState) -> WeddingState:
    """Take the steps of an undone orchestration off the agenda, though some of it may still stand."""
    unbegun = (s.off_the_agenda() for s in state.states.values() if s.status in agenda.UNBEGUN)
    return state.with_steps(*unbegun).without_origin()


def _fold(state: WeddingState, result: TransactionResult) -> tuple[WeddingState, tuple[TransactionUpdate, ...]]:
    """Fold the status of earlier transactions, now that a scheduled one answered some of what they waited for."""
    if result.kind != "scheduled":
        return state, ()
    cards, updates = dict(state.cards), []
    for card in state.cards.values():
        if card.id == result.id or card.status not in ("waiting", "held"):
            continue
        if card.id != state.origin and card.kind != "scheduled":
            continue
        steps = [s for s in state.states.values() if s.status not in agenda.UNBEGUN and _is_of(s, card, state.origin)]
        status = agenda.folded_status(steps)
        if status != card.status:
            gaps = agenda.folded_gaps(steps)
            cards[card.id] = card.became(status, gaps)
            updates.append(TransactionUpdate(transaction_id=card.id, status=status, gaps=gaps))
    return state.with_cards(cards), tuple(updates)


def _is_of(step: StepState, card: TransactionCard, origin: str) -> bool:
    """Tell whether the step counts: for the origin every step, for a scheduled one those nobody has worked on since."""
    return card.id == origin or step.transaction_id == card.id


def _pruned(state: WeddingState) -> WeddingState:
    """Forget old finished transactions: they are rows in Postgres."""
    standing = (state.origin, state.ceremony_set_by)
    old = [c.id for c in state.cards.values() if c.status in _TERMINAL and c.id not in standing][:-KEPT_CARDS]
    return state.with_cards({i: c for i, c in state.cards.items() if i not in old}) if old else state


# ---- what a transaction was run for


def conclude(state: WeddingState, course: Course, result: TransactionResult, now: datetime) -> Applied:
    """Do what follows from a settled transaction: mark an undo's targets, keep a change's new time."""
    if course.is_undo and course.request is not None:
        return after_undo(state, course, result, now)
    if course.before is not None:
        return _after_move(state, course, course.before, result)
    return Applied(state, ())


def newest_updates(*updates: TransactionUpdate) -> tuple[TransactionUpdate, ...]:
    """Keep each transaction's last update: one write moves it once."""
    return tuple({update.transaction_id: update for update in updates}.values())


def after_undo(state: WeddingState, course: Course, result: TransactionResult, now: datetime) -> Applied:
    """Move the undone transactions on, and take what was scheduled in their name off the agenda."""
    cancels = course.request is not None and course.request.cancel
    becomes: TransactionStatus = "cancelled" if cancels and result.status == "rolled_back" else result.status
    cards, updates = dict(state.cards), []
    for card in state.cards.values():
        is_touched = course.target is None or course.target in (card.id, card.origin)
        if is_touched and card.id != result.id and card.status not in _UNDONE:
            cards[card.id] = card.undone_as(becomes, cancels=cancels)
            updates.append(TransactionUpdate(transaction_id=card.id, status=becomes))
    changed = state.with_cards(cards)
    ends = course.request is not None and course.request.everything
    if ends or course.target == state.origin:
        changed = changed.without_origin()
    return Applied(closing.end(changed, "cancelled", now) if ends else changed, tuple(updates))


def _after_move(state: WeddingState, course: Course, before: PlanFacts, result: TransactionResult) -> Applied:
    """Keep the new time and who set the one before, or return to the earlier plan."""
    if result.status != "completed":
        return Applied(state.planned_anew(before), ())
    cards = dict(state.cards)
    cards[result.id] = cards[result.id].moved_from(before.ceremony_local, before.zone, state.ceremony_set_by)
    if not course.undoes:
        return Applied(state.with_cards(cards).ceremony_by(result.id), ())
    undone = cards[course.undoes] = cards[course.undoes].became("rolled_back")
    update = TransactionUpdate(transaction_id=undone.id, status="rolled_back")
    return Applied(state.with_cards(cards).ceremony_by(undone.set_before), (update,))


# ---- a person's decision


def skip(state: WeddingState, step_id: str, tx: str, now: datetime) -> WeddingState:
    """Skip a held step as a person decided. An effect that its vendor may hold all the same is rechecked later."""
    step, entry = requests.planned_step(state, step_id), state.entries.get(step_id)
    held = state.states[step_id]
    rechecks = state.rechecks
    if entry is not None and saga.may_have_happened(entry):
        rechecks = (*rechecks, first_recheck(entry, now))
    skipped = held.of(tx).skipped(step.default_results, held.error, now)
    entries = {i: e for i, e in state.entries.items() if i != step_id}
    return state.with_ledger(states={**state.states, step_id: skipped}, entries=entries, rechecks=rechecks)


def manually_undone(state: WeddingState, step_ids: tuple[str, ...]) -> Applied:
    """Take a person's word that the effects are gone: their undo no longer needs attention."""
    done = CompensationResult(status="undone", detail="undone by hand")
    states = {**state.states, **{i: state.states[i].compensated(done) for i in step_ids}}
    parked = any(saga.needs_attention(s.compensation) for s in states.values())
    cards, updates = dict(state.cards), []
    for card in state.cards.values():
        if card.status == "needs_attention" and not parked:
            status: TransactionStatus = "cancelled" if card.cancels else "rolled_back"
            cards[card.id] = card.became(status)
            updates.append(TransactionUpdate(transaction_id=card.id, status=status))
    changed = state.with_ledger(
        states=states,
        # What stands at another vendor is not what the person undid.
        entries={i: e for i, e in state.entries.items() if i not in step_ids or e.state == "standing"},
        leftovers=(entry for entry in state.leftovers if entry.step_id not in step_ids),
    )
    events = (event for event in state.events if event.step_id not in step_ids)
    return Applied(changed.with_cards(cards).keeping(events), tuple(updates))
