"""What a process knows while a newer release writes to the same Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.routing import a_call, configure, fail, open_admission_controller, pass_one
from wedsync.domain.quotas.quota import QuotaPolicy, WindowLimit
from wedsync.domain.vendors.manifest import VersionSpec
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController
from wedsync.store.quotas import queries as quotas
from wedsync.store.versions import queries as versions

HOUR = QuotaPolicy(windows=(WindowLimit(window="hour", limit=1000),))
NEWER = '{"added_by_a_newer_release": [1]}'


@pytest.fixture
async def controller(fresh_database_urls: Any) -> AsyncIterator[AdmissionController]:
    """Whose rows are all there: configuration, circuit, limits, what was taken of them, and a version."""
    async with open_admission_controller(fresh_database_urls.app) as opened:
        await configure(opened, circuit={"min_calls": 100}, dependency="optional")
        async with opened.breakers.db.system() as conn:
            await quotas.put_policy(conn, ("stripe", "default"), HOUR, "key:test", utc_now())
            await versions.put_spec(conn, "stripe", VersionSpec(name="next"), "key:test", utc_now())
        await opened.routing_table.load()
        await fail(opened, 1)
        await opened.call_recorder.flush()
        yield opened


async def run(controller: AdmissionController, *statements: str) -> None:
    async with controller.breakers.db.system() as conn:
        for statement in statements:
            assert (await conn.execute(text(statement))).rowcount


async def test_keys_that_a_newer_release_has_added_are_passed_over(controller: AdmissionController) -> None:
    await run(
        controller,
        f"UPDATE services SET config = config || '{NEWER}'",
        f"UPDATE services SET config = jsonb_set(config, '{{circuit}}', config -> 'circuit' || '{NEWER}')",
        f'UPDATE circuits SET "window" = jsonb_build_array("window" -> 0 || \'{NEWER}\')',
        f"UPDATE quota_policies SET policy = policy || '{NEWER}'",
        f"UPDATE quotas SET state = state || '{NEWER}'",
        f"UPDATE vendor_versions SET spec = spec || '{NEWER}'",
    )
    await controller.routing_table.load()
    assert (
        controller.routing_table.config("stripe").dependency,
        controller.routing_table.policy("stripe").min_calls,
    ) == ("optional", 100)
    assert controller.routing_table.quota_policy("stripe", "default") == HOUR
    assert controller.routing_table.quota("stripe", "default").counters
    assert "next" in controller.routing_table.versions("stripe")
    for _ in range(3):
        await pass_one(controller, ok=False)
    await controller.call_recorder.flush()
    assert sum(bucket.failed for bucket in controller.routing_table.circuit("stripe", "default").window) == 4


async def test_a_row_that_can_not_be_read_keeps_no_other_from_being_heard_of(controller: AdmissionController) -> None:
    before = controller.routing_table.config("stripe")
    await run(
        controller,
        'UPDATE services SET config = config || \'{"strategy": "by_moon"}\'',
        'UPDATE vendor_versions SET spec = spec || \'{"status": "by_moon"}\'',
        'UPDATE quota_policies SET policy = \'{"windows": [{"window": "moon", "limit": 1}]}\'',
        "UPDATE circuits SET state = 'eclipsed'",
    )
    await configure(controller, "paypal", dependency="optional")
    assert controller.routing_table.config("paypal").dependency == "optional"
    assert controller.routing_table.config("stripe") == before
    assert controller.routing_table.quota_policy("stripe", "default") == HOUR
    assert "next" in controller.routing_table.versions("stripe")
    assert controller.routing_table.circuit("stripe", "default").state == "closed"
    admission = await controller.admit(a_call())
    assert admission.quota_left is not None
