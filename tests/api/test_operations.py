from __future__ import annotations

import base64
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client

from wedsync.kit import temporal
from wedsync.kit.codec import payloads_from_json, payloads_to_json
from wedsync.store.db import migrate

UI = "http://ui.test"


async def encoded(api: Any, said: bytes = b'"summary"') -> bytes:
    payload = Payload(metadata={"encoding": b"json/plain"}, data=said)
    return payloads_to_json(await temporal.payload_codec(api.settings).encode([payload]))


async def test_health_is_said_without_a_key(api: Any) -> None:
    api.http.headers.pop("authorization")
    response = await api.http.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_ready_with_temporal(new_api: Any, database_urls: Any, temporal_client: Client) -> None:
    async def provider() -> Client:
        return temporal_client

    api = await new_api(database_urls, provider)
    response = await api.http.get("/readyz")
    assert (response.status_code, response.json()) == (
        200, {"status": "ready", "database": "ok", "temporal": "ok"},
    )  # fmt: skip


async def test_ready_without_temporal_because_it_is_told_later(api: Any) -> None:
    response = await api.http.get("/readyz")
    assert (response.status_code, response.json()["temporal"]) == (200, "unreachable")


async def test_not_ready_while_the_database_is_not_migrated(new_api: Any, fresh_database_urls: Any) -> None:
    api = await new_api(fresh_database_urls)
    await migrate.downgrade(fresh_database_urls.owner, "base")
    response = await api.http.get("/readyz")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert "not migrated" in response.json()["detail"]


async def test_not_ready_while_the_database_is_away(api: Any) -> None:
    kept = api.app.state.database
    api.app.state.database = type(kept)("postgresql://nobody:x@127.0.0.1:1/none")
    response = await api.http.get("/readyz")
    api.app.state.database = kept
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert "database: unreachable" in response.json()["detail"]


async def test_metrics_are_in_prometheus_text(api: Any) -> None:
    response = await api.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")


async def test_the_codec_decodes_for_a_key(api: Any) -> None:
    response = await api.http.post("/codec/decode", content=await encoded(api))
    assert response.status_code == 200
    (payload,) = payloads_from_json(response.content)
    assert (payload.metadata["encoding"], payload.data) == (b"json/plain", b'"summary"')
    assert "access-control-allow-origin" not in response.headers


async def test_the_local_ui_needs_no_key_and_other_pages_do(api: Any) -> None:
    api.http.headers.pop("authorization")
    body = await encoded(api)
    asked = await api.http.options("/codec/decode", headers={"Origin": UI, "Access-Control-Request-Method": "POST"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, UI)
    assert "X-Namespace" in asked.headers["access-control-allow-headers"]
    own = await api.http.post("/codec/decode", content=body, headers={"Origin": UI})
    assert (own.status_code, own.headers["access-control-allow-origin"]) == (200, UI)
    for origin in ("http://evil.test", "null", f"{UI}.evil.test", ""):
        other = await api.http.post("/codec/decode", content=body, headers={"Origin": origin})
        assert (other.status_code, other.json()["code"]) == (401, "unauthenticated")
        assert "access-control-allow-origin" not in other.headers


async def test_outside_the_local_environment_the_ui_needs_a_key_too(new_api: Any, database_urls: Any) -> None:
    operators = {"environment": "staging", "operator_organizations": "other, local"}
    api = await new_api(database_urls, codec_origins=" http://ops.test/ ,", **operators)
    body = await encoded(api)
    origin = {"Origin": "http://ops.test"}
    assert (await api.http.post("/codec/decode", content=body, headers=origin)).status_code == 200
    api.http.headers.pop("authorization")
    refused = await api.http.post("/codec/decode", content=body, headers=origin)
    assert refused.status_code == 401
    # So that the UI can say why.
    assert refused.headers["access-control-allow-origin"] == "http://ops.test"


async def test_the_codec_decodes_for_operators_only(new_api: Any, database_urls: Any) -> None:
    api = await new_api(database_urls, environment="staging", operator_organizations="somebody-else")
    refused = await api.http.post("/codec/decode", content=await encoded(api), headers={"Origin": UI})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_operator")
    assert refused.headers["access-control-allow-origin"] == UI


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"payloads": 1}',
        b'{"payloads": [{"data": "?"}]}',
        b'{"payloads": [{"metadata": {"encoding": "YmluYXJ5L2VuY3J5cHRlZA=="}, "data": "AAAA"}]}',
        b"\xff",
    ],
)
async def test_what_can_not_be_decoded_is_refused(api: Any, body: bytes) -> None:
    response = await api.http.post("/codec/decode", content=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_input")


async def test_altered_payloads_are_refused(api: Any) -> None:
    (payload,) = payloads_from_json(await encoded(api))
    payload.data = payload.data[:-1] + bytes([payload.data[-1] ^ 1])
    response = await api.http.post("/codec/decode", content=payloads_to_json([payload]))
    assert response.status_code == 422
    assert base64.b64encode(payload.data).decode() not in response.text
