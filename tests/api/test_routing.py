from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tests.support.routing import eventually, fail, open_admission_controller, rows
from wedsync.kit.settings import Settings, VendorSettings
from wedsync.pipeline.admission import AdmissionController


@pytest.fixture
async def api(new_api: Any, fresh_database_urls: Any) -> Any:
    """With accounts at two vendors that stand in for each other; on a database of its own."""
    account = VendorSettings(api_key=SecretStr("key"))
    return await new_api(fresh_database_urls, vendors={"stripe": account, "paypal": account})


@pytest.fixture
async def controller(api: Any) -> AsyncIterator[AdmissionController]:
    """Another process."""
    async with open_admission_controller(api.settings.database_url) as opened:
        yield opened


async def put(api: Any, path: str, body: Any) -> Any:
    return await api.http.put(f"/api/v1{path}", json=body)


async def test_services_are_listed_with_what_their_vendors_say(api: Any) -> None:
    found = {service["service"]: service for service in (await api.get("/services")).json()["data"]}
    assert found["stripe"]["backups"] == ["paypal"]
    assert found["stripe"]["dependency"] == "critical"
    assert found["stripe"]["circuits"][0]["state"] == "closed"
    assert found["stripe"]["is_configured"] is False
    assert "honeybook" not in found
    assert (await api.get("/services/nobody")).status_code == 404


async def test_a_change_is_live_in_every_process_and_audited(api: Any, controller: AdmissionController) -> None:
    body = {"endpoints": [{"name": "eu", "base_url": "https://eu.example.com", "region": "eu-central"}, {"name": "us"}]}
    response = await put(api, "/services/stripe", body)
    assert response.status_code == 200, response.text
    assert response.json()["is_configured"] is True
    await eventually(lambda: [e.name for e in controller.routing_table.config("stripe").endpoints] == ["eu", "us"], 2)
    found = await rows(controller, "SELECT detail FROM audit_log WHERE action = 'service.configured' ORDER BY id")
    assert found[-1].detail["changed"] == ["endpoints"]


@pytest.mark.parametrize(
    "body",
    [
        {"backups": ["nobody"]},
        {"backups": ["stripe"]},
        {"endpoints": []},
        {"endpoints": [{"base_url": "http://[::1"}]},
        {"circuit": {"probes": 0}},
        {"mood": "good"},
        {"health": {"url": "no slash"}},
    ],
)
async def test_a_configuration_that_can_not_be_is_refused(api: Any, body: Any) -> None:
    assert (await put(api, "/services/stripe", body)).status_code == 422


async def test_two_operators_triggering_at_once_give_one_failover(api: Any, controller: AdmissionController) -> None:
    asked = {"deed": "trigger"}
    both = await asyncio.gather(*(api.post("/services/stripe/failover", asked) for _ in range(2)))
    assert [response.status_code for response in both] == [200, 200]
    assert sorted(response.json()["changed"] for response in both) == [False, True]
    first, second = (response.json()["failover"] for response in both)
    assert first["id"] == second["id"]
    assert (first["from_service"], first["to_service"], first["reason"]) == ("stripe", "paypal", "asked")
    listed = (await api.get("/failovers")).json()
    assert listed["statistics"]["failovers"] == 1
    assert [one["id"] for one in listed["data"]] == [first["id"]]


async def test_hold_and_restore(api: Any, controller: AdmissionController) -> None:
    refused = await api.post("/services/stripe/failover", {"deed": "restore"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_failed_over")
    await api.post("/services/stripe/failover", {"deed": "trigger"})
    held = (await api.post("/services/stripe/failover", {"deed": "hold"})).json()
    assert (held["failover"]["status"], held["service"]["circuits"][0]["held"]) == ("held", True)
    back = (await api.post("/services/stripe/failover", {"deed": "restore"})).json()
    assert back["service"]["circuits"][0]["state"] == "half_open"
    assert back["failover"]["status"] == "active"


async def test_the_last_provider_is_left_only_when_it_is_meant(api: Any, controller: AdmissionController) -> None:
    await api.post("/services/stripe/failover", {"deed": "trigger"})
    refused = await api.post("/services/paypal/failover", {"deed": "trigger"})
    assert (refused.status_code, refused.json()["code"]) == (409, "last_provider")
    refused = await put(api, "/services/paypal/circuit", {"state": "open"})
    assert refused.json()["code"] == "last_provider"
    meant = await api.post("/services/paypal/failover", {"deed": "trigger", "even_if_last": True})
    assert meant.json()["failover"]["to_service"] is None


async def test_a_circuit_is_forced_and_set_free_in_every_process(api: Any, controller: AdmissionController) -> None:
    forced = (await put(api, "/services/stripe/circuit", {"state": "open"})).json()
    assert forced["service"]["circuits"][0] | {"open_until": None, "changed_at": None} == {
        "endpoint": "default", "state": "open", "share_percent": 0, "epoch": 1, "reason": "by_hand", "forced": "open",
        "held": False, "open_until": None, "calls": 0, "failures": 0, "slow_calls": 0, "changed_at": None,
    }  # fmt: skip
    await eventually(lambda: controller.routing_table.circuit("stripe", "default").forced == "open", 2)
    kept = (await put(api, "/services/stripe/circuit", {"state": "closed"})).json()
    assert kept["service"]["circuits"][0]["state"] == "closed"
    await eventually(lambda: controller.routing_table.circuit("stripe", "default").forced == "closed", 2)
    await fail(controller, 20)
    await controller.call_recorder.flush()
    free = (await put(api, "/services/stripe/circuit", {"state": "auto"})).json()
    assert free["service"]["circuits"][0]["forced"] is None
    assert (await put(api, "/services/stripe/circuit", {"state": "open", "endpoint": "moon"})).status_code == 404


async def test_only_operators_change_services(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "is_operator", lambda *_: False)
    for response in (
        await put(api, "/services/stripe", {}),
        await api.post("/services/stripe/failover", {"deed": "trigger"}),
        await put(api, "/services/stripe/circuit", {"state": "open"}),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "not_operator")
    assert (await api.get("/services")).status_code == 200


async def test_the_health_check_says_how_each_stands_and_whether_weddings_can_be_held(
    api: Any, controller: AdmissionController
) -> None:
    await api.post("/services/stripe/failover", {"deed": "trigger"})
    report = (await api.http.get("/api/integrations/health-check")).json()
    assert set(report) == {"overall", "apis", "wedding_day_readiness", "timestamp"}
    stripe = next(one for one in report["apis"] if one["service"] == "stripe")
    assert (stripe["status"], stripe["circuit"], stripe["mitigation_active"]) == ("down", "open", True)
    assert stripe["mitigation_available"] is True
    assert {"uptime_24h", "rate_limit"} < set(stripe)
    assert report["wedding_day_readiness"]["ready"] is True
    path = "/api/admin/api-management/health"
    narrow = (await api.http.get(path, params={"wedding_critical_only": True, "timeout_ms": 5000})).json()
    assert {one["dependency"] for one in narrow["apis"]} == {"critical"}
    bare = (await api.http.get(path, params={"include_third_party": False})).json()
    assert bare["apis"] == []
    assert (await api.http.get(path, params={"timeout_ms": 1})).status_code == 422
    for authenticated in (path, "/api/integrations/health-check"):
        assert (await api.http.get(authenticated, headers={"Authorization": ""})).status_code == 401


async def test_history_tells_uptime_and_the_error_budget(api: Any, controller: AdmissionController) -> None:
    statement = """
    INSERT INTO health_changes (service, from_status, status, at, error_rate, response_ms)
    VALUES ('stripe', 'healthy', 'down', now() - interval '2 hours', 1, 1),
           ('stripe', 'down', 'healthy', now() - interval '1 hour', 0, 1)
    """
    async with controller.breakers.db.system() as conn:
        await conn.execute(text(statement))
    history = (await api.get("/services/stripe/health")).json()
    assert [change["status"] for change in history["data"]] == ["healthy", "down"]
    assert {change["source"] for change in history["data"]} == {"probe"}
    assert (history["changes"], history["down_seconds"]) == (2, 3600)
    assert history["uptime"] == pytest.approx(1 - 1 / (7 * 24), abs=1e-4)
    assert history["error_budget_seconds"] == pytest.approx(7 * 86_400 * 0.001 - 3600, abs=5)
    assert (
        await api.get("/services/stripe/health", since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z")
    ).status_code == 422
