from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Client

from wedsync.kit import temporal
from wedsync.store.weddings.tables import weddings


async def test_a_wedding_that_was_never_begun_has_nothing_to_repair(
    new_api: Any, database_urls: Any, temporal_client: Client
) -> None:
    async def provider() -> Client:
        return temporal_client

    api = await new_api(database_urls, provider)
    wedding_id = (await api.wedding())["id"]
    response = await api.post(f"/weddings/{wedding_id}/repair")
    assert (response.status_code, response.json()["code"]) == (409, "not_started")
    async with api.db.tenant(api.access.organization_id) as conn:
        await conn.execute(update(weddings).where(weddings.c.id == wedding_id).values(status="ended"))
    response = await api.post(f"/weddings/{wedding_id}/repair")
    assert (response.status_code, response.json()["code"]) == (409, "wedding_over")


@pytest.mark.parametrize("lazy", [True, False])
async def test_a_repair_with_temporal_away_is_asked_for_again(
    new_api: Any, database_urls: Any, monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")

    async def provider() -> Client:
        return await temporal.connect(api.settings, lazy=lazy)

    api = await new_api(database_urls, provider)
    response = await api.post(f"/weddings/{(await api.wedding())['id']}/repair")
    assert (response.status_code, response.json()["code"]) == (503, "temporal_unreachable")
    assert response.headers["retry-after"] == "5"
