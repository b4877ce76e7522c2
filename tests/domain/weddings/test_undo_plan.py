"""How an effect whose last call got lost is undone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from wedsync.domain.plans.plan import Compensation, PlannedStep
from wedsync.domain.vendors.manifest import ActionSpec, OperationSpec
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.ledger import Binding, LedgerEntry

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OPERATIONS = (
    OperationSpec(name="draft", on_unknown="replay", harmless=True),
    OperationSpec(name="create", on_unknown="find"),
    OperationSpec(name="capture", on_unknown="replay"),
)


def step(**changes: Any) -> PlannedStep:
    values: dict[str, Any] = {
        "id": "deposit", "action": "payments.collect", "service": "payments", "capability": "payments",
        "vendors": ("stripe",), "account": "default", "critical": True, "inputs": {}, "needs": (),
        "window": "preparation", "at": None, "fold": None, "timeout_seconds": 60, "on_failure": "rollback",
        "compensation": Compensation(), "compensation_deadline_seconds": 60, "early": False, "delivery": "hold",
        "decide_within_seconds": 60, "otherwise": None, "default_results": {}, "endpoints": {},
        "real_time_updates": False,
    }  # fmt: skip
    return PlannedStep(**{**values, **changes})


def entry(**changes: Any) -> LedgerEntry:
    spec = ActionSpec(
        name="payments.collect", operations=OPERATIONS, undo="exact", undo_operations=(OperationSpec(name="release"),)
    )
    binding = Binding(
        vendor="stripe", account="default", inputs={}, round=1, reference="r" * 32, spec=spec, transaction_id="tx",
        bound_at=NOW,
    )  # fmt: skip
    return LedgerEntry(step_id="deposit", binding=binding, state="begun", **changes)


@pytest.mark.parametrize(
    ("lost", "done", "external_id", "plan"),
    [
        (None, ("draft", "create"), "p1", "call"),
        ("draft", (), None, "nothing"),
        ("draft", (), "p1", "call"),
        ("create", (), None, "find_first"),
        ("create", ("draft",), "p1", "find_first"),
        ("capture", ("draft", "create"), "p1", "call"),
        ("capture", ("draft", "create"), None, "replay_first"),
    ],
)
def test_what_got_lost_is_looked_up_before_it_is_undone(
    lost: str | None, done: tuple[str, ...], external_id: str | None, plan: str
) -> None:
    given = entry(unknown_operation=lost, done=done, external_id=external_id)
    assert saga.undo_plan(given, step())[0] == plan


@pytest.mark.parametrize(
    ("lost", "found", "final"),
    [
        (None, "nothing_to_undo", True),
        ("draft", "nothing_to_undo", True),
        ("capture", "nothing_to_undo", False),
        ("capture", "undone", True),
        ("capture", "needs_attention", True),
    ],
)
def test_nothing_to_undo_is_not_final_while_a_lost_write_may_still_take_effect(
    lost: str | None, found: Any, final: bool
) -> None:
    assert saga.undo_is_final(entry(unknown_operation=lost, done=("draft",)), found) is final
