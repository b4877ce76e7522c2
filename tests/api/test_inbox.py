"""The inbox's desk: people assign and replay events beside everybody else's requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

#: A request that waits for a connection in vain is refused after ten seconds.
SOON_SECONDS = 5.0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/inbox/1/assign", {"wedding_id": "none"}, 404),
        ("/inbox/replay", {"ids": [1]}, 202),
    ],
)
async def test_many_assignments_and_replays_at_once_keep_nobody_waiting(
    api: Any, path: str, body: dict[str, Any], status: int
) -> None:
    began = time.monotonic()
    asked = [api.post(path, body) for _ in range(3 * api.settings.database_pool_size)]
    *answers, other = await asyncio.gather(*asked, api.get("/weddings"))
    assert {answer.status_code for answer in answers} == {status}
    assert other.status_code == 200
    assert time.monotonic() - began < SOON_SECONDS
