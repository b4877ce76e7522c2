from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    "path",
    ["/failovers", "/services/stripe/health", "/versions/usage", "/webhook-sources/stripe/statistics"],
)
@pytest.mark.parametrize("until", ["0001-01-02T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
async def test_a_range_at_the_end_of_all_time_is_refused(api: Any, path: str, until: str) -> None:
    response = await api.get(path, until=until)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == "until"
    assert (await api.get(path, until="2027-01-01T00:00:00Z")).status_code == 200
