"""Tasks of a transaction for its steps, and where each goes on after a pause. Values only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import JsonValue

from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.weddings.ledger import LedgerEntry
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.step import StepState


class StepTask(Message):
    """One task of a transaction for one step."""

    kind: Literal["do", "answer", "late", "change"]
    step: PlannedStep
    #: The round to start at.
    round: int = 1
    #: The vendors to try, in order.
    vendors: tuple[str, ...] = ()
    #: For answer, late, change, and a `do` after an unknown outcome: the effect so far.
    entry: LedgerEntry | None = None
    state: StepState | None = None
    #: For answer: the vendor's event.
    event_type: str = ""
    event_facts: dict[str, JsonValue] = {}
    #: Set while it runs: the task has begun with `vendors[0]` (do), or applied its answer; it goes on from the ledger.
    is_resumed: bool = False
    #: Set while it runs: when the vendor, or the work after its answer, is given up.
    give_up_at: datetime | None = None
    #: Set while it runs: every vendor before `vendors[0]` could not be reached.
    are_all_down: bool = True

    @property
    def is_retry(self) -> bool:
        """Tell whether a person, who was to decide, wants it tried again."""
        return self.state is not None and self.state.status == "held"

    def in_effect(self) -> LedgerEntry:
        """Return the effect so far. Raises ValueError for a task without one."""
        if self.entry is None:
            raise ValueError("a task about a standing step comes with its ledger entry")
        return self.entry

    def on(self, step: PlannedStep) -> Self:
        """Do the same to another reading of the step."""
        return self._with(step=step)

    def at(self, vendors: tuple[str, ...], give_up_at: datetime, *, are_all_down: bool) -> Self:
        """Note its position: at the first of `vendors`, the others stand ready."""
        return self._with(is_resumed=True, vendors=vendors, give_up_at=give_up_at, are_all_down=are_all_down)

    def going_on(self, give_up_at: datetime) -> Self:
        """Note that the vendor's answer was applied: the step's further operations remain."""
        return self._with(is_resumed=True, give_up_at=give_up_at)
