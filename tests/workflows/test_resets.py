"""An operator may reset a wedding's workflow to any point: nothing is done twice, and the new run goes on."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from bench.plans import elopement
from tests.support.plans import booking, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged
from tests.support.stages import SkippingStage
from wedsync.domain.plans.plan import Plan
from wedsync.kit.ids import new_id

#: The five-step plan's workflow tasks; the last one settles. Two side by side may share one.
TASKS = 8


def own_plan() -> Plan:
    """The five-step plan with a text of its own: Twilio's list cannot tell two equal messages apart."""
    data = elopement(f"w-{new_id().lower()}").model_dump(mode="json")
    data["steps"][-1]["inputs"]["text"] = f"Booked: {data['wedding']['id']}"
    return Plan.model_validate_json(json.dumps(data))


async def task_ends(wedding: Staged) -> list[int]:
    """The events by which the workflow's tasks ended, in order."""
    history = await wedding.handle.fetch_history()
    return [e.event_id for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]


async def reset(wedding: Staged, to_event: int) -> str:
    """Reset the workflow to the end of a task; returns the new run's id."""
    client, described = wedding.stage.client, await wedding.handle.describe()
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=described.id, run_id=described.run_id),
            reason="a test",
            workflow_task_finish_event_id=to_event,
            request_id=str(uuid.uuid4()),
        )
    )
    return answer.run_id


async def until_done(wedding: Staged) -> None:
    """Wait until every step is done by the workflow's own word."""
    await wedding.when("plan", lambda found: all(step["status"] == "succeeded" for step in found.values()), 60)


@pytest.mark.parametrize("task", range(TASKS))
async def test_after_a_reset_to_any_task_every_effect_stands_once(stage: Stage, task: int) -> None:
    wedding = await stage.wedding(own_plan())
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await wedding.until_history_rests()
    before = sorted((e["vendor"], e["object_id"], e["state"]) for e in await wedding.ledger())
    sent = {row.step_id: row.external_id for row in (await wedding.steps()).values()}
    ends = await task_ends(wedding)
    assert len(ends) in (TASKS - 1, TASKS)
    run = await reset(wedding, ends[min(task, len(ends) - 1)])
    await until_done(wedding)
    await wedding.at_rest()
    assert sorted((e["vendor"], e["object_id"], e["state"]) for e in await wedding.ledger()) == before
    assert {row.step_id: row.external_id for row in (await wedding.steps()).values()} == sent
    assert (await wedding.transaction(tx)).status == "completed"
    # The new run goes on with the wedding: it can undo what the old one did.
    undo = await wedding.request_change("undo", everything=True)
    row = await wedding.until(undo, "rolled_back")
    assert row.run_id == run
    assert {e["state"] for e in await wedding.ledger() if e["step_id"] in ("venue", "dinner", "photos")} == {"undone"}


async def test_what_no_run_has_sent_is_sent_once_its_absence_counts(skipping: SkippingStage, puppet: Puppet) -> None:
    wedding = await skipping.wedding(plan(booking("first", "finder"), booking("second", "finder", needs=["first"])))
    puppet.will(wedding.id, "second.reserve", *["down"] * 6)
    tx = await wedding.request_change()
    await wedding.until_said(puppet, 3, is_busy=True)
    await reset(wedding, (await task_ends(wedding))[0])
    puppet.answers.pop((wedding.id, "second.reserve"))
    await skipping.until(wedding, tx, "completed", step=timedelta(minutes=2))
    assert {i: row.status for i, row in (await wedding.steps()).items()} == {
        "first": "succeeded",
        "second": "succeeded",
    }
    made = [call.idempotency_key for _, _, call in puppet.asked if call.wedding_id == wedding.id]
    assert len(puppet.effects & set(made)) == 2
    # What the old run had done was found; what it had not was looked for before it was sent.
    said = puppet.said(wedding.id)
    after = said[said.index("find reserve") :]
    assert after[0] == "find reserve"
    assert Counter(after)["send reserve"] == 1


async def test_a_word_that_came_after_a_settling_is_not_lost_to_a_reset_before_both(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("hall", "paper"), booking("band", "paper")))
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.until_history_rests()
    waiting = (await task_ends(wedding))[-1]
    for step_id in ("hall", "band"):
        await wedding.say(step_id, "hand.confirmed")
        await wedding.until_step(step_id, "succeeded")
        await wedding.until_history_rests()
    # The new run hears both at once, and finds its first transaction settled: that one had heard the hall alone.
    await reset(wedding, waiting)
    await until_done(wedding)
