"""Forecast the calls that running plans will make, and preview when further requests could be carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from wedsync.domain.errors import InvalidInput
from wedsync.domain.quotas import forecast
from wedsync.domain.quotas import schedule as rules
from wedsync.domain.quotas.forecast import Demand, Predicted
from wedsync.domain.quotas.quota import Quota, QuotaPolicy
from wedsync.domain.quotas.schedule import HORIZON, Schedule, ScheduleRequest
from wedsync.domain.value import Value
from wedsync.domain.vendors.manifest import Manifest
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.quotas import queries as quotas
from wedsync.store.quotas.queries import Key


class Forecast(Value):
    """Expected calls of every account with limits."""

    since: datetime
    until: datetime
    #: The windows in which plans will use at least half of the limit, at most 1,000.
    busy: tuple[Predicted, ...]
    #: Those in which the limit will not suffice: some calls will wait for the next one.
    conflicts: tuple[Predicted, ...]
    #: Calls to come that were counted, and steps that can't be counted yet, since they wait for another to end.
    calls: int
    undated_steps: int


_MOST_SHOWN = 1000


def _calls_of(manifest: Manifest, action: str) -> int:
    spec = manifest.action(action)
    return len(spec.operations) if spec is not None else 0


async def _demand(
    controller: AdmissionController, manifests: dict[str, Manifest], since: datetime, until: datetime
) -> list[Demand]:
    async with controller.breakers.db.system() as conn:
        rows = await quotas.read_planned(conn, since, until)
    found = []
    for row in rows:
        each = _calls_of(manifests[row.service], row.action) if row.service in manifests else 0
        if each:
            demand = Demand(
                service=row.service, account=row.account, at=row.at, calls=each * row.steps, weddings=row.weddings
            )
            found.append(demand)
    return found


async def _stands(
    controller: AdmissionController, keys: Sequence[Key]
) -> tuple[dict[Key, QuotaPolicy], dict[Key, Quota]]:
    async with controller.breakers.db.system() as conn:
        rows = await quotas.read_all(conn)
    return {key: controller.routing_table.quota_policy(*key) for key in keys}, rows


async def forecast_quotas(
    controller: AdmissionController, manifests: dict[str, Manifest], since: datetime, until: datetime
) -> Forecast:
    """Count what running plans will use of each window between the two. Raises StoreUnavailable."""
    demand = await _demand(controller, manifests, since, until)
    keys = sorted({(one.service, one.account) for one in demand} | set(controller.routing_table.accounts()))
    policies, rows = await _stands(controller, keys)
    found = forecast.predicted(demand, policies, rows)
    async with controller.breakers.db.system() as conn:
        undated = await quotas.count_undated(conn)
    return Forecast(
        since=since,
        until=until,
        busy=tuple(one for one in found if 2 * (one.calls + one.reserved) >= one.limit)[:_MOST_SHOWN],
        conflicts=tuple(one for one in found if one.over_by)[:_MOST_SHOWN],
        calls=sum(one.calls for one in demand),
        undated_steps=undated,
    )


async def preview_schedule(
    controller: AdmissionController,
    manifests: dict[str, Manifest],
    organization_id: str,
    requests: Sequence[ScheduleRequest],
    now: datetime,
) -> Schedule:
    """Tell when the requests could be carried out beside the plans' calls; nothing is acquired.

    Raises InvalidInput for an id given twice, an unknown service or wedding; StoreUnavailable.
    """
    _check(controller, requests)
    demand = await _demand(controller, manifests, now - timedelta(days=1), now + HORIZON)
    weddings = sorted({one.wedding_id for one in requests if one.wedding_id is not None})
    async with controller.breakers.db.tenant(organization_id) as conn:
        ceremonies = await quotas.read_ceremonies(conn, weddings)
    for place, one in enumerate(requests):
        if one.wedding_id is not None and one.wedding_id not in ceremonies:
            raise InvalidInput(f"no wedding {one.wedding_id!r}", field=f"requests[{place}].wedding_id")
    keys = sorted({(one.service, one.account) for one in requests} | {(one.service, one.account) for one in demand})
    policies, rows = await _stands(controller, keys)
    # Up to a second's work: beside the event loop.
    return await asyncio.to_thread(rules.schedule, requests, policies, rows, demand, ceremonies, now)


def _check(controller: AdmissionController, requests: Sequence[ScheduleRequest]) -> None:
    seen = set()
    for place, one in enumerate(requests):
        if one.id in seen:
            raise InvalidInput(f"{one.id!r} is given twice", field=f"requests[{place}].id")
        seen.add(one.id)
        if one.service not in controller.routing_table.services():
            raise InvalidInput(f"there is no service {one.service!r}", field=f"requests[{place}].service")
