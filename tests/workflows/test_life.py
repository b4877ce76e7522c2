from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from tests.support.plans import booking, email, event, payment, plan
from tests.support.puppet import Puppet
from tests.support.stage import Stage, Staged, read_example
from tests.support.stages import SkippingStage
from wedsync.dispatch import weddings as tell_module
from wedsync.dispatch.weddings import redispatch_transactions
from wedsync.domain.failure import BUG
from wedsync.domain.weddings import saga
from wedsync.domain.weddings.messages import TransactionRequest, WeddingStart
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id

SOON = (datetime.now(ZoneInfo("Europe/Rome")) + timedelta(days=3)).strftime("%Y-%m-%dT%H:00")


async def wedding_row(wedding: Staged) -> tuple[str, str, str]:
    async with wedding.stage.db.tenant(wedding.organization_id) as conn:
        row = (await conn.execute(text("SELECT * FROM weddings WHERE id = :id"), {"id": wedding.id})).one()
    return (row.status, row.phase, row.mode)


async def until_row(wedding: Staged, *expected: str, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await wedding_row(wedding) == expected:
                return
            await asyncio.sleep(0.02)


# -- phases, mode, end


async def test_a_wedding_turns_from_phase_to_phase_and_ends(skipping: SkippingStage) -> None:
    wedding = await skipping.wedding(
        plan(booking("venue"), email("thanks", at="ceremony + 1d"), ceremony=SOON, ends_after="2d")
    )
    await wedding.until(await wedding.request_change(), "completed")
    await until_row(wedding, "active", "preparation", "normal")
    ceremony_at = datetime.fromisoformat(SOON).replace(tzinfo=ZoneInfo("Europe/Rome")).astimezone(UTC)
    away = ceremony_at - await skipping.now(wedding.handle)
    await skipping.forward(wedding, away - timedelta(hours=23))
    await until_row(wedding, "active", "preparation", "wedding_day")
    await skipping.forward(wedding, timedelta(hours=23, minutes=10))
    await until_row(wedding, "active", "ceremony", "wedding_day")
    await skipping.forward(wedding, timedelta(hours=2))
    await until_row(wedding, "active", "reception", "wedding_day")
    await skipping.forward(wedding, timedelta(hours=12))
    await until_row(wedding, "active", "cleanup", "normal")
    await skipping.forward(wedding, timedelta(hours=20))
    await wedding.until_step("thanks", "succeeded")
    await wedding.at_rest()
    await skipping.end(wedding)
    await until_row(wedding, "ended", "cleanup", "normal")
    assert await wedding.handle.result() == "ended"


async def test_wedding_day_calls_have_a_queue_and_a_priority_of_their_own(
    skipping: SkippingStage,
) -> None:
    wedding = await skipping.wedding(
        plan(booking("venue"), booking("food", "caterer", at="ceremony - 6h"), ceremony=SOON)
    )
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await skipping.forward(wedding, timedelta(days=3))
    await wedding.until_step("food", "succeeded")
    history = await wedding.handle.fetch_history()
    found = [
        e.activity_task_scheduled_event_attributes
        for e in history.events
        if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert {a.priority.fairness_key for a in found} == {wedding.organization_id}
    calls = [(a.task_queue.name, a.priority.priority_key) for a in found if a.activity_type.name == "vendor.call"]
    # Each booking is two calls.
    assert calls == [("vendor", 3)] * 2 + [("vendor-critical", 1)] * 2


# -- what is lost and found


async def broken(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[Staged, str]:
    """A wedding whose first transaction broke by an error of ours when it had booked one of two."""
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer", needs=["venue"])))
    reference = saga.reference

    def named(wedding_id: str, tx: str, step_id: str, *more: Any) -> str:
        if (wedding_id, step_id) == (wedding.id, "food"):
            raise RuntimeError("a bug of ours")
        return reference(wedding_id, tx, step_id, *more)

    monkeypatch.setattr(saga, "reference", named)
    tx = await wedding.request_change()
    row = await wedding.until(tx, "needs_attention")
    assert row.error["code"] == BUG
    return wedding, tx


async def test_a_transaction_that_broke_leaves_what_was_under_way_to_a_person(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wedding, _ = await broken(stage, monkeypatch)
    waiting = await wedding.when("waiting", bool)
    assert {(w["step_id"], w["what"]) for w in waiting} == {("food", "decision")}
    assert {i: row.status for i, row in (await wedding.steps()).items()} == {"venue": "succeeded", "food": "held"}


async def test_a_step_that_got_lost_is_not_done_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    wedding, _ = await broken(stage, monkeypatch)
    row = await wedding.until(await wedding.decide("food", "retry"), "cancelled")
    assert row.error["code"] == "outcome_unknown"
    await wedding.until(await wedding.decide("food", "skip"), "completed")


@pytest.mark.parametrize("asks", ["rollback", "undo"])
async def test_an_undo_of_what_got_lost_sends_a_person_to_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    wedding, tx = await broken(stage, monkeypatch)
    undo = await (
        wedding.decide("food", "rollback") if asks == "rollback" else wedding.request_change("undo", target=tx)
    )
    await wedding.until(undo, "needs_attention")
    shown = {i: s.compensation["status"] for i, s in (await wedding.steps()).items()}
    assert shown == {"venue": "undone", "food": "needs_attention"}
    # Who looked asks again.
    await wedding.until(await wedding.request_change("undo", target=tx), "rolled_back")
    assert [s.compensation["status"] for s in (await wedding.steps()).values()] == ["undone"] * 2
    await wedding.until(tx, "rolled_back")


async def reset_to_its_beginning(wedding: Staged, temporal_client: Client) -> None:
    """What an operator does who wants the wedding to live its life once more."""
    history = await wedding.handle.fetch_history()
    started = next(e.event_id for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    await temporal_client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal_client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=wedding.handle.id),
            reason="an operator's",
            workflow_task_finish_event_id=started,
            reset_reapply_type=ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE,
            request_id=new_id(),
        )
    )


async def test_a_wedding_that_was_reset_takes_in_what_its_transaction_came_to(
    stage: Stage, temporal_client: Client
) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"])))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.at_rest()
    await reset_to_its_beginning(wedding, temporal_client)
    assert len(await wedding.when("ledger", lambda ledger: len(ledger) == 2)) == 2
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
    assert sorted(e["state"] for e in await wedding.ledger() if e["vendor"] == "generic") == ["active"]


async def test_a_wedding_that_was_reset_goes_on_with_its_transaction_that_still_runs(
    stage: Stage, temporal_client: Client
) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("food", "caterer", needs=["venue"])))
    await stage.sandbox.faults(
        "generic", mode="slow", operation="caterer.request", delay_ms=1500, wedding_id=wedding.id
    )
    tx = await wedding.request_change()
    await wedding.until_step("food", "running")
    await reset_to_its_beginning(wedding, temporal_client)
    await wedding.until(tx, "completed")
    ledger = await wedding.when("ledger", lambda ledger: len(ledger) == 2)
    assert set(ledger) == {"venue", "food"}


async def test_repair_rewrites_a_projection_that_was_damaged(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("venue"), booking("hall", "replayer"), event(needs=["venue"])))
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    await wedding.at_rest()
    before = {i: (r.status, r.vendor, r.external_id, r.ended_at) for i, r in (await wedding.steps()).items()}
    async with stage.db.tenant(wedding.organization_id) as conn:
        for damage in (
            "UPDATE steps SET status = 'pending', vendor = NULL, external_id = NULL, ended_at = NULL "
            "WHERE wedding_id = :id AND step_id = 'venue'",
            "UPDATE transactions SET status = 'running', gaps = '[]' WHERE wedding_id = :id",
            "UPDATE weddings SET status = 'planned' WHERE id = :id",
        ):
            await conn.execute(text(damage), {"id": wedding.id})
    assert await wedding.handle.execute_update("repair", result_type=int) == 3
    assert {i: (r.status, r.vendor, r.external_id, r.ended_at) for i, r in (await wedding.steps()).items()} == before
    row = await wedding.transaction(tx)
    assert (row.status, row.gaps) == ("completed", ["hall"])
    assert (await wedding_row(wedding))[0] == "active"


async def test_a_repair_shows_the_steps_of_a_running_transaction_as_they_stand(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(booking("venue"), booking("food", "caterer", needs=["venue"]), event(at="ceremony - 3d"))
    )
    await stage.sandbox.faults(
        "generic", mode="slow", operation="caterer.request", delay_ms=1500, wedding_id=wedding.id
    )
    tx = await wedding.request_change()
    await wedding.until_step("food", "running")
    assert await wedding.handle.execute_update("repair", result_type=int) == 3
    shown = {i: row.status for i, row in (await wedding.steps()).items()}
    assert shown == {"venue": "succeeded", "food": "running", "event": "scheduled"}
    await wedding.until(tx, "completed")
    assert {i: row.status for i, row in (await wedding.steps()).items()} == {
        "venue": "succeeded",
        "food": "succeeded",
        "event": "scheduled",
    }


async def test_an_ended_wedding_stops_no_sweep(stage: Stage) -> None:
    wedding = await stage.wedding(plan(booking("venue")))
    await wedding.until(await wedding.request_change(), "completed")
    await wedding.until(await wedding.request_change("undo", everything=True, cancel=True), "rolled_back")
    await wedding.handle.result()
    late = await wedding.request_change(undispatched=True)
    other = await stage.wedding(plan(booking("venue")))
    waiting = await other.request_change(undispatched=True)
    told, _ = await redispatch_transactions(stage.db, stage.client, utc_now() + timedelta(minutes=1))
    # Other tests may have left some, too.
    assert told >= 2
    assert (await wedding.transaction(late)).error["code"] == "wedding_over"
    await other.until(waiting, "completed")


async def test_weddings_that_do_not_answer_keep_no_other_from_being_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redispatch_transactions(stage.db, stage.client, utc_now() + timedelta(minutes=1))
    stuck = [await stage.wedding(plan(booking("venue"))) for _ in range(7)]
    for wedding in stuck:
        await wedding.request_change(undispatched=True)
    newer = await stage.wedding(plan(booking("venue")))
    tx = await newer.request_change(undispatched=True)
    submit = tell_module._submit

    async def submitted(client: Client, start: WeddingStart, request: TransactionRequest) -> None:
        if start.wedding_id != newer.id:
            await asyncio.sleep(60)
        await submit(client, start, request)

    with monkeypatch.context() as patch:
        patch.setattr(tell_module, "_submit", submitted)
        later = utc_now() + timedelta(minutes=1)
        assert await redispatch_transactions(stage.db, stage.client, later, within=timedelta(seconds=3)) == (1, 7)
    await newer.until(tx, "completed")
    assert await redispatch_transactions(stage.db, stage.client, later) == (7, 0)


# -- what an operator sees


async def test_a_wedding_is_found_by_search_attributes(stage: Stage, temporal_client: Client) -> None:
    wedding = await stage.wedding(plan(booking("venue"), payment(needs=["venue"]), ceremony=SOON))
    await wedding.until(await wedding.request_change(), "waiting")
    await wedding.at_rest()
    wanted = (
        f"WeddingId = '{wedding.id}' AND OrganizationId = '{wedding.organization_id}' AND WeddingDate = '{SOON[:10]}' "
        "AND WeddingPhase = 'preparation' AND TransactionStatus = 'waiting' AND Vendor = 'stripe'"
    )
    async with asyncio.timeout(20):
        while True:
            found = {w.workflow_type async for w in temporal_client.list_workflows(wanted)}
            if found:
                break
            await asyncio.sleep(0.1)
    assert found == {"Wedding"}


async def test_summaries_and_details_are_read_through_the_codec_and_by_nobody_else(
    stage: Stage, temporal_client: Client
) -> None:
    wedding = await stage.wedding(plan(booking("venue")))
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    # The row is written before the workflow task that wrote it is over.
    await wedding.at_rest()
    history = await wedding.handle.fetch_history()
    done = (EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, EventType.EVENT_TYPE_MARKER_RECORDED)
    sealed = [e.user_metadata.summary for e in history.events if e.event_type in done]
    assert all(b"venue" not in payload.data for payload in sealed)
    codec = temporal_client.data_converter.payload_codec
    assert codec is not None
    plain = [payload.data.decode() for payload in await codec.decode(sealed)]
    assert plain == [
        '"begin orchestrate"',
        '"venue: request at generic"',
        '"venue: confirm at generic"',
        '"settle as completed"',
    ]
    description = await wedding.handle.describe()
    assert await description.static_summary() == f"wedding {wedding.id}"
    await wedding.at_rest()
    metadata = await wedding.handle.query("__temporal_workflow_metadata")
    assert "| venue | succeeded | generic |" in metadata.current_details


async def test_the_text_of_a_failure_is_not_plain_in_history(stage: Stage, puppet: Puppet) -> None:
    wedding = await stage.wedding(plan(booking("hall", "replayer")))
    puppet.will(wedding.id, "reserve", "reject")
    tx = await wedding.request_change()
    await wedding.until(tx, "completed")
    history = await wedding.handle.fetch_history()
    failures = [e for e in history.events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED]
    assert len(failures) == 1
    raw = failures[0].SerializeToString()
    assert b"replayer said no" not in raw
    assert failures[0].activity_task_failed_event_attributes.failure.message == "Encoded failure"


async def test_the_queries_tell_what_stands_what_is_due_and_what_is_waited_for(stage: Stage) -> None:
    wedding = await stage.wedding(
        plan(booking("venue"), payment(needs=["venue"]), event(at="ceremony - 1d"), ceremony=SOON)
    )
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.at_rest()
    shown = await wedding.handle.query("plan")
    assert {step: s["status"] for step, s in shown.items()} == {
        "venue": "succeeded",
        "deposit": "waiting",
        "event": "scheduled",
    }
    ledger = await wedding.handle.query("ledger")
    assert (ledger["venue"]["vendor"], ledger["venue"]["account"], ledger["venue"]["state"]) == (
        "generic",
        "villa",
        "standing",
    )
    assert ledger["venue"]["fields"]["effect"]["set_by_tx"] == tx
    assert [entry["step_id"] for entry in await wedding.handle.query("agenda")] == ["event"]
    assert [(w["step_id"], w["what"]) for w in await wedding.handle.query("waiting")] == [
        ("deposit", "payment.succeeded")
    ]


async def test_the_examples_run_to_their_end(stage: Stage) -> None:
    wedding = await stage.wedding(read_example("elopement.yaml"))
    tx = await wedding.request_change()
    await wedding.until(tx, "waiting")
    await wedding.say("deposit", "payment.succeeded")
    await wedding.until(tx, "completed")
