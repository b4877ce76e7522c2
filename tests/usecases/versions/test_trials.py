"""A new version is tried out beside the service that everybody uses, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.routing import configure, open_admission_controller, pass_one, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.errors import VendorUnavailable
from wedsync.domain.routing import circuit_breaker as rules
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.versions.migration import Migration, MigrationRules
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp, new_pool
from wedsync.kit.vendor import Account
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.endpoint_selector import Situation
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.health import queries as health
from wedsync.usecases.versions import advance_migration as step
from wedsync.vendors.registry import load_registry

__all__ = ["stage_sandbox"]

TRIAL = Situation(is_trial=True)
OLD, NEW = "2026-10-28.endive", "2026-09-30.endive"
STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0}


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    async with open_admission_controller(fresh_database_urls.app) as opened:
        await configure(opened, circuit=STUCK)
        yield opened


async def test_a_new_version_that_fails_its_reads_cuts_off_nobody(
    controller: AdmissionController, stage_sandbox: EmbeddedSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def objects(*_: Any) -> list[Any]:
        named = {"organization_id": "studio", "transaction_id": "t", "step_id": "s", "account": "default"}
        paid = {**named, "action": "payments.collect"}
        return [SimpleNamespace(**paid, wedding_id=f"w{n}", object_id=f"pi_{n}") for n in range(20)]

    class Client:
        def __init__(self, _: VendorHttp, account: Account) -> None:
            self._version = account.api_version

        async def inspect(self, call: Call) -> Effect:
            if self._version == NEW:
                raise VendorUnavailable("it answered 500", vendor="stripe", status=500)
            return Effect(state="done", external_id=str(call.facts["payment_id"]))

    monkeypatch.setattr(step.versions, "objects", objects)
    monkeypatch.setattr("wedsync.vendors.registry.Registry.client_class", lambda *_: Client)
    now = utc_now()
    pool = new_pool()
    settings = stage_settings("postgresql://unused", stage_sandbox, tmp_path)
    migration = Migration(
        id="m1", service="stripe", from_version=OLD, to_version=NEW, rules=MigrationRules(), stage="shadow",
        stage_since=now, observed_from=now, started_at=now,
    )  # fmt: skip
    found = await step._compare(VendorGateway(settings, load_registry(), pool, controller), controller, migration)
    await pool.aclose()
    assert found == {"readable": 20, "compared": 0, "different": 0}
    await controller.call_recorder.flush()
    assert controller.routing_table.circuit("stripe", "default").state == "closed"
    assert await rows(controller, "SELECT from_service FROM failovers") == []
    recorded = await rows(
        controller, "SELECT version, outcome, count(*) AS n FROM vendor_calls GROUP BY 1, 2 ORDER BY 1"
    )
    assert [tuple(row) for row in recorded] == [(NEW, "vendor_unavailable", 20), (OLD, "ok", 20)]
    async with controller.breakers.db.system() as conn:
        assert await health.failing(conn, "stripe", now - timedelta(minutes=1)) == 0


async def test_a_trial_takes_no_permit_from_those_who_want_the_service_back(controller: AdmissionController) -> None:
    long_ago = utc_now() - timedelta(hours=2)
    policy = controller.routing_table.policy("stripe")
    await controller.breakers.apply(
        "stripe", "default", lambda c, _: rules.opened(c, long_ago, policy, "test"), long_ago
    )
    with pytest.raises(VendorUnavailable) as refused:
        await pass_one(controller, ok=True, situation=TRIAL)
    assert refused.value.reason == "circuit_open"
    assert await rows(controller, "SELECT slot FROM probe_permits WHERE leased_until IS NOT NULL") == []
    assert (await pass_one(controller, ok=True)).probe is not None
