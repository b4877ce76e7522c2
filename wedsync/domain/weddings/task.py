"""What a transaction has to do about one step, and where it goes on after a pause. Values only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import JsonValue

from wedsync.domain.weddings.ledger import LedgerEntry
from wedsync.domain.weddings.messages import Message
from wedsync.domain.weddings.plan import PlannedStep
from wedsync.domain.weddings.step import StepState


class StepTask(Message):
    """One thing a transaction has to do about one step."""

    kind: Literal["do", "answer", "late", "change"]
    step: PlannedStep
    #: The round to start at.
    round: int = 1
    #: The vendors to try, in order.
    vendors: tuple[str, ...] = ()
    #: For answer, late, change, and a `do` after an unknown outcome: what stands already.
    entry: LedgerEntry | None = None
    state: StepState | None = None
    #: For answer: what the vendor said.
    event_type: str = ""
    event_facts: dict[str, JsonValue] = {}
    #: Set while it runs: `vendors[0]` has been taken up (do), or its answer taken in; it goes on from the ledger.
    is_resumed: bool = False
    #: Set while it runs: when the vendor, or the way on after its answer, is given up.
    give_up_at: datetime | None = None
    #: Set while it runs: every vendor before `vendors[0]` could not be reached.
    are_all_down: bool = True

    @property
    def is_retry(self) -> bool:
        """Tell whether a person, who was to decide, wants it tried again."""
        return self.state is not None and self.state.status == "held"

    def in_effect(self) -> LedgerEntry:
        """Give what stands already. Raises ValueError for a task that was given nothing."""
        if self.entry is None:
            raise ValueError("a task about a standing step comes with its ledger entry")
        return self.entry

    def on(self, step: PlannedStep) -> Self:
        """Do the same to another reading of the step."""
        return self._with(step=step)

    def at(self, vendors: tuple[str, ...], give_up_at: datetime, *, are_all_down: bool) -> Self:
        """Note where it is: at the first of `vendors`, the others stand ready."""
        return self._with(is_resumed=True, vendors=vendors, give_up_at=give_up_at, are_all_down=are_all_down)

    def going_on(self, give_up_at: datetime) -> Self:
        """Note that the vendor's answer was taken in: what is left are the step's further operations."""
        return self._with(is_resumed=True, give_up_at=give_up_at)
