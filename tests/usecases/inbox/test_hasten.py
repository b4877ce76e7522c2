from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.weddings import RecordWedding, WeddingActivities
from wedsync.domain.errors import TemporalUnreachable
from wedsync.domain.inbox.messages import drain_workflow_id
from wedsync.domain.weddings.projection import WeddingRow
from wedsync.kit.settings import Settings
from wedsync.store.weddings.projection_writer import ProjectionWriter
from wedsync.usecases.inbox.drain import drain_batch
from wedsync.usecases.inbox.hasten import hasten_inbox
from wedsync.usecases.plans.load import PlanShelf
from wedsync.usecases.weddings.links import link_maker
from wedsync.usecases.weddings.write_projection import HeldWriter, WeddingHeader
from wedsync.vendors.registry import load_registry

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


def turned(wedding_id: str, mode: Any, version: int) -> RecordWedding:
    """The wedding's own state, as its workflow has it written."""
    row = WeddingRow(
        status="active", phase="preparation", mode=mode, plan_version=1, ceremony_local="2027-06-19T16:00",
        zone="Europe/Rome", ceremony_at=NOW,
    )  # fmt: skip
    header = WeddingHeader(organization_id="o1", wedding_id=wedding_id, version=version, now=NOW)
    return RecordWedding(header=header, wedding=row)


async def is_drain_signalled(client: Client) -> bool:
    with suppress(RPCError):
        described = await client.get_workflow_handle(drain_workflow_id("critical")).describe()
        return described.status == WorkflowExecutionStatus.RUNNING
    return False


async def test_a_wedding_whose_day_comes_has_its_waiting_events_told_first(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.add_reference(wedding, "pi_1")
    await house.record("named", wedding_id=wedding, step_id="deposit")
    await house.record("held", object_id="pi_1")
    shelf = PlanShelf(house.db, load_registry().manifests)
    writer = HeldWriter(ProjectionWriter(house.db), house.provider)
    worker_activities = WeddingActivities(house.db, writer, shelf, link_maker(Settings()), house.provider)
    await ActivityEnvironment().run(worker_activities.record_wedding, turned(wedding, "normal", 1))
    assert {row.priority for row in (await house.rows()).values()} == {3}
    assert not await is_drain_signalled(house.client)
    await ActivityEnvironment().run(worker_activities.record_wedding, turned(wedding, "wedding_day", 2))
    assert {row.priority for row in (await house.rows()).values()} == {0}
    assert await is_drain_signalled(house.client)
    assert (await drain_batch(house.db, house.provider, "critical", 50, NOW)).claimed == 2
    assert {event.event_id for event in await house.told(wedding)} == {"named", "held"}


@pytest.mark.parametrize("error", [TemporalUnreachable("away"), OSError("away")])
async def test_events_are_raised_although_nobody_can_be_told(house: Any, error: Exception) -> None:
    async def nobody() -> Client:
        raise error

    wedding = await house.add_wedding(mode="wedding_day", is_running=False)
    other = await house.add_wedding(is_running=False)
    # As if it had been recorded before that day.
    await house.record("early", wedding_id=other)
    assert await hasten_inbox(house.db, nobody, other) == 0
    await house.record("late", priority=4, wedding_id=wedding)
    assert await hasten_inbox(house.db, nobody, wedding) == 0
    async with house.db.system() as connection:
        await connection.exec_driver_sql("UPDATE inbox SET priority = 3 WHERE event_id = 'late'")
    assert await hasten_inbox(house.db, nobody, wedding) == 1
    assert {name: row.priority for name, row in (await house.rows()).items()} == {"early": 3, "late": 0}
