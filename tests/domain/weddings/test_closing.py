"""What keeps a wedding from ending, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings.closing import LONGEST_CLOSING, closing_as, is_closed, open_matters
from wedsync.domain.weddings.ledger import Binding, LedgerEntry, Recheck
from wedsync.domain.weddings.messages import WeddingStart
from wedsync.domain.weddings.step import CompensationResult, StepState
from wedsync.domain.weddings.wedding_state import WeddingState

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
ENDS = NOW + timedelta(days=20)
START = WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19")


def entry(state: Any = "standing") -> LedgerEntry:
    spec = ActionSpec(name="booking.request", undo="exact", operations=(OperationSpec(name="do"),))
    binding = Binding(
        vendor="generic",
        account="villa",
        inputs={},
        round=1,
        reference="r",
        spec=spec,
        transaction_id="t",
        bound_at=NOW,
    )
    return LedgerEntry(step_id="a", binding=binding, state=state, done=("do",))


def one(status: Any, compensation: Any = None) -> dict[str, StepState]:
    result = CompensationResult(status=compensation) if compensation else None
    return {"a": StepState(step_id="a", status=status, compensation=result)}


@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ({}, False),
        ({"states": one("succeeded"), "entries": {"a": entry()}}, False),
        ({"states": one("scheduled")}, False),
        ({"states": one("succeeded", "undone")}, False),
        ({"states": one("waiting")}, True),
        ({"states": one("held")}, True),
        ({"states": one("failed", "needs_attention")}, True),
        ({"entries": {"a": entry("parked")}}, True),
        ({"rechecks": (Recheck(entry=entry("undone"), due_at=NOW, look=1),)}, True),
    ],
)
def test_what_is_open_is_a_look_a_word_a_decision_or_a_parked_undo(more: dict[str, Any], is_open: bool) -> None:
    assert open_matters(WeddingState(start=START, **more)) == (("a",) if is_open else ())


@pytest.mark.parametrize(("now", "until"), [(NOW, ENDS), (ENDS, ENDS), (ENDS + timedelta(days=9), None)])
def test_a_closing_wedding_ends_when_nothing_is_open_or_its_time_is_up(now: datetime, until: datetime | None) -> None:
    closing = closing_as("cancelled", ENDS, now)
    assert closing.until == (until or now) + LONGEST_CLOSING
    busy = WeddingState(start=START, states=one("held"), closing=closing)
    assert not is_closed(busy, closing.until - timedelta(seconds=1))
    assert is_closed(busy, closing.until)
    assert is_closed(WeddingState(start=START, closing=closing), now)
    assert not is_closed(WeddingState(start=START), ENDS + timedelta(days=999))
