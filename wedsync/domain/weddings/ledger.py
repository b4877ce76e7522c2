"""Ledger of a wedding: each effect, its vendor, its transaction, and how it is undone. Values only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import JsonValue

from wedsync.domain.vendors.call import Effect
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings.messages import Message

#: An effect that was found absent after an unknown outcome is rechecked so long after.
RECHECK_AFTER = (timedelta(hours=1), timedelta(hours=24))
#: Stands for the operation of an action that has no API.
MANUAL = "by_hand"

EntryState = Literal["begun", "standing", "waiting", "parked", "undone"]


class Binding(Message):
    """One vendor, account and set of inputs for a step: made from what history holds, before the first call."""

    vendor: str
    account: str
    #: Materialized inputs, in the shape of `wedsync.domain.vendors.action_inputs`.
    inputs: dict[str, JsonValue]
    #: Raised only after a known non-effect.
    round: int
    #: Our name for the effect at the vendor.
    reference: str
    spec: ActionSpec
    endpoints: dict[str, JsonValue] = {}
    timeout_seconds: float = 8.0
    #: How long the vendor honours an idempotency key; 0: it has none.
    idempotency_hours: float = 0
    #: The transaction that bound it: part of its idempotency keys for ever.
    transaction_id: str
    #: The signed link where the vendor, or a person, confirms an effect without an API; empty if an API does it.
    manual_link: str = ""
    #: The counter-message's text, references filled in; empty: none is sent.
    counter_text: str = ""
    bound_at: datetime

    def moved_to(self, inputs: dict[str, JsonValue]) -> Self:
        """Bind the same effect to new inputs: a change."""
        return self._with(inputs=inputs)


class Field(Message):
    """One field of the ledger: its value and who set it last."""

    value: JsonValue
    set_by_tx: str


class LedgerEntry(Message):
    """A step's effect, or possible effect, at a vendor: enough to undo it."""

    step_id: str
    binding: Binding
    #: begun: may hold an effect, outcome unknown. standing: done. waiting: the vendor's confirmation is still to come.
    #: parked: its undo needs a person. undone: nothing of it is left.
    state: EntryState
    external_id: str | None = None
    facts: dict[str, JsonValue] = {}
    #: The vendor's version of the object, and the digest of what we wrote: to notice what others changed there.
    etag: str | None = None
    content: str | None = None
    #: A change failed and could not be put back: the vendor may not hold `binding.inputs`.
    uncertain: bool = False
    #: The operations whose outcome is known to have taken effect, in order.
    done: tuple[str, ...] = ()
    #: The operation that was under way when its outcome got lost.
    unknown_operation: str | None = None
    #: When that operation was last sent.
    last_sent_at: datetime | None = None
    #: How often the vendor refused each operation of the undo: a new try uses a new key.
    undo_rounds: dict[str, int] = {}
    #: `effect` and `inputs`, each with the transaction that set it.
    fields: dict[str, Field] = {}
    #: The transaction that put the step on the agenda: undoing it undoes this too.
    origin_tx: str = ""

    def set_by(self, transaction_id: str) -> bool:
        """Tell whether undoing `transaction_id` undoes this effect."""
        effect = self.fields.get("effect")
        return self.origin_tx == transaction_id or (effect is not None and effect.set_by_tx == transaction_id)

    def last_operation(self) -> OperationSpec:
        """Give the newest operation that is known to have taken effect. Raises StopIteration when none is."""
        return next(o for o in self.binding.spec.operations if self.done and o.name == self.done[-1])

    def lost_operation(self) -> OperationSpec | None:
        """Give the operation whose outcome got lost, or None."""
        return next((o for o in self.binding.spec.operations if o.name == self.unknown_operation), None)

    # ---- how it changes

    def set_in(self, transaction_id: str, origin_tx: str) -> Self:
        """Name the transaction as the one that set the effect, where nobody did before."""
        fields = dict(self.fields)
        fields.setdefault("effect", Field(value=self.external_id, set_by_tx=transaction_id))
        if self.external_id and fields["effect"].value is None:
            fields["effect"] = Field(value=self.external_id, set_by_tx=fields["effect"].set_by_tx)
        fields.setdefault("inputs", Field(value=None, set_by_tx=transaction_id))
        origin = self.origin_tx or origin_tx
        return (
            self if (fields, origin) == (self.fields, self.origin_tx) else self._with(fields=fields, origin_tx=origin)
        )

    def in_state(self, state: EntryState) -> Self:
        """Move the effect to another state."""
        return self if state == self.state else self._with(state=state)

    def under_way(self, operation: str, now: datetime) -> Self:
        """Note that an operation is sent now: until its answer is there, its outcome is unknown."""
        return self._with(unknown_operation=operation, last_sent_at=now)

    def not_under_way(self) -> Self:
        """Note that the sent operation did not happen."""
        return self if self.unknown_operation is None else self._with(unknown_operation=None)

    def with_effect(self, operation: str, effect: Effect) -> Self:
        """Take in what an operation did at the vendor."""
        return self._with(
            unknown_operation=None,
            done=(*self.done, operation),
            external_id=effect.external_id or self.external_id,
            facts={**self.facts, **effect.facts},
            etag=effect.etag or self.etag,
            content=effect.content or self.content,
        )

    def with_facts(self, facts: dict[str, JsonValue]) -> Self:
        """Add what the vendor's event says."""
        return self._with(facts={**self.facts, **facts}) if facts else self

    def asked_of_a_person(self) -> Self:
        """Wait for a person. From now on something may stand at the vendor: an undo needs a person, too."""
        return self._with(state="waiting", done=(MANUAL,))

    def refused_by_hand(self) -> Self:
        """Take a person's no: nothing was done."""
        return self._with(done=())

    def changing_to(self, inputs: dict[str, JsonValue], transaction_id: str) -> Self:
        """Move the effect to new inputs, as set by this transaction."""
        fields = {**self.fields, "inputs": Field(value=None, set_by_tx=transaction_id)}
        return self._with(binding=self.binding.moved_to(inputs), fields=fields)

    def changed(self) -> Self:
        """End a change well; the operations that made it are no part of what an undo has to undo."""
        changes = {operation.name for operation in self.binding.spec.change_operations}
        done = tuple(name for name in self.done if name not in changes)
        return self._with(done=done, uncertain=False)

    def put_back(self, effect: Effect) -> Self:
        """Take in one operation of a change's undo."""
        return self._with(etag=effect.etag, content=effect.content)

    def certain(self) -> Self:
        """Note that the vendor holds again what the ledger says."""
        return self._with(uncertain=False)

    def in_doubt(self) -> Self:
        """Note that nobody knows whether the vendor holds the new or the old: its copy can't be compared any more."""
        return self._with(uncertain=True, content=None)

    def not_compared(self) -> Self:
        """Let the next undo remove the effect although others changed it."""
        return self._with(content=None)

    def undo_refused(self, operation: str) -> Self:
        """Use a new key next time: the old one replays the refusal."""
        return self._with(undo_rounds={**self.undo_rounds, operation: self.undo_rounds.get(operation, 0) + 1})


class Recheck(Message):
    """An effect that was found absent after an unknown outcome, to be rechecked."""

    entry: LedgerEntry
    due_at: datetime
    #: 1: after an hour; 2: after a day.
    look: int

    def again(self, now: datetime) -> Recheck | None:
        """Give the next recheck, or None after the last one."""
        if self.look >= len(RECHECK_AFTER):
            return None
        return self._with(look=self.look + 1, due_at=now + RECHECK_AFTER[self.look])

    def put_off(self, now: datetime) -> Self:
        """Recheck an hour from now: the transaction that was to recheck broke."""
        return self._with(due_at=now + RECHECK_AFTER[0])


def first_recheck(entry: LedgerEntry, now: datetime) -> Recheck:
    """Give the first recheck, an hour from now, of an effect that nobody found or whose vendor kept it."""
    return Recheck(entry=entry, due_at=now + RECHECK_AFTER[0], look=1)
