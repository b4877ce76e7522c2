from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import insert, text

from wedsync.kit.clock import utc_now
from wedsync.kit.crypto import hash_api_key
from wedsync.kit.plan_file import read_plan
from wedsync.store.access.tables import api_keys, organizations

ROOT = Path(__file__).resolve().parents[2]


async def rows(api: Any, statement: str, **values: Any) -> list[Any]:
    async with api.db.tenant(api.access.organization_id) as conn:
        return list((await conn.execute(text(statement), values)).all())


async def test_a_plan_becomes_a_wedding_with_its_steps(api: Any) -> None:
    plan = api.plan()
    response = await api.post("/weddings", plan)
    assert response.status_code == 201
    found = response.json()
    assert response.headers["location"] == f"/api/v1/weddings/{found['id']}"
    assert (found["reference"], found["status"], found["phase"], found["mode"], found["plan_version"]) == (
        plan["wedding"]["id"], "planned", "preparation", "normal", 1,
    )  # fmt: skip
    assert found["ceremony"] == {
        "local": "2027-06-19T16:00", "zone": "Europe/Rome", "instant": "2027-06-19T14:00:00Z",
    }  # fmt: skip
    assert [(step["id"], step["status"], step["vendor"]) for step in found["steps"]] == [
        ("venue", "pending", None),
        ("deposit", "pending", None),
    ]
    assert found["transactions"] == []
    by_reference = await api.get(f"/weddings/{found['reference']}")
    assert by_reference.json() == (await api.get(f"/weddings/{found['id']}")).json() == found
    assert (await api.get(f"/weddings/{found['id']}/steps")).json() == {"data": found["steps"]}


async def test_taking_a_plan_in_leaves_a_plan_an_audit_row_and_an_event(api: Any) -> None:
    wedding = await api.wedding()
    ((version, body),) = await rows(api, "SELECT version, body FROM plans WHERE wedding_id = :w", w=wedding["id"])
    assert (version, body["wedding"]["id"]) == (1, wedding["reference"])
    ((actor, action),) = await rows(
        api, "SELECT actor, action FROM audit_log WHERE subject = :s", s=f"wedding/{wedding['id']}"
    )
    assert actor.startswith("key:")
    assert action == "wedding.created"
    ((number, kind, data),) = await rows(
        api, "SELECT id, type, data FROM wedding_events WHERE wedding_id = :w", w=wedding["id"]
    )
    assert (number, kind, data["status"]) == (1, "wedding", "planned")


@pytest.mark.parametrize("name", ["elopement", "typical", "refused", "destination"])
async def test_every_example_is_taken_in_as_yaml_and_as_json(new_api: Any, fresh_database_urls: Any, name: str) -> None:
    api = await new_api(fresh_database_urls)
    written = (ROOT / "examples" / f"{name}.yaml").read_text()
    headers = {**api.key(), "Content-Type": "application/yaml"}
    created = await api.http.post("/api/v1/weddings", content=written.encode(), headers=headers)
    assert created.status_code == 201, created.text
    steps = created.json()["steps"]
    assert {step["status"] for step in steps} <= {"pending", "scheduled"}
    assert all(step["status"] == "scheduled" for step in steps if step["due_at"])
    plan, _ = read_plan(written, name)
    assert plan is not None
    checked = await api.http.post("/api/v1/plans/validate", json=plan.model_dump(mode="json"))
    assert checked.json() == {"valid": True, "errors": []}


async def test_a_plans_id_is_unique_in_its_organization(api: Any) -> None:
    plan = api.plan()
    first = await api.post("/weddings", plan)
    second = await api.post("/weddings", plan)
    assert (second.status_code, second.json()["code"]) == (409, "reference_taken")
    assert first.json()["id"] in second.json()["detail"]


async def test_of_two_at_once_one_takes_the_plans_id(api: Any) -> None:
    plan = api.plan()
    answers = await asyncio.gather(*(api.post("/weddings", plan) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_a_bad_plan_is_refused_with_every_fault_and_stores_nothing(api: Any) -> None:
    plan = api.plan()
    plan["steps"] = [{**plan["steps"][0], "needs": ["nothing"]}, {**plan["steps"][1], "service": "nobody"}]
    response = await api.post("/weddings", plan)
    found = response.json()
    assert (response.status_code, found["code"]) == (422, "invalid_plan")
    assert {(error["field"], error["code"]) for error in found["errors"]} >= {
        ("steps[0].needs[0]", "unknown_step"),
        ("steps[1].service", "unknown_service"),
    }
    assert (await api.get(f"/weddings/{plan['wedding']['id']}")).status_code == 404


async def test_a_fault_in_yaml_names_its_line(api: Any) -> None:
    written = yaml.safe_dump(api.plan(), sort_keys=False).replace("EUR", "EURO")
    headers = {"Content-Type": "application/yaml; charset=utf-8"}
    found = (await api.http.post("/api/v1/plans/validate", content=written.encode(), headers=headers)).json()
    line = next(number for number, said in enumerate(written.splitlines(), 1) if "EURO" in said)
    (error,) = found["errors"]
    assert (found["valid"], error["line"], error["field"]) == (False, line, "wedding.currency")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "syntax"),
        (b"[]", "syntax"),
        (b"null", "syntax"),
        (b"", "syntax"),
        (b"\xff", "syntax"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"version": NaN}', "syntax"),
        (b"[" * 100_000, "syntax"),
        (b'{"version": ' + b"9" * 5000 + b"}", "syntax"),
        (b'{"version": "\\ud800"}', "bad_value"),
        (b'{"version": "\\u0000"}', "bad_value"),
        (b"{}", "missing_key"),
    ],
)
async def test_what_is_no_plan_is_said_to_be_none(api: Any, content: bytes, code: str) -> None:
    headers = {**api.key(), "Content-Type": "application/json"}
    found = (await api.http.post("/api/v1/plans/validate", content=content, headers=headers)).json()
    assert found["valid"] is False
    assert found["errors"][0]["code"] == code
    refused = await api.http.post("/api/v1/weddings", content=content, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_plan")


async def test_neither_json_nor_yaml_is_an_unsupported_media_type(api: Any) -> None:
    for path in ("/weddings", "/plans/validate"):
        headers = {**api.key(), "Content-Type": "text/html"}
        response = await api.http.post(f"/api/v1{path}", content=b"<p>", headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_weddings_are_listed_newest_first_page_by_page(new_api: Any, fresh_database_urls: Any) -> None:
    api = await new_api(fresh_database_urls)
    assert (await api.get("/weddings")).json() == {"data": [], "next_cursor": None}
    made = [(await api.wedding())["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = (await api.get("/weddings", limit=2, **({"cursor": cursor} if cursor else {}))).json()
        seen += [wedding["id"] for wedding in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)
    assert "steps" not in page["data"][0]


@pytest.mark.parametrize("cursor", ["x", "djI6eA", "%00", "é", "djE6Li4vLi4", "a" * 200])
async def test_a_made_up_cursor_is_refused(api: Any, cursor: str) -> None:
    response = await api.get("/weddings", cursor=cursor)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")


async def test_anothers_wedding_is_not_found_by_id_nor_by_reference(api: Any) -> None:
    wedding_id, transaction_id = await api.orchestrated()
    reference = (await api.get(f"/weddings/{wedding_id}")).json()["reference"]
    stranger = f"wsk_stranger-{wedding_id}"
    pepper = api.settings.api_key_pepper.get_secret_value()
    now = utc_now()
    organization_id = f"org-{wedding_id}"
    async with api.db.system() as conn:
        await conn.execute(insert(organizations).values(id=organization_id, name="Other", created_at=now))
        await conn.execute(
            insert(api_keys).values(
                id=f"k-{wedding_id}",
                organization_id=organization_id,
                name="k",
                key_hmac=hash_api_key(stranger, pepper),
                created_at=now,
            )
        )
    api.http.headers["Authorization"] = f"Bearer {stranger}"
    for wedding in (wedding_id, reference):
        for path in (f"/weddings/{wedding}", f"/weddings/{wedding}/transactions/{transaction_id}"):
            assert (await api.get(path)).status_code == 404
        assert (await api.post(f"/weddings/{wedding}/transactions/{transaction_id}/undo")).status_code == 404
        assert (await api.http.delete(f"/api/v1/weddings/{wedding}")).status_code == 404
    assert (await api.get("/weddings")).json()["data"] == []
    # The same plan's id is free in another organization.
    taken_here = api.plan(id=reference)
    assert (await api.post("/weddings", taken_here)).status_code == 201


async def test_a_repeated_request_gets_its_first_answer_and_makes_nothing_more(api: Any) -> None:
    plan, key = api.plan(), api.key()
    first = await api.http.post("/api/v1/weddings", json=plan, headers=key)
    # The same values in another spelling are the same body.
    spelled = json.dumps(plan, indent=3, sort_keys=True).encode()
    again = await api.http.post(
        "/api/v1/weddings", content=spelled, headers={**key, "Content-Type": "application/json"}
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


async def test_a_repeated_key_with_another_request_is_refused(api: Any) -> None:
    key = api.key()
    assert (await api.http.post("/api/v1/weddings", json=api.plan(), headers=key)).status_code == 201
    other_body = await api.http.post("/api/v1/weddings", json=api.plan(), headers=key)
    assert (other_body.status_code, other_body.json()["code"]) == (422, "idempotency_key_reused")
    wedding = await api.wedding()
    other_path = await api.http.delete(f"/api/v1/weddings/{wedding['id']}", headers=key)
    assert (other_path.status_code, other_path.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_key_is_needed_and_must_be_one(api: Any) -> None:
    missing = await api.http.post("/api/v1/weddings", json=api.plan())
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")
    for bad in ("", "a b", "x" * 256, "ä"):
        headers = {"Idempotency-Key": bad.encode()}
        response = await api.http.post("/api/v1/weddings", json=api.plan(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_invalid"), bad


async def test_a_refused_request_leaves_its_key_free(api: Any) -> None:
    key, plan = api.key(), api.plan()
    refused = await api.http.post("/api/v1/weddings", json={**plan, "version": 9}, headers=key)
    assert refused.status_code == 422
    assert (await api.http.post("/api/v1/weddings", json=plan, headers=key)).status_code == 201


async def test_of_the_same_request_many_times_at_once_one_acts(api: Any) -> None:
    plan, key = api.plan(), api.key()
    answers = await asyncio.gather(*(api.http.post("/api/v1/weddings", json=plan, headers=key) for _ in range(5)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_flight"
            assert answer.headers["retry-after"] == "1"
