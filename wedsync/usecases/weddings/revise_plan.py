"""Write a new version of a wedding's plan: a new ceremony time, or another vendor for a step."""

from __future__ import annotations

import json
from datetime import datetime

from wedsync.domain.errors import InvalidInput
from wedsync.domain.plans.plan import Plan
from wedsync.domain.plans.validate import check_plan
from wedsync.domain.weddings.messages import Message
from wedsync.store.db.session import Database
from wedsync.store.weddings import projection
from wedsync.usecases.plans.load import LoadedPlan, LoadPlan, PlanShelf, load_plan


class RevisePlan(Message):
    """Changes against `from_version`. The new version is one above the newest: a refused one keeps its number."""

    organization_id: str
    wedding_id: str
    transaction_id: str
    from_version: int
    ceremony_at: str | None = None
    zone: str | None = None
    #: Step → the vendor that a person chose for it.
    vendors: dict[str, str] = {}
    now: datetime


class RevisedPlan(Message):
    """A new version, compiled."""

    version: int
    loaded: LoadedPlan


def revised(plan: Plan, wanted: RevisePlan) -> Plan:
    """Return the plan with the change made. Pure."""
    data = plan.model_dump(mode="json")
    if wanted.ceremony_at:
        data["wedding"]["ceremony"]["at"] = wanted.ceremony_at
        data["wedding"]["ceremony"]["fold"] = None
    if wanted.zone:
        data["wedding"]["ceremony"]["zone"] = wanted.zone
    fallbacks = {service.id: list(service.fallbacks) for service in plan.services}
    for step in data["steps"]:
        if step["id"] in wanted.vendors:
            chosen = wanted.vendors[step["id"]]
            known = fallbacks.get(step["service"], []) if step["fallbacks"] is None else step["fallbacks"]
            step["fallbacks"] = [chosen, *(vendor for vendor in known if vendor != chosen)]
    return Plan.model_validate_json(json.dumps(data))


async def revise_plan(db: Database, shelf: PlanShelf, wanted: RevisePlan) -> RevisedPlan:
    """Write the new version once; a repeated call finds it. Raises InvalidInput when the change makes no valid plan."""
    plan = await shelf.plan(wanted.organization_id, wanted.wedding_id, wanted.from_version)
    changed = revised(plan, wanted)
    errors = check_plan(changed, shelf.manifests)
    if errors:
        first = errors[0]
        raise InvalidInput(f"{first.field}: {first.detail}", field=first.field, reason=first.code)
    async with db.tenant(wanted.organization_id) as conn:
        version = await projection.write_plan(
            conn,
            organization_id=wanted.organization_id,
            wedding_id=wanted.wedding_id,
            body=changed.model_dump_json(),
            transaction_id=wanted.transaction_id,
            now=wanted.now,
        )
    loaded = await load_plan(
        shelf, LoadPlan(organization_id=wanted.organization_id, wedding_id=wanted.wedding_id, version=version)
    )
    return RevisedPlan(version=version, loaded=loaded)
