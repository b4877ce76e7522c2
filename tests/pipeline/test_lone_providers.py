"""Who has nobody set up to stand in for it, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.support.routing import a_call, configure, eventually, fail, married_at, open_admission_controller, rows
from tests.support.stage import stage_settings
from tests.support.stages import stage_sandbox
from wedsync.domain.access.principal import Principal
from wedsync.domain.errors import Conflict
from wedsync.domain.health.status import Health
from wedsync.kit.clock import utc_now
from wedsync.kit.http import new_pool
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.pipeline.admission import AdmissionController
from wedsync.pipeline.pipeline import VendorGateway
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.store.health import queries as health
from wedsync.usecases.health.read import read_health, read_history
from wedsync.usecases.health.watch import Watch
from wedsync.usecases.routing.operate import Operator
from wedsync.vendors.registry import load_registry, set_up_vendors

__all__ = ["stage_sandbox"]

STUCK = {"open_seconds": 3600.0, "open_cap_seconds": 3600.0}


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    """Of a platform that has an account at Stripe and nowhere else."""
    async with open_admission_controller(fresh_database_urls.app, set_up=["stripe"]) as opened:
        await configure(opened, circuit=STUCK)
        yield opened


def test_set_up_are_those_with_an_account_or_an_address() -> None:
    vendors = {
        "stripe": VendorSettings(api_key=SecretStr("k")),
        "paypal": VendorSettings(client_id="c"),
        "twilio": VendorSettings(base_url="http://127.0.0.1:1"),
        "vonage": VendorSettings(webhook_secret=SecretStr("s")),
    }
    found = set_up_vendors(Settings(vendors=vendors), load_registry().manifests)
    assert found == {"stripe", "paypal", "twilio", "generic"}


async def test_a_service_whose_backups_nobody_has_set_up_is_never_cut_off(controller: AdmissionController) -> None:
    await fail(controller, 20)
    await controller.call_recorder.flush()
    assert controller.routing_table.circuit("stripe", "default").state == "closed"
    assert (await controller.admit(a_call())).probe is None
    assert await rows(controller, "SELECT * FROM failovers") == []


async def test_a_hand_that_leaves_it_is_warned(controller: AdmissionController) -> None:
    hand = Operator(controller.breakers, Principal(organization_id="studio", key_id="k1"), utc_now())
    with pytest.raises(Conflict) as caught:
        await hand.failover("stripe", "default", "trigger")
    assert caught.value.reason == "last_provider"


async def test_its_failover_names_a_backup_that_is_set_up(fresh_database_urls: Any) -> None:
    async with open_admission_controller(fresh_database_urls.app, set_up=["stripe", "paypal", "generic"]) as controller:
        await configure(controller, circuit=STUCK, backups=("vonage", "paypal"))
        await fail(controller)
        await eventually(lambda: controller.routing_table.circuit("stripe", "default").state == "open")
        (record,) = await rows(controller, "SELECT to_service FROM failovers")
        assert record.to_service == "paypal"


@pytest.mark.parametrize(("set_up", "ready"), [(["stripe"], False), (["stripe", "paypal"], True)])
async def test_weddings_can_be_held_only_by_who_is_set_up(
    fresh_database_urls: Any, set_up: list[str], ready: bool
) -> None:
    now = utc_now()
    async with open_admission_controller(fresh_database_urls.app, set_up=set_up) as controller:
        await married_at(controller, now + timedelta(hours=20))
        async with controller.breakers.db.system() as conn:
            await health.ensure(conn, ["stripe"], now)
            down = Health(status="down", since=now, checked_at=now)
            await health.write(conn, "stripe", Health(since=now), down, now)
        report = await read_health(controller.breakers.db, controller.routing_table, now, None)
        assert report.wedding_day_readiness.ready is ready
        assert report.wedding_day_readiness.blocking == (() if ready else ("stripe",))


async def test_its_calls_say_that_it_is_down_though_its_circuit_stays_closed_and_its_health_path_answers(
    controller: AdmissionController, stage_sandbox: EmbeddedSandbox, tmp_path: Path
) -> None:
    pool = new_pool()
    settings = stage_settings("", stage_sandbox, tmp_path)
    watch = Watch(VendorGateway(settings, load_registry(), pool, controller), controller)
    begin = utc_now()
    await watch.chores(begin)
    await watch.probe_due(begin)
    await fail(controller, 20)
    await controller.call_recorder.flush()
    await watch.probe_due(begin + timedelta(seconds=11))
    await watch.probe_due(begin + timedelta(seconds=22))
    found = await rows(
        controller,
        "SELECT source, status FROM health_changes WHERE service = 'stripe' AND source <> 'circuit' ORDER BY id",
    )
    assert [(row.source, row.status) for row in found] == [("probe", "healthy"), ("calls", "down")]
    assert controller.routing_table.circuit("stripe", "default").state == "closed"
    report = await read_health(controller.breakers.db, controller.routing_table, utc_now(), None)
    assert next(api.status for api in report.apis if api.service == "stripe") == "down"
    now = utc_now()
    history = await read_history(controller.breakers.db, "org", "stripe", begin, now, now=now)
    assert history.down_seconds > 0
    await pool.aclose()
