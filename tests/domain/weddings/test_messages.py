"""A value changes by its named acts: only what changes is checked, and all of that."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from wedsync.domain.weddings.messages import Decision, TransactionRequest, WeddingStart
from wedsync.domain.weddings.step import StepState


def test_a_changed_value_equals_one_made_anew() -> None:
    before = StepState(step_id="venue", status="pending", results={"reference": {"seats": [1, 2]}})
    after = before._with(status="running", attempts=1)
    assert after == StepState(step_id="venue", status="running", attempts=1, results=before.results)
    assert after.model_dump() == {**before.model_dump(), "status": "running", "attempts": 1}
    assert before.status == "pending"


def test_a_changed_value_is_coerced_as_in_the_constructor() -> None:
    request = TransactionRequest(id="t", kind="undo", seq=1)
    changed = request._with(decision={"step_id": "venue", "choice": "skip"})
    assert changed.decision == Decision(step_id="venue", choice="skip")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"statsu": "running"}, "statsu"), ({"status": "asleep"}, "status"), ({"round": "x"}, "round")],
)
def test_a_misspelt_field_or_a_wrong_value_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StepState(step_id="venue", status="pending")._with(**change)
    assert caught.value.errors()[0]["loc"] == (field,)


def test_a_fields_bounds_are_kept() -> None:
    with pytest.raises(ValidationError):
        TransactionRequest(id="t", kind="undo", seq=1)._with(seq=0)


def test_a_changed_value_stays_frozen() -> None:
    start = WeddingStart(wedding_id="w", organization_id="o", reference="r", plan_version=1, date="2027-06-19")
    with pytest.raises(ValidationError):
        start._with(plan_version=2).plan_version = 3  # type: ignore[misc]
