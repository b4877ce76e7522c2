"""Prepare steps for binding: what depends on time zone data, manifests and signing keys, to be kept in history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans import times
from wedsync.domain.plans.fill_inputs import period_of
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.weddings.binding import Period, Preparation, VendorTerms
from wedsync.domain.weddings.closing import closing_as
from wedsync.domain.weddings.messages import Message
from wedsync.usecases.plans.load import PlanShelf

#: `links(payload, expires_at)`: return a signed URL for what a vendor has no API for.
Links = Callable[[dict[str, JsonValue], datetime], str]


class StepAtVendor(Message):
    """A step and a vendor that it may be bound to."""

    step_id: str
    vendor: str


class PrepareSteps(Message):
    """Steps that are about to be bound."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    plan_version: int
    steps: tuple[StepAtVendor, ...]
    #: Results of earlier steps that their times may refer to.
    results: dict[str, dict[str, JsonValue]] = {}
    now: datetime


class StepPreparer:
    """Prepares steps of one plan."""

    def __init__(self, shelf: PlanShelf, links: Links, plan: Plan, wanted: PrepareSteps) -> None:
        self._shelf = shelf
        self._links = links
        self._plan = plan
        self._wanted = wanted

    def prepare(self, steps: Mapping[str, PlannedStep]) -> Preparation:
        """Return the inputs of the wanted bindings."""
        terms, periods, links, prepared = {}, {}, {}, []
        for one in self._wanted.steps:
            step = steps[one.step_id]
            found = terms[f"{one.vendor}/{step.action}"] = self._terms(one.vendor, step.action)
            period = self._period(step)
            if period is not None:
                periods[step.id] = period
            if found.spec is not None and self._is_by_hand(step, found):
                links[f"{step.id}/{one.vendor}"] = self._hand_link(step, one.vendor)
            if period is not None or "starts" not in step.inputs:
                prepared.append(f"{step.id}/{one.vendor}")
        return Preparation(terms=terms, periods=periods, hand_links=links, prepared=tuple(prepared))

    def _terms(self, vendor: str, action: str) -> VendorTerms:
        spec = self._shelf.spec(vendor, action)
        if spec is None:
            return VendorTerms(spec=None)
        manifest = self._shelf.manifests[vendor]
        return VendorTerms(
            spec=spec, timeout_seconds=manifest.timeout_seconds, idempotency_hours=manifest.idempotency_hours
        )

    def _period(self, step: PlannedStep) -> Period | None:
        """Return the step's time, or what is wrong with it; None: a missing result gives it, or nothing does."""
        try:
            found = period_of(step, self._plan, self._wanted.results)
        except InvalidInput as error:
            return Period(fault=error.detail, reason=error.reason or error.code)
        return None if found is None else Period(starts=found[0], ends=found[1])

    @staticmethod
    def _is_by_hand(step: PlannedStep, terms: VendorTerms) -> bool:
        spec = terms.spec
        return spec is not None and (spec.manual or spec.undo_manual or step.compensation.by == "hand")

    def _hand_link(self, step: PlannedStep, vendor: str) -> str:
        """Make the link by which a person says that the step was done or undone: valid while that may be asked."""
        wanted = self._wanted
        payload: dict[str, JsonValue] = {
            "organization_id": wanted.organization_id,
            "wedding_id": wanted.wedding_id,
            "step_id": step.id,
            "transaction_id": wanted.transaction_id,
            "action": step.action,
            "vendor": vendor,
        }
        return self._links(payload, closing_as("ended", times.end_instant(self._plan), wanted.now).until)


async def prepare_steps(shelf: PlanShelf, links: Links, wanted: PrepareSteps) -> Preparation:
    """Prepare the steps by this process's zone data and manifests. Raises NotFound for an unknown plan."""
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.plan_version)
    return StepPreparer(shelf, links, plan, wanted).prepare(
        shelf.compiled(wanted.wedding_id, wanted.plan_version, plan)
    )
