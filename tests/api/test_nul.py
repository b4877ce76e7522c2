"""A NUL, which no text in Postgres can hold, is refused wherever it stands; it is no fault of ours."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

_numbers = itertools.count(1)
SOURCE = {"scheme": "hmac_sha256"}


def named_in(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Every operation below `/api/v1` whose path names something."""
    return [
        (method, path)
        for path, operations in schema["paths"].items()
        for method in operations
        if "{" in path and path.startswith("/api/v1/")
    ]


async def test_no_operation_fails_over_a_nul_in_its_path(api: Any) -> None:
    failed = []
    for method, path in named_in(api.app.openapi()):
        filled = re.sub(r"\{[^}]+\}", "a%00b", path)
        response = await api.http.request(method, filled, headers=api.key(), json={} if method != "get" else None)
        if response.status_code >= 500 and response.json()["code"] == "internal":
            failed.append(f"{method} {path}")
    assert failed == []


@pytest.mark.parametrize(
    ("method", "tail", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"state": "paused"}),
        ("DELETE", "", None),
        ("POST", "/rotate", {}),
        ("GET", "/statistics", None),
    ],
)
async def test_a_source_is_not_named_by_a_nul(api: Any, method: str, tail: str, body: Any) -> None:
    response = await api.http.request(method, f"/api/v1/webhook-sources/a%00b{tail}", headers=api.key(), json=body)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "source")


@pytest.mark.parametrize(
    "config",
    [
        {"scheme": "meta", "verify_token": "a\x00b"},
        {**SOURCE, "type_map": {"a\x00b": "other"}},
        {**SOURCE, "event_types": ["a\x00b"]},
        {**SOURCE, "hmac": {"prefix": "\x00"}},
        {**SOURCE, "hmac": {"signed_prefix": "\x00{timestamp}"}},
    ],
)
async def test_a_sources_configuration_holds_no_nul(api: Any, config: dict[str, Any]) -> None:
    made = await api.post("/webhook-sources", {"name": "with-nul", "config": config})
    assert made.status_code == 422, made.text
    assert made.json()["errors"][0]["field"].startswith("config.")
    kept = await api.post(
        "/webhook-sources", {"name": f"plain-{next(_numbers)}", "config": {"scheme": config["scheme"]}}
    )
    changed = await api.http.patch(f"/api/v1/webhook-sources/{kept.json()['id']}", json={"config": config})
    assert changed.status_code == 422, changed.text
    assert changed.json()["errors"][0]["field"].startswith("config.")


async def test_a_subscriptions_filters_hold_no_nul(api: Any) -> None:
    said = {"url": "http://127.0.0.1:9/x", "event_types": ["*"]}
    for filters in ({"wedding_id": ["a\x00b"]}, {"data.x\x00": ["a"]}):
        made = await api.post("/webhook-subscriptions", {**said, "filters": filters})
        assert made.status_code == 422, made.text
    kept = (await api.post("/webhook-subscriptions", said)).json()["id"]
    changed = await api.http.patch(f"/api/v1/webhook-subscriptions/{kept}", json={"filters": {"type": ["\x00"]}})
    assert changed.status_code == 422, changed.text
