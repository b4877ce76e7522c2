from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from api.openapi import render
from wedsync.domain import errors
from wedsync.domain.access import principal
from wedsync.http.problems import KINDS
from wedsync.usecases.access.answer_once import IdempotencyMismatch
from wedsync.usecases.plans.validate import InvalidPlan

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = "application/problem+json"


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM), response.text
    found: dict[str, Any] = response.json()
    assert set(found) == {"type", "title", "status", "detail", "code", "instance", "errors"}
    assert (found["status"], found["code"], found["type"]) == (status, code, f"urn:wedsync:error:{code}")
    assert found["title"] == KINDS[code].title
    assert found["instance"] == f"urn:wedsync:request:{response.headers['x-request-id']}"
    return found


def test_the_document_lists_every_code_with_its_status_and_no_other() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    listed = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE)}
    assert listed == {code: kind.status for code, kind in KINDS.items()}


def test_every_reason_and_code_that_is_raised_towards_the_api_is_known() -> None:
    sources = [*(ROOT / "wedsync/usecases/access").glob("*.py"), ROOT / "wedsync/domain/weddings/refusals.py"]
    reasons = {word for path in sources for word in re.findall(r'reason="(\w+)"', path.read_text())}
    local_only = {"not_local", "key_taken", "organization_taken"}
    inside_errors = {"vendor"}
    assert reasons - local_only - inside_errors <= set(KINDS)
    kinds = (errors.NotFound, errors.Conflict, errors.InvalidInput, errors.StoreUnavailable, errors.TemporalUnreachable)
    assert {kind.code for kind in kinds} <= set(KINDS)
    assert {principal.Unauthenticated.code, IdempotencyMismatch.code, InvalidPlan.code} <= set(KINDS)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wsk_unknown"},
        {"Authorization": "Basic d3NrOg=="},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": "Bearer \x01"},
    ],
)
async def test_nobody_passes_without_a_known_key(api: Any, headers: dict[str, str]) -> None:
    api.http.headers.pop("authorization")
    for method, path in (("GET", "/weddings"), ("POST", "/weddings"), ("GET", "/nothing"), ("PUT", "/plans/validate")):
        response = await api.http.request(method, f"/api/v1{path}", headers=headers, content=b"{")
        assert_problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_every_route_below_the_version_is_guarded(api: Any) -> None:
    api.http.headers.pop("authorization")
    document = (await api.http.get("/api/v1/openapi.json", headers={"Authorization": "x"})).json()
    assert document["code"] == "unauthenticated"
    for path, item in json.loads(render())["paths"].items():
        if path.startswith("/api/v1/") and "vendor-links" not in path:
            for method in item:
                response = await api.http.request(method, re.sub(r"\{.*?\}", "x", path))
                if method == "head":
                    assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM)
                else:
                    assert_problem(response, 401, "unauthenticated")


async def test_unknown_paths_and_methods_are_problems_too(api: Any) -> None:
    assert_problem(await api.http.get("/nothing"), 404, "not_found")
    assert_problem(await api.get("/nothing"), 404, "not_found")
    refused = await api.http.put("/api/v1/weddings", json={})
    assert_problem(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["allow"] or "POST" in refused.headers["allow"]


@pytest.mark.parametrize("wedding", ["nobody", "a%00b", "a%2Fb", "%F0%9F%92%8D", "x" * 300, "'--"])
async def test_an_unknown_wedding_is_not_found_everywhere(api: Any, wedding: str) -> None:
    body = {"kind": "orchestrate"}
    responses = [
        await api.get(f"/weddings/{wedding}"),
        await api.get(f"/weddings/{wedding}/steps"),
        await api.get(f"/weddings/{wedding}/events"),
        await api.get(f"/weddings/{wedding}/transactions/x"),
        await api.post(f"/weddings/{wedding}/transactions", body),
        await api.post(f"/weddings/{wedding}/transactions/x/undo"),
        await api.post(f"/weddings/{wedding}/transactions/x/cancel"),
        await api.post(f"/weddings/{wedding}/steps/x/decision", {"choice": "retry"}),
        await api.http.delete(f"/api/v1/weddings/{wedding}"),
        await api.post(f"/weddings/{wedding}/repair"),
    ]
    for response in responses:
        assert_problem(response, 404, "not_found")


async def test_the_requests_id_comes_back_and_a_strange_one_is_replaced(api: Any) -> None:
    given = await api.http.get("/healthz", headers={"X-Request-Id": "abc.1-2_3"})
    assert given.headers["x-request-id"] == "abc.1-2_3"
    for strange in ("a b", "x" * 129, "é".encode()):
        replaced = await api.http.get("/healthz", headers={"X-Request-Id": strange})
        assert re.fullmatch(r"[0-9A-Z]{26}", replaced.headers["x-request-id"])


async def test_a_body_beyond_the_limit_is_refused_declared_or_streamed(api: Any) -> None:
    big = b"x" * (api.settings.request_max_bytes + 1)

    async def chunks() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for content in (big, chunks()):
        response = await api.http.post("/api/v1/weddings", content=content, headers=api.key())
        assert_problem(response, 413, "content_too_large")
    lied = await api.http.post("/codec/decode", content=b"", headers={"Content-Length": "9" * 30})
    assert_problem(lied, 413, "content_too_large")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_body"),
        (b"", 422, "invalid_input"),
        (b"[]", 422, "invalid_input"),
        (b"null", 422, "invalid_input"),
        (b'"x"', 422, "invalid_input"),
        (b"\xff\xfe", 400, "malformed_body"),
        (b'{"kind": "orchestrate", "more": 1}', 422, "invalid_input"),
        (b'{"kind": "orchestrate", "zone": "Europe/Rome"}', 422, "invalid_input"),
        (b'{"kind": "timeline"}', 422, "invalid_input"),
        (b'{"kind": "timeline", "ceremony_at": 7}', 422, "invalid_input"),
        (b'{"kind": "timeline", "ceremony_at": "tomorrow"}', 422, "invalid_input"),
        (b'{"kind": 1}', 422, "invalid_input"),
        (b"[" * 5000, 400, "malformed_body"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused(api: Any, content: bytes, status: int, code: str) -> None:
    headers = {**api.key(), "Content-Type": "application/json"}
    response = await api.http.post("/api/v1/weddings/x/transactions", content=content, headers=headers)
    found = assert_problem(response, status, code)
    if status == 422:
        assert found["errors"]


@pytest.mark.parametrize("path", ["/weddings?limit=0", "/weddings?limit=101", "/weddings?limit=x"])
async def test_a_query_that_does_not_fit_names_its_field(api: Any, path: str) -> None:
    found = assert_problem(await api.get(path), 422, "invalid_input")
    assert found["errors"][0]["field"] == "limit"


@pytest.mark.parametrize("wait", ["31s", "-1", "1m", "s", "", "1e1"])
async def test_a_wait_beyond_half_a_minute_is_refused(api: Any, wait: str) -> None:
    path = f"/weddings/x/transactions?wait={wait}"
    assert_problem(await api.post(path, {"kind": "orchestrate"}), 422, "invalid_input")


async def test_what_nobody_expected_is_a_problem_that_tells_nothing(api: Any) -> None:
    async def broken(request: Any) -> None:
        raise ZeroDivisionError("secret thing")

    api.app.router.routes.insert(0, Route("/broken", broken))
    response = await api.http.get("/broken")
    found = assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "logged" in found["detail"]


async def test_an_error_without_a_code_of_ours_tells_nothing(api: Any) -> None:
    async def broken(request: Any) -> None:
        raise errors.VendorRejected("guest Ada Lovelace was refused")

    api.app.router.routes.insert(0, Route("/broken", broken))
    response = await api.http.get("/broken")
    assert_problem(response, 500, "internal")
    assert "Ada" not in response.text


async def test_with_the_database_away_callers_are_told_to_come_back(api: Any, database_urls: Any) -> None:
    api.app.state.database = type(api.db)("postgresql://nobody:x@127.0.0.1:1/none")
    response = await api.get("/weddings")
    assert_problem(response, 503, "store_unavailable")
    assert response.headers["retry-after"] == "5"
    api.app.state.database = api.db
