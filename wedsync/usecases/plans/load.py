"""Read a wedding's plan and compile it to the steps that run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from wedsync.domain.errors import NotFound
from wedsync.domain.plans import times
from wedsync.domain.plans.compile import compile_plan
from wedsync.domain.plans.fill_inputs import Facts, facts_of
from wedsync.domain.plans.plan import Plan, PlannedStep
from wedsync.domain.vendors.manifest import ActionSpec, Manifest
from wedsync.domain.weddings.messages import Message
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection

#: Plans never change once written: (wedding, version) names one for ever.
_KEPT_PLANS = 512


class LoadPlan(Message):
    """A request for one version of a plan."""

    organization_id: str
    wedding_id: str
    version: int


class LoadedPlan(Message):
    """A plan as the wedding's workflow needs it."""

    reference: str
    locale: str
    zone: str
    #: Wall time at the venue, and its instant by `tzdata_version`.
    ceremony_local: str
    ceremony_at: datetime
    ends_at: datetime
    tzdata_version: str
    parallelism: int
    steps: tuple[PlannedStep, ...]
    #: Values that fill in inputs.
    wedding: Facts


class PlanShelf:
    """Plans read from Postgres, the newest kept in memory."""

    def __init__(self, db: Database, manifests: dict[str, Manifest]) -> None:
        self._db = db
        self.manifests = manifests
        self._plans: dict[tuple[str, int], Plan] = {}
        self._compiled: dict[tuple[str, int], dict[str, PlannedStep]] = {}

    async def plan(self, organization_id: str, wedding_id: str, version: int) -> Plan:
        """Return the plan; raises NotFound when no such version is stored for the organization."""
        known = self._plans.get((wedding_id, version))
        if known is not None:
            return known
        async with self._db.tenant(organization_id) as conn:
            body = await projection.read_plan(conn, wedding_id, version)
        if body is None:
            raise NotFound(f"wedding {wedding_id} has no plan version {version}")
        plan = Plan.model_validate_json(json.dumps(body))
        if len(self._plans) >= _KEPT_PLANS:
            oldest = next(iter(self._plans))
            del self._plans[oldest]
            self._compiled.pop(oldest, None)
        self._plans[(wedding_id, version)] = plan
        return plan

    def compiled(self, wedding_id: str, version: int, plan: Plan) -> dict[str, PlannedStep]:
        """Return the plan's compiled steps by id, in the order in which they can run."""
        key = (wedding_id, version)
        if key not in self._compiled:
            self._compiled[key] = {step.id: step for step in compile_plan(plan, self.manifests)}
        return self._compiled[key]

    def spec(self, vendor: str, action: str) -> ActionSpec | None:
        """Return how `vendor` carries out `action`; None when it cannot."""
        manifest = self.manifests.get(vendor)
        return manifest.action(action) if manifest else None


async def load_plan(shelf: PlanShelf, wanted: LoadPlan) -> LoadedPlan:
    """Return the compiled plan with its times resolved now."""
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.version)
    return loaded_plan(plan, shelf.compiled(wanted.wedding_id, wanted.version, plan))


def loaded_plan(plan: Plan, steps: Mapping[str, PlannedStep]) -> LoadedPlan:
    """Return the plan as the wedding's workflow needs it, its times resolved by this process's zone data."""
    return LoadedPlan(
        reference=plan.wedding.id,
        locale=plan.wedding.locale,
        zone=plan.wedding.ceremony.zone,
        ceremony_local=plan.wedding.ceremony.at,
        ceremony_at=times.ceremony_instant(plan),
        ends_at=times.end_instant(plan),
        tzdata_version=times.tzdata_version(),
        parallelism=plan.parallelism,
        steps=tuple(steps.values()),
        wedding=facts_of(plan),
    )
