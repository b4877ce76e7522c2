from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import text, update

from wedsync.domain.weddings.messages import TransactionRequest
from wedsync.domain.weddings.projection import TransactionBegin, TransactionOutcome
from wedsync.domain.weddings.transaction import TransactionResult
from wedsync.kit.clock import utc_now
from wedsync.kit.ids import new_id
from wedsync.store.access.tables import idempotency_keys
from wedsync.store.weddings import projection
from wedsync.store.weddings.tables import weddings


async def request_of(api: Any, transaction_id: str) -> Any:
    async with api.db.tenant(api.access.organization_id) as conn:
        query = text("SELECT request, handed_off_at, status, kind, step_ids FROM transactions WHERE id = :id")
        return (await conn.execute(query, {"id": transaction_id})).one()


async def test_an_orchestration_is_recorded_and_answered_at_once(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    response = await api.post(f"/weddings/{wedding_id}/transactions", {"kind": "orchestrate"})
    found = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/weddings/{wedding_id}/transactions/{found['id']}"
    assert set(found) >= {
        "id",
        "wedding_id",
        "kind",
        "status",
        "gaps",
        "started_at",
        "ended_at",
        "temporal_url",
        "steps",
    }
    assert (found["wedding_id"], found["kind"], found["status"], found["gaps"]) == (
        wedding_id, "orchestrate", "running", [],
    )  # fmt: skip
    assert found["temporal_url"] == f"http://ui.test/namespaces/default/workflows/wedding%3A{wedding_id}"
    assert [step["id"] for step in found["steps"]] == ["venue", "deposit"]
    assert set(found["steps"][0]) >= {
        "id", "service", "capability", "action", "status", "vendor", "fallback_used", "attempts", "external_id",
        "due_at", "started_at", "ended_at", "error", "compensation",
    }  # fmt: skip
    assert (await api.get(f"/weddings/{wedding_id}/transactions/{found['id']}")).json() == found
    recorded = await request_of(api, found["id"])
    assert recorded.handed_off_at is None
    assert TransactionRequest.model_validate(recorded.request) == TransactionRequest(
        id=found["id"], kind="orchestrate", seq=1
    )
    (listed,) = (await api.get(f"/weddings/{wedding_id}")).json()["transactions"]
    assert (listed["id"], listed["kind"], listed["status"]) == (found["id"], "orchestrate", "running")


async def test_a_repeated_request_makes_no_second_transaction(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    path, key = f"/api/v1/weddings/{wedding_id}/transactions", api.key()
    answers = [await api.http.post(path, json={"kind": "orchestrate"}, headers=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert len((await api.get(f"/weddings/{wedding_id}")).json()["transactions"]) == 1


async def test_a_wedding_is_orchestrated_once_and_again_only_after_its_undo(api: Any) -> None:
    wedding_id, first = await api.orchestrated()
    again = await api.post(f"/weddings/{wedding_id}/transactions", {"kind": "orchestrate"})
    assert (again.status_code, again.json()["code"]) == (409, "already_orchestrated")
    assert first in again.json()["detail"]
    await api.move(wedding_id, first, "rolled_back")
    assert (await api.post(f"/weddings/{wedding_id}/transactions", {"kind": "orchestrate"})).status_code == 202


@pytest.mark.parametrize("how", ["undo", "cancel"])
async def test_a_running_transaction_may_be_undone_but_not_twice(api: Any, how: str) -> None:
    wedding_id, running = await api.orchestrated()
    path = f"/weddings/{wedding_id}/transactions/{running}/{how}"
    response = await api.post(path)
    found = response.json()
    assert (response.status_code, found["kind"], found["target"]) == (202, "undo", running)
    said = TransactionRequest.model_validate((await request_of(api, found["id"])).request)
    assert (said.target, said.cancel, said.seq) == (running, how == "cancel", 2)
    again = await api.post(path)
    assert (again.status_code, again.json()["code"]) == (409, "transaction_running")
    assert found["id"] in again.json()["detail"]


async def test_what_is_undone_or_an_undo_is_not_undone(api: Any) -> None:
    wedding_id, first = await api.orchestrated()
    await api.move(wedding_id, first, "completed")
    undo = (await api.post(f"/weddings/{wedding_id}/transactions/{first}/undo")).json()["id"]
    await api.move(wedding_id, undo, "rolled_back")
    for status in ("rolled_back", "cancelled"):
        await api.move(wedding_id, first, status, version=6 if status == "rolled_back" else 7)
        refused = await api.post(f"/weddings/{wedding_id}/transactions/{first}/undo")
        assert (refused.status_code, refused.json()["code"]) == (409, "already_undone")
    await api.move(wedding_id, undo, "completed", version=8)
    refused = await api.post(f"/weddings/{wedding_id}/transactions/{undo}/undo")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_undoable")


async def test_a_change_that_touches_a_running_transaction_is_refused_and_names_it(api: Any) -> None:
    wedding_id, running = await api.orchestrated()
    shifted = await api.post(
        f"/weddings/{wedding_id}/transactions", {"kind": "timeline", "ceremony_at": "2027-06-26T16:00"}
    )
    assert (shifted.status_code, shifted.json()["code"]) == (409, "transaction_running")
    assert running in shifted.json()["detail"]


async def test_a_wedding_is_cancelled_while_a_transaction_runs_but_not_while_an_undo_does(api: Any) -> None:
    wedding_id, running = await api.orchestrated()
    deleted = await api.http.delete(f"/api/v1/weddings/{wedding_id}")
    assert (deleted.status_code, deleted.json()["kind"]) == (202, "undo")
    again = await api.http.delete(f"/api/v1/weddings/{wedding_id}")
    undo = await api.post(f"/weddings/{wedding_id}/transactions/{running}/undo")
    for refused in (again, undo):
        assert (refused.status_code, refused.json()["code"]) == (409, "transaction_running")
        assert deleted.json()["id"] in refused.json()["detail"]


async def scheduled(api: Any, wedding_id: str, *steps: str) -> str:
    """As the workflow would: a transaction of the wedding's agenda begins."""
    tx = new_id()
    async with api.db.tenant(api.access.organization_id) as conn:
        begin = TransactionBegin(id=tx, kind="scheduled", step_ids=steps, run_id="run")
        await projection.apply_writes(conn, [api.projection(wedding_id, begin=begin)])
    return tx


async def test_an_undo_names_what_was_set_anew_since(api: Any) -> None:
    wedding_id, first = await api.orchestrated()
    await api.move(wedding_id, first, "completed")
    undo = (await api.post(f"/weddings/{wedding_id}/transactions/{first}/undo")).json()
    assert undo["superseded"] == []
    now = utc_now()
    result = TransactionResult(
        id=undo["id"],
        seq=2,
        kind="undo",
        status="rolled_back",
        superseded=("venue.inputs",),
        started_at=now,
        ended_at=now,
    )
    async with api.db.tenant(api.access.organization_id) as conn:
        outcome = TransactionOutcome(result=result, version=2)
        await projection.apply_writes(conn, [api.projection(wedding_id, outcome=outcome)])
    found = (await api.get(f"/weddings/{wedding_id}/transactions/{undo['id']}")).json()
    assert (found["status"], found["superseded"]) == ("rolled_back", ["venue.inputs"])


async def test_an_undo_waits_for_a_transaction_that_touches_none_of_its_steps(api: Any) -> None:
    wedding_id, first = await api.orchestrated()
    await api.move(wedding_id, first, "completed")
    done, running = await scheduled(api, wedding_id, "deposit"), await scheduled(api, wedding_id, "venue")
    await api.move(wedding_id, done, "completed")
    assert (await api.post(f"/weddings/{wedding_id}/transactions/{done}/undo")).status_code == 202
    refused = await api.post(f"/weddings/{wedding_id}/transactions/{first}/undo")
    assert (refused.status_code, refused.json()["code"]) == (409, "transaction_running")
    assert running in refused.json()["detail"]


async def test_a_ceremony_is_moved_to_another_wall_time_and_zone(api: Any) -> None:
    wedding_id, running = await api.orchestrated()
    await api.move(wedding_id, running, "completed")
    body = {"kind": "timeline", "ceremony_at": "2027-07-03T15:30", "zone": "Europe/London"}
    response = await api.post(f"/weddings/{wedding_id}/transactions", body)
    assert (response.status_code, response.json()["kind"]) == (202, "timeline")
    said = TransactionRequest.model_validate((await request_of(api, response.json()["id"])).request)
    assert (said.ceremony_at, said.zone) == ("2027-07-03T15:30", "Europe/London")


@pytest.mark.parametrize(
    ("at", "zone", "code"),
    [
        ("2027-03-28T02:30", "Europe/Rome", "nonexistent_time"),
        ("2027-10-31T02:30", "Europe/Rome", "ambiguous_time"),
        ("2027-13-01T10:00", "Europe/Rome", "bad_time"),
        ("2027-06-26T16:00", "Europe/Atlantis", "unknown_zone"),
    ],
)
async def test_a_ceremony_is_not_moved_to_a_time_that_is_none(api: Any, at: str, zone: str, code: str) -> None:
    wedding_id = (await api.wedding())["id"]
    body = {"kind": "timeline", "ceremony_at": at, "zone": zone}
    response = await api.post(f"/weddings/{wedding_id}/transactions", body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_plan")
    assert code in {error["code"] for error in response.json()["errors"]}


async def test_deleting_a_wedding_asks_for_the_undo_of_all(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    key = api.key()
    first = await api.http.delete(f"/api/v1/weddings/{wedding_id}", headers=key)
    again = await api.http.delete(f"/api/v1/weddings/{wedding_id}", headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    said = TransactionRequest.model_validate((await request_of(api, first.json()["id"])).request)
    assert (said.kind, said.everything, said.cancel, said.target) == ("undo", True, True, None)
    without_key = await api.http.delete(f"/api/v1/weddings/{(await api.wedding())['id']}")
    assert without_key.status_code == 202
    assert "/transactions/" in without_key.headers["location"]


@pytest.mark.parametrize("status", ["cancelled", "ended"])
async def test_a_wedding_that_is_over_takes_no_change(api: Any, status: str) -> None:
    wedding_id, running = await api.orchestrated()
    async with api.db.tenant(api.access.organization_id) as conn:
        await conn.execute(update(weddings).where(weddings.c.id == wedding_id).values(status=status))
    path = f"/weddings/{wedding_id}"
    responses = [
        await api.post(f"{path}/transactions", {"kind": "orchestrate"}),
        await api.post(f"{path}/transactions", {"kind": "timeline", "ceremony_at": "2027-06-26T16:00"}),
        await api.post(f"{path}/transactions/{running}/undo"),
        await api.post(f"{path}/steps/venue/decision", {"choice": "retry"}),
        await api.http.delete(f"/api/v1{path}"),
    ]
    assert {(response.status_code, response.json()["code"]) for response in responses} == {(409, "wedding_over")}


async def test_a_closing_wedding_takes_back_and_begins_nothing(api: Any) -> None:
    wedding_id, first = await api.orchestrated()
    await api.move(wedding_id, first, "needs_attention")
    async with api.db.tenant(api.access.organization_id) as conn:
        await conn.execute(update(weddings).where(weddings.c.id == wedding_id).values(status="closing"))
    path = f"/weddings/{wedding_id}"
    for body in ({"kind": "orchestrate"}, {"kind": "timeline", "ceremony_at": "2027-06-26T16:00"}):
        refused = await api.post(f"{path}/transactions", body)
        assert (refused.status_code, refused.json()["code"]) == (409, "wedding_over")
    undo = await api.post(f"{path}/transactions/{first}/undo")
    assert undo.status_code == 202
    await api.move(wedding_id, undo.json()["id"], "needs_attention")
    assert (await api.http.delete(f"/api/v1{path}")).status_code == 202
    assert (await api.get(path)).json()["status"] == "closing"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"choice": "retry"}, ("retry", None)),
        ({"choice": "rollback"}, ("rollback", None)),
        ({"choice": "use", "vendor": "paypal"}, ("use", "paypal")),
        ({"choice": "skip"}, ("skip", None)),
    ],
)
async def test_a_decision_on_a_held_step_is_recorded(api: Any, body: Any, said: Any) -> None:
    wedding_id, running = await api.orchestrated()
    await api.hold(wedding_id, "deposit", running)
    await api.move(wedding_id, running, "held")
    response = await api.post(f"/weddings/{wedding_id}/steps/deposit/decision", body)
    found = response.json()
    assert (response.status_code, found["kind"], [step["id"] for step in found["steps"]]) == (
        202, "scheduled", ["deposit"],
    )  # fmt: skip
    decision = TransactionRequest.model_validate((await request_of(api, found["id"])).request).decision
    assert decision is not None
    assert (decision.step_id, decision.choice, decision.vendor) == ("deposit", *said)
    again = await api.post(f"/weddings/{wedding_id}/steps/deposit/decision", {"choice": "retry"})
    assert (again.status_code, again.json()["code"]) == (409, "transaction_running")


@pytest.mark.parametrize(
    ("step", "body", "status", "code"),
    [
        ("nothing", {"choice": "retry"}, 404, "not_found"),
        ("deposit", {"choice": "retry"}, 409, "step_not_held"),
        ("venue", {"choice": "skip"}, 409, "result_needed"),
        ("venue", {"choice": "use"}, 422, "invalid_input"),
        ("venue", {"choice": "retry", "vendor": "paypal"}, 422, "invalid_input"),
        ("venue", {"choice": "use", "vendor": "nobody"}, 422, "invalid_input"),
        ("venue", {"choice": "use", "vendor": "twilio"}, 422, "invalid_input"),
        ("venue", {"choice": "perhaps"}, 422, "invalid_input"),
    ],
)
async def test_a_decision_that_can_not_be_is_refused(api: Any, step: str, body: Any, status: int, code: str) -> None:
    wedding_id, running = await api.orchestrated()
    await api.hold(wedding_id, "venue", running)
    await api.move(wedding_id, running, "held")
    response = await api.post(f"/weddings/{wedding_id}/steps/{step}/decision", body)
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("transaction", ["nothing", "a%00b", "a.b", "é"])
async def test_an_unknown_transaction_is_not_found(api: Any, transaction: str) -> None:
    wedding_id = (await api.wedding())["id"]
    path = f"/weddings/{wedding_id}/transactions/{transaction}"
    assert [(await api.get(path)).status_code, (await api.post(f"{path}/undo")).status_code] == [404, 404]


@pytest.mark.parametrize("status", ["completed", "held", "waiting", "rolled_back", "needs_attention", "cancelled"])
async def test_a_waiting_request_is_answered_as_soon_as_it_has_settled(api: Any, status: str) -> None:
    wedding_id = (await api.wedding())["id"]
    path, key = f"/api/v1/weddings/{wedding_id}/transactions?wait=30s", api.key()
    begun = time.monotonic()
    with api.app.state.notices.waiting(wedding_id) as waiter:
        asked = asyncio.create_task(api.http.post(path, json={"kind": "orchestrate"}, headers=key))
        while not (listed := (await api.get(f"/weddings/{wedding_id}")).json()["transactions"]):
            await waiter.wait(5)
    in_flight = await api.http.post(path, json={"kind": "orchestrate"}, headers=key)
    assert (in_flight.status_code, in_flight.json()["code"]) == (409, "idempotency_in_flight")
    await api.move(wedding_id, listed[0]["id"], status)
    response = await asked
    assert (response.status_code, response.json()["status"]) == (202, status)
    assert time.monotonic() - begun < 4
    replayed = await api.http.post(path, json={"kind": "orchestrate"}, headers=key)
    assert replayed.json() == response.json()


async def test_a_waiting_request_is_answered_as_it_stands_when_the_time_is_up(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    response = await api.post(f"/weddings/{wedding_id}/transactions?wait=1s", {"kind": "orchestrate"})
    assert (response.status_code, response.json()["status"]) == (202, "running")


async def test_a_waiting_request_whose_process_died_is_replayed_as_it_was_recorded(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    path, key = f"/api/v1/weddings/{wedding_id}/transactions?wait=0s", api.key()
    first = await api.http.post(path, json={"kind": "orchestrate"}, headers=key)
    async with api.db.tenant(api.access.organization_id) as conn:
        await conn.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.key == key["Idempotency-Key"])
            .values(status=None, headers={**idempotency_keys_headers(first), "held-until": "2026-01-01T00:00:00+00:00"})
        )
    again = await api.http.post(path, json={"kind": "orchestrate"}, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert "held-until" not in again.headers


def idempotency_keys_headers(response: Any) -> dict[str, str]:
    return {"Location": response.headers["location"]}


async def test_transactions_asked_for_at_once_are_numbered_and_one_orchestrates(api: Any) -> None:
    wedding_id = (await api.wedding())["id"]
    answers = await asyncio.gather(
        *(api.post(f"/weddings/{wedding_id}/transactions", {"kind": "orchestrate"}) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
