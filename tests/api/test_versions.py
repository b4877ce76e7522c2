from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from tests.support.routing import eventually, open_admission_controller, pass_one, rows
from wedsync.domain.versions.migration import migration_workflow_id
from wedsync.kit.clock import utc_now
from wedsync.pipeline.admission import AdmissionController

DEFAULT, OTHER = "2026-10-28.endive", "2026-09-30.endive"


@pytest.fixture
async def api(new_api: Any, fresh_database_urls: Any) -> Any:
    """On a database of its own: versions and pins hold for everybody who calls the vendor."""
    return await new_api(fresh_database_urls)


@pytest.fixture
async def controller(api: Any) -> AsyncIterator[AdmissionController]:
    """Another process."""
    async with open_admission_controller(api.settings.database_url) as opened:
        yield opened


async def put(api: Any, path: str, body: Any) -> Any:
    return await api.http.put(f"/api/v1/versions{path}", json=body)


async def stripe(api: Any) -> dict[str, Any]:
    found = (await api.get("/versions/stripe")).json()
    return {version["name"]: version for version in found["data"]}


async def test_versions_are_listed_with_their_notices(api: Any) -> None:
    listed = {one["service"]: one for one in (await api.get("/versions")).json()["data"]}
    assert {one["name"] for one in listed["stripe"]["data"]} >= {DEFAULT, OTHER}
    found = await stripe(api)
    assert found[DEFAULT]["is_default"] is True
    assert found[DEFAULT]["notice"] == ""
    assert (found["2022-08-01"]["status"], found["2022-08-01"]["wedding_compatible"]) == ("deprecated", False)
    assert "deprecated" in found["2022-08-01"]["notice"]
    assert (await api.get("/versions/nobody")).status_code == 404


async def test_a_version_that_is_added_is_live_in_every_process_and_audited(
    api: Any, controller: AdmissionController
) -> None:
    soon = (utc_now() + timedelta(days=30)).date().isoformat()
    body = {"status": "deprecated", "sunset_on": soon, "header": "Stripe-Version"}
    response = await put(api, "/stripe/2026-08-26.dahlia", body)
    assert response.status_code == 200, response.text
    assert response.json()["days_left"] == 30
    assert "30 days are left" in response.json()["notice"]
    await eventually(lambda: "2026-08-26.dahlia" in controller.routing_table.versions("stripe"), 2)
    found = await rows(controller, "SELECT detail FROM audit_log WHERE action = 'version.put' ORDER BY id")
    assert found[-1].detail["sunset_on"] == soon


async def test_a_pin_is_live_in_every_process_and_can_be_taken_away(api: Any, controller: AdmissionController) -> None:
    response = await put(api, "/stripe/pin", {"version": OTHER})
    assert response.status_code == 200, response.text
    (pin,) = response.json()["pins"]
    assert (pin["version"], pin["organization_id"]) == (OTHER, api.access.organization_id)
    await eventually(lambda: len(controller.routing_table.pins("stripe")) == 1, 2)
    await put(api, "/stripe/pin", {"version": None})
    await eventually(lambda: controller.routing_table.pins("stripe")[0].until is not None, 2)


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [("2022-08-01", 409, "version_not_for_weddings"), ("1999-01-01", 422, "unknown_version")],
)
async def test_a_version_that_can_not_be_is_not_pinned(
    api: Any, controller: AdmissionController, version: str, status: int, code: str
) -> None:
    response = await put(api, "/stripe/pin", {"version": version})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert controller.routing_table.pins("stripe") == ()


async def test_a_version_past_its_sunset_is_not_pinned_unless_an_operator_says_so(
    api: Any, controller: AdmissionController
) -> None:
    gone = {"sunset_on": "2026-01-01"}
    await put(api, "/stripe/2025-01-01.gone", gone)
    refused = await put(api, "/stripe/pin", {"version": "2025-01-01.gone"})
    assert refused.json()["code"] == "version_sunset"
    await put(api, "/stripe/2025-01-01.gone", {**gone, "sunset_overridden": True})
    assert (await put(api, "/stripe/pin", {"version": "2025-01-01.gone"})).status_code == 200


async def test_only_operators_change_what_is_everybodys(
    new_api: Any, database_urls: Any, controller: AdmissionController
) -> None:
    tenant = await new_api(database_urls, environment="production", operator_organizations="someone-else")
    assert (await put(tenant, "/stripe/pin", {"version": OTHER})).status_code == 200
    for path, body in (
        ("/stripe/pin", {"version": OTHER, "scope": "service"}),
        ("/stripe/pin", {"version": OTHER, "organization_id": "another"}),
        ("/stripe/2026-08-26.dahlia", {}),
    ):
        refused = await put(tenant, path, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_operator"), path
    refused = await tenant.post("/versions/migrations", {"service": "stripe", "to_version": OTHER})
    assert refused.json()["code"] == "not_operator"
    assert (await tenant.get("/versions/migrations")).status_code == 403


async def test_usage_counts_calls_by_version(api: Any, controller: AdmissionController) -> None:
    for ok in (True, True, False):
        await pass_one(controller, ok=ok)
    await controller.call_recorder.flush()
    (found,) = (await api.get("/versions/usage", service="stripe")).json()["data"]
    assert (found["version"], found["calls"], found["failed"], found["weddings"]) == (DEFAULT, 3, 1, 1)
    early = (utc_now() - timedelta(days=400)).isoformat()
    assert (await api.get("/versions/usage", since=early)).status_code == 422


async def test_a_migration_that_temporal_can_not_take_is_not_recorded(
    api: Any, controller: AdmissionController
) -> None:
    response = await api.post("/versions/migrations", {"service": "stripe", "to_version": OTHER})
    assert (response.status_code, response.json()["code"]) == (503, "temporal_unreachable")
    assert (await api.get("/versions/migrations")).json()["data"] == []


async def test_a_migration_is_begun_once_paused_and_taken_back(
    new_api: Any, fresh_database_urls: Any, temporal_client: Client, controller: AdmissionController
) -> None:
    async def provide() -> Client:
        return temporal_client

    api = await new_api(fresh_database_urls, provide)
    asked, key = {"service": "stripe", "to_version": OTHER}, api.key()
    response = await api.post("/versions/migrations", asked, **key)
    assert response.status_code == 202, response.text
    begun, where = response.json(), response.headers["Location"].removeprefix("/api/v1")
    again = await api.post("/versions/migrations", asked, **key)
    assert again.json() == begun
    assert (begun["from_version"], begun["stage"], begun["rollback_available"]) == (DEFAULT, "prepare", True)
    running = await api.post("/versions/migrations", asked)
    assert (running.status_code, running.json()["code"]) == (409, "migration_running")
    handle = temporal_client.get_workflow_handle(migration_workflow_id(begun["id"]))
    assert (await handle.describe()).status is not None
    paused = await api.post(f"{where}/pause", {"paused": True})
    assert (paused.status_code, paused.json()["paused"]) == (202, True)
    assert (await api.post(f"{where}/rollback")).status_code == 202
    assert (await api.get(where)).json()["stage"] == "prepare"
    actions = await rows(controller, "SELECT action FROM audit_log WHERE action LIKE 'version.migration%' ORDER BY id")
    assert [row.action for row in actions][-3:] == [
        "version.migration_begun", "version.migration_paused", "version.migration_rollback",
    ]  # fmt: skip
    await handle.terminate()
    assert (await api.get("/versions/migrations/nobody")).status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"service": "nobody", "to_version": OTHER}, "not_found"),
        ({"service": "stripe", "to_version": DEFAULT}, "version_in_use"),
        ({"service": "stripe", "to_version": "2022-08-01"}, "version_not_for_weddings"),
        ({"service": "stripe", "to_version": "1999-01-01"}, "unknown_version"),
        ({"service": "stripe", "to_version": OTHER, "rules": {"canary_percent": 0}}, "invalid_input"),
    ],
)
async def test_a_migration_that_can_not_be_is_refused(api: Any, body: Any, code: str) -> None:
    assert (await api.post("/versions/migrations", body)).json()["code"] == code
