"""A binding is made from recorded values alone, and says what the plan says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.fill_inputs import facts_of, materialize, period_of
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.vendors.manifest import Manifest
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.binding import Period, Preparation, VendorTerms, bind
from wedsync.domain.weddings.ledger import Binding

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
RESULTS: dict[str, dict[str, Any]] = {"venue": {"reference": "R7"}, "deposit": {"amount_minor": 1250}}
Load = Callable[[dict[str, Any]], Plan]
Compiled = Callable[[dict[str, Any]], dict[str, PlannedStep]]


def preparation(step: PlannedStep, vendor: str, plan: Plan, manifests: dict[str, Manifest]) -> Preparation:
    """What is recorded of a step before it is bound."""
    manifest = manifests[vendor]
    terms = VendorTerms(spec=manifest.action(step.action), timeout_seconds=3, idempotency_hours=24)
    period = period_of(step, plan, RESULTS)
    return Preparation(
        terms={f"{vendor}/{step.action}": terms},
        periods={} if period is None else {step.id: Period(starts=period[0], ends=period[1])},
        hand_links={f"{step.id}/{vendor}": "https://link"},
        prepared=(f"{step.id}/{vendor}",),
    )


def bound(
    step: PlannedStep, vendor: str, given: Preparation, plan: Plan, results: dict[str, Any] = RESULTS, number: int = 1
) -> Binding:
    return bind(
        step, vendor, number, given, facts_of(plan), results, wedding_id="w", transaction_id="t1", now=NOW
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step_id", "vendor"),
    [("venue", "generic"), ("deposit", "stripe"), ("deposit", "paypal"), ("event", "google_calendar"),
     ("email", "resend")],
)  # fmt: skip
def test_a_binding_asks_for_what_the_plan_says(
    step_id: str, vendor: str, data: dict[str, Any], load: Load, compiled: Compiled, manifests: dict[str, Manifest]
) -> None:
    step, plan = compiled(data)[step_id], load(data)
    given = preparation(step, vendor, plan, manifests)
    made = bound(step, vendor, Preparation.model_validate_json(given.model_dump_json()), plan)
    assert made.inputs == materialize(step, vendor, plan, RESULTS)
    assert made == bound(step, vendor, given, plan)


def test_a_binding_holds_the_vendors_terms_and_the_keys_of_its_round(
    data: dict[str, Any], load: Load, compiled: Compiled, manifests: dict[str, Manifest]
) -> None:
    step, plan = compiled(data)["deposit"], load(data)
    made = bound(step, "stripe", preparation(step, "stripe", plan, manifests), plan, number=3)
    assert made.spec == manifests["stripe"].action("payments.collect")
    assert (made.timeout_seconds, made.idempotency_hours, made.manual_link) == (3, 24, "https://link")
    assert (made.round, made.transaction_id, made.bound_at) == (3, "t1", NOW)
    assert made.reference == saga.reference("w", "t1", "deposit", "stripe", 3)


@pytest.mark.parametrize(
    ("step_id", "vendor", "account"),
    [("deposit", "stripe", "house"), ("deposit", "paypal", "default"), ("venue", "generic", "villa")],
)
def test_only_the_services_own_vendor_has_its_account_and_endpoints(
    step_id: str, vendor: str, account: str, data: dict[str, Any], load: Load, compiled: Compiled,
    manifests: dict[str, Manifest],
) -> None:  # fmt: skip
    own = {"account": "villa" if step_id == "venue" else "house", "endpoints": {"base": "https://own"}}
    step, plan = compiled(data)[step_id].model_copy(update=own), load(data)
    made = bound(step, vendor, preparation(step, vendor, plan, manifests), plan)
    assert (made.account, made.endpoints) == (account, own["endpoints"] if account != "default" else {})


def test_a_counter_message_is_filled_in(
    data: dict[str, Any], load: Load, compiled: Compiled, manifests: dict[str, Manifest]
) -> None:
    step, plan = compiled(data)["email"], load(data)
    step = step.model_copy(
        update={"compensation": step.compensation.model_copy(update={"text": "${wedding.couple}: off"})}
    )
    made = bound(step, "resend", preparation(step, "resend", plan, manifests), plan)
    assert made.counter_text == "Ana & Bo: off"


def test_what_a_vendor_cannot_do_is_not_bound(data: dict[str, Any], load: Load, compiled: Compiled) -> None:
    step = compiled(data)["venue"]
    given = Preparation(terms={"stripe/booking.request": VendorTerms(spec=None)}, prepared=("venue/stripe",))
    with pytest.raises(InvalidInput) as caught:
        bound(step, "stripe", given, load(data))
    assert caught.value.reason == "vendor_cannot"


@pytest.mark.parametrize(
    ("period", "reason"),
    [(Period(fault="no such hour", reason="nonexistent_time"), "nonexistent_time"), (None, "bad_time")],
)
def test_a_time_that_does_not_exist_is_refused_with_its_field(
    period: Period | None, reason: str, data: dict[str, Any], load: Load, compiled: Compiled,
    manifests: dict[str, Manifest],
) -> None:  # fmt: skip
    step, plan = compiled(data)["event"], load(data)
    periods = {} if period is None else {"event": period}
    given = preparation(step, "google_calendar", plan, manifests).model_copy(update={"periods": periods})
    with pytest.raises(InvalidInput) as caught:
        bound(step, "google_calendar", given, plan)
    assert (caught.value.field, caught.value.reason) == ("starts", reason)


def test_a_time_by_another_steps_result_is_known_once_that_is(
    data: dict[str, Any], load: Load, compiled: Compiled
) -> None:
    data["steps"][2]["inputs"]["starts"] = "${venue.starts}"
    step, plan = compiled(data)["event"], load(data)
    assert period_of(step, plan, {}) is None
    found = period_of(step, plan, {"venue": {"starts": "2027-06-19T17:00"}})
    assert found is not None
    assert [moment.local for moment in found] == ["2027-06-19T17:00:00", "2027-06-19T18:00:00"]


def test_preparations_add_up(
    data: dict[str, Any], load: Load, compiled: Compiled, manifests: dict[str, Manifest]
) -> None:
    steps, plan = compiled(data), load(data)
    both = preparation(steps["venue"], "generic", plan, manifests).plus(
        preparation(steps["deposit"], "paypal", plan, manifests)
    )
    assert (both.covers("venue", "generic"), both.covers("deposit", "paypal")) == (True, True)
    assert (both.covers("deposit", "stripe"), both.covers("venue", "paypal")) == (False, False)
    assert set(both.terms) == {"generic/booking.request", "paypal/payments.collect"}
