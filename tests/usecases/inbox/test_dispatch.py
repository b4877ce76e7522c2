from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle

from wedsync.dispatch.inbox import InboxDispatcher
from wedsync.domain.inbox.messages import DrainTotals, drain_workflow_id
from wedsync.usecases.inbox.drain import drain_batch
from wedsync.usecases.inbox.sweep import GRACE, sweep_inbox

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)


async def signals(handle: WorkflowHandle[Any, Any]) -> int:
    history = await handle.fetch_history()
    return sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events)


async def test_many_tells_become_few_and_the_last_is_never_lost(house: Any) -> None:
    dispatcher = InboxDispatcher(house.provider, interval_seconds=0.05)
    dispatcher.dispatch("normal")
    await dispatcher.close()
    handle = house.client.get_workflow_handle(drain_workflow_id("normal"))
    before = await signals(handle)
    for _ in range(500):
        dispatcher.dispatch("normal")
    await dispatcher.close()
    assert await signals(handle) == before + 1
    dispatcher.dispatch("normal")
    await dispatcher.close()
    assert await signals(handle) == before + 2


async def test_a_tell_during_a_tell_is_followed_by_another(house: Any) -> None:
    calls: list[int] = []

    async def provider() -> Client:
        # What is recorded while the first tell is under way must be told too.
        calls.append(1)
        if len(calls) == 1:
            dispatcher.dispatch("critical")
        return await house.provider()

    dispatcher = InboxDispatcher(provider, interval_seconds=0.05)
    dispatcher.dispatch("critical")
    await dispatcher.close()
    assert await signals(house.client.get_workflow_handle(drain_workflow_id("critical"))) == 2


async def test_a_tell_that_fails_stops_nobody_and_the_next_one_works(house: Any) -> None:
    failures = [OSError("down")]

    async def provider() -> Client:
        if failures:
            raise failures.pop()
        return await house.provider()

    dispatcher = InboxDispatcher(provider, interval_seconds=0.01)
    dispatcher.dispatch("normal")
    await dispatcher.close()
    dispatcher.dispatch("normal")
    await dispatcher.close()
    assert await signals(house.client.get_workflow_handle(drain_workflow_id("normal"))) == 1


async def test_the_sweep_tells_lanes_whose_rows_were_missed_and_no_others(house: Any) -> None:
    wedding = await house.add_wedding()
    await house.record("evt_1", wedding_id=wedding)
    assert (await sweep_inbox(house.db, house.provider, NOW + GRACE)).signalled == ()
    swept = await sweep_inbox(house.db, house.provider, NOW + GRACE + timedelta(seconds=1))
    assert swept.signalled == ("normal",)
    assert await signals(house.client.get_workflow_handle(drain_workflow_id("normal"))) == 1


async def test_the_sweep_wakes_what_nobody_claimed_once_a_step_holds_its_object(house: Any) -> None:
    wedding, late = await house.add_wedding(), NOW + timedelta(minutes=9)
    await house.record("early", object_id="pi_1")
    await house.record("nobodys", object_id="pi_2")
    for moment in (NOW - timedelta(hours=1), NOW - timedelta(minutes=30)):
        await house.record("old", object_id="pi_1", received_at=moment)
        await drain_batch(house.db, house.provider, "normal", 50, moment)
    for moment in (NOW, late):
        await drain_batch(house.db, house.provider, "normal", 50, moment)
    assert {row.due_at for row in (await house.rows()).values()} == {None}
    assert (await sweep_inbox(house.db, house.provider, late)).signalled == ()
    await house.add_reference(wedding, "pi_1", at=late + timedelta(hours=5))
    soon = late + timedelta(hours=5, minutes=1)
    assert (await sweep_inbox(house.db, house.provider, soon)).signalled == ("normal",)
    assert {name for name, row in (await house.rows()).items() if row.due_at} == {"early", "old"}
    drained = await drain_batch(house.db, house.provider, "normal", 50, soon)
    assert drained.totals == DrainTotals(processed=2)
    assert {event.event_id for event in await house.told(wedding)} == {"early", "old"}
