"""Bind a step to one vendor: its inputs and its keys. Made from recorded values only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Self

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.fill_inputs import Facts, fill, fill_text
from wedsync.domain.plans.plan import PlannedStep
from wedsync.domain.vendors import action_inputs as filled
from wedsync.domain.vendors.manifest import ActionSpec
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.ledger import Binding
from wedsync.domain.weddings.messages import Message

#: What inputs are filled in with, as history holds it.
WeddingFacts = Facts


class Period(Message):
    """Start and end of what a step books, or why there are none."""

    starts: filled.Moment | None = None
    ends: filled.Moment | None = None
    fault: str = ""
    reason: str = ""


class VendorTerms(Message):
    """One vendor's terms for one action, from its manifest; no spec: the vendor can't do it."""

    spec: ActionSpec | None
    timeout_seconds: float = 8.0
    idempotency_hours: float = 0


class Preparation(Message):
    """Recorded data that bindings are made from: instants by the zone data of then, specs, signed links."""

    #: By `vendor/action`.
    terms: dict[str, VendorTerms] = {}
    #: By step; those whose start refers to another step's result are added when that is known.
    periods: dict[str, Period] = {}
    #: By `step/vendor`.
    hand_links: dict[str, str] = {}
    #: The `step/vendor` pairs that are prepared.
    prepared: tuple[str, ...] = ()

    def covers(self, step_id: str, vendor: str) -> bool:
        """Tell whether the step can be bound to the vendor."""
        return f"{step_id}/{vendor}" in self.prepared

    def plus(self, other: Preparation) -> Self:
        """Add what another one holds."""
        return self._with(
            terms={**self.terms, **other.terms},
            periods={**self.periods, **other.periods},
            hand_links={**self.hand_links, **other.hand_links},
            prepared=(*self.prepared, *other.prepared),
        )


def bind(
    step: PlannedStep,
    vendor: str,
    number: int,
    given: Preparation,
    facts: Facts,
    results: Mapping[str, Mapping[str, JsonValue]],
    *,
    wedding_id: str,
    transaction_id: str,
    now: datetime,
) -> Binding:
    """Bind the step to one account of the vendor, in round `number`, and fill in its inputs.

    Raises InvalidInput when the vendor can't do the action or the inputs don't fit it.
    """
    terms = given.terms[f"{vendor}/{step.action}"]
    if terms.spec is None:
        raise InvalidInput(f"{vendor} can't do {step.action}", reason="vendor_cannot")
    is_own = vendor == step.vendors[0]
    return Binding(
        vendor=vendor,
        account=step.account if is_own or vendor == "generic" else "default",
        inputs=fill(step, vendor, facts, results, lambda *_: _moments(given.periods.get(step.id))),
        round=number,
        reference=saga.reference(wedding_id, transaction_id, step.id, vendor, number),
        spec=terms.spec,
        endpoints=step.endpoints if is_own else {},
        transaction_id=transaction_id,
        manual_link=given.hand_links.get(f"{step.id}/{vendor}", ""),
        counter_text=fill_text(step.compensation.text, facts) if step.compensation.text else "",
        timeout_seconds=terms.timeout_seconds,
        idempotency_hours=terms.idempotency_hours,
        bound_at=now,
    )


def _moments(period: Period | None) -> tuple[filled.Moment, filled.Moment]:
    if period is None or period.starts is None or period.ends is None:
        fault = period or Period(fault="the step's time was not resolved", reason="bad_time")
        raise InvalidInput(fault.fault, field="starts", reason=fault.reason)
    return period.starts, period.ends
