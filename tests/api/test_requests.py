"""What every request passes by: it is counted by its route, and hands its trace on."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from wedsync.kit import telemetry

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_request_is_counted_by_its_route_and_status(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, str, int]] = []
    monkeypatch.setattr(
        telemetry, "record_request", lambda method, route, status, _: counted.append((method, route, status))
    )
    wedding = (await api.wedding())["id"]
    await api.get(f"/weddings/{wedding}")
    await api.get("/weddings/nobody")
    await api.http.get("/nowhere")
    await api.http.get("/healthz")
    assert [status for _, _, status in counted] == [201, 200, 404, 404]
    shown, unknown = counted[1][1], counted[2][1]
    assert shown == unknown
    assert shown.endswith("/{wedding}")
    assert wedding not in str(counted)


async def test_the_callers_trace_is_handed_on_with_the_request(api: Any) -> None:
    wedding = (await api.wedding())["id"]
    asked = await api.post(f"/weddings/{wedding}/transactions", {"kind": "orchestrate"}, traceparent=GIVEN)
    async with api.db.tenant(api.access.organization_id) as conn:
        query = text("SELECT traceparent FROM transactions WHERE id = :id")
        kept = (await conn.execute(query, {"id": asked.json()["id"]})).scalar_one()
    assert kept.split("-")[1] == GIVEN.split("-")[1]


async def test_what_is_answered_at_once_is_what_is_shown_later(api: Any) -> None:
    wedding = await api.wedding()
    assert (await api.get(f"/weddings/{wedding['id']}")).json() == wedding
    asked = (await api.post(f"/weddings/{wedding['id']}/transactions", {"kind": "orchestrate"})).json()
    assert (await api.get(f"/weddings/{wedding['id']}/transactions/{asked['id']}")).json() == asked


async def test_a_weddings_id_wins_over_anothers_reference(api: Any) -> None:
    named = await api.wedding()
    await api.post("/weddings", api.plan(id=named["id"].lower()))
    async with api.db.tenant(api.access.organization_id) as conn:
        query = text("UPDATE weddings SET reference = :id WHERE reference = lower(:id)")
        await conn.execute(query, {"id": named["id"]})
    shown = (await api.get(f"/weddings/{named['id']}")).json()
    assert shown["id"] == named["id"]
    assert shown["steps"] == named["steps"]
