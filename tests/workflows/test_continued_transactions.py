"""A transaction outlives its run: at a quiet point it goes on in a new one, with every wait an instant."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from tests.support.plans import booking, event, plan
from tests.support.puppet import Puppet
from tests.support.stage import Staged
from tests.support.stages import SkippingStage
from wedsync.domain.weddings import saga

CARRIED_BYTES = 256 * 1024


async def runs(wedding: Staged) -> list[str]:
    """The workflow's runs, the newest first; each was begun with less than what a run may carry."""
    client, found = wedding.stage.client, []
    run_id: str | None = (await wedding.handle.describe()).run_id
    while run_id:
        history = await client.get_workflow_handle(wedding.handle.id, run_id=run_id).fetch_history()
        started = history.events[0].workflow_execution_started_event_attributes
        assert sum(len(payload.data) for payload in started.input.payloads) < CARRIED_BYTES
        found.append(run_id)
        run_id = started.continued_execution_run_id
    return found


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are long after a few events."""
    monkeypatch.setattr(saga, "LONG_HISTORY_EVENTS", 80)


async def test_a_step_that_is_tried_for_hours_goes_on_in_new_runs(
    skipping: SkippingStage, puppet: Puppet, short_runs: None
) -> None:
    wedding = await skipping.wedding(
        plan(booking("hall", "replayer", timeout="12h"), booking("room", "finder"), event(needs=["hall"]))
    )
    puppet.will(wedding.id, "hall.reserve", *["down"] * 40)
    tx = await wedding.request_change()
    await skipping.until(wedding, tx, "completed", step=timedelta(minutes=10))
    steps = await wedding.steps()
    assert {i: step.status for i, step in steps.items()} == dict.fromkeys(("hall", "room", "event"), "succeeded")
    assert steps["hall"].attempts == 41
    assert len(await runs(wedding)) >= 3
    # One key for all: no vendor could have done it twice.
    calls = [call for call in puppet.calls(wedding.id, "reserve") if call.step_id == "hall"]
    assert (len(calls), len({call.idempotency_key for call in calls})) == (41, 1)
    assert len({(call.model_dump_json()) for call in calls}) == 1
    assert Counter(e["step_id"] for e in await wedding.ledger()) == {"event": 1}


async def test_an_undo_asked_for_in_a_later_run_undoes_what_an_earlier_one_did(
    skipping: SkippingStage, puppet: Puppet, short_runs: None
) -> None:
    wedding = await skipping.wedding(plan(booking("room", "replayer"), booking("hall", "replayer", timeout="12h")))
    puppet.will(wedding.id, "hall.reserve", *["down"] * 200)
    tx = await wedding.request_change()
    await wedding.until_step("room", "succeeded")
    handle = skipping.env.client.get_workflow_handle(wedding.handle.id)
    await skipping.env.fast_forward(handle, timedelta(minutes=40))
    assert len(await runs(wedding)) >= 2
    puppet.will(wedding.id, "room.release", *["down"] * 30)
    undo = await wedding.request_change("undo", target=tx, cancel=True)
    await skipping.until(wedding, tx, "cancelled", step=timedelta(minutes=5))
    await skipping.until(wedding, undo, "rolled_back", step=timedelta(minutes=5))
    room = (await wedding.steps())["room"].compensation
    assert (room["status"], room["attempts"]) == ("undone", 31)
    assert len({call.idempotency_key for call in puppet.calls(wedding.id, "release")}) == 1


async def test_a_lost_outcome_is_still_unknown_in_the_next_run(
    skipping: SkippingStage, puppet: Puppet, short_runs: None
) -> None:
    wedding = await skipping.wedding(plan(booking("hall", "finder", timeout="12h")))
    puppet.will(wedding.id, "reserve", "lost")
    puppet.will(wedding.id, "find", *["down"] * 30)
    tx = await wedding.request_change()
    await skipping.until(wedding, tx, "completed", step=timedelta(minutes=5))
    assert len(await runs(wedding)) >= 2
    assert Counter(puppet.said(wedding.id)) == {"send reserve": 1, "find reserve": 31}


async def test_a_change_is_put_back_in_a_later_run(skipping: SkippingStage, puppet: Puppet, short_runs: None) -> None:
    wedding = await skipping.wedding(plan(booking("room", "replayer"), booking("hall", "replayer", needs=["room"])))
    await wedding.until(await wedding.request_change(), "completed")
    puppet.will(wedding.id, "hall.move", *["down"] * 20, "reject")
    puppet.will(wedding.id, "room.move", "ok", *["down"] * 20)
    moved = await wedding.request_change("timeline", ceremony_at="2027-09-01T15:00")
    await skipping.until(wedding, moved, "rolled_back", step=timedelta(minutes=5))
    assert len(await runs(wedding)) >= 2
    assert (await wedding.steps())["room"].compensation["status"] == "undone"


async def test_five_hundred_steps_and_a_week_of_retries_end_well(skipping: SkippingStage, puppet: Puppet) -> None:
    first = booking("hall", "replayer", timeout="10d")
    rest = [booking(f"b{n}", needs=["hall"], service=None, services=["replayer", "finder"]) for n in range(249)]
    last = booking("last", "harmless", needs=["hall"])
    wedding = await skipping.wedding(plan(first, *rest, last, parallelism=50))
    puppet.will(wedding.id, "hall.reserve", *["down"] * 900)
    tx = await wedding.request_change()
    handle = skipping.env.client.get_workflow_handle(wedding.handle.id)
    await skipping.env.fast_forward(handle, timedelta(days=7))
    puppet.answers[(wedding.id, "hall.reserve")].clear()
    await skipping.until(wedding, tx, "completed", step=timedelta(minutes=10), most=20)
    assert Counter(step.status for step in (await wedding.steps()).values()) == {"succeeded": 500}
    sent = Counter(call.step_id for call in puppet.calls(wedding.id, "reserve"))
    assert (len(sent), sent.pop("hall") > 300, set(sent.values())) == (500, True, {1})
    assert len(await runs(wedding)) >= 2
