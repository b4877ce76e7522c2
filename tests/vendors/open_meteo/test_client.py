"""Open-Meteo's client against its stand-in and the vendor's contract, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wedsync.domain.errors import InvalidInput, VendorRejected, VendorThrottled, VendorUnavailable
from wedsync.domain.vendors.call import Call
from wedsync.sandbox.embedded import EmbeddedSandbox
from wedsync.vendors.open_meteo import mapping

CONTRACT = "open-meteo"
COMO = {"latitude": 45.8081, "longitude": 9.0852}


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Callable[..., Call]:
    def make(inputs: dict[str, Any] | None = None, operation: str = "forecast") -> Call:
        return make_call("open_meteo", "weather.forecast", operation, inputs or COMO)

    return make


async def test_a_forecast_tells_today_and_the_week(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], assert_contract: Callable[..., Any]
) -> None:
    await sandbox.set_clock("2027-06-17T08:00:00+00:00")
    client = sandbox.client("open_meteo", api_key="")
    told = await client.send(call())
    days = told.facts["days"]
    assert isinstance(days, list)
    assert isinstance(days[0], dict)
    assert [len(days), days[0]["date"]] == [7, "2027-06-17"]
    assert (told.facts["summary"], told.facts["high_celsius"]) == (days[0]["summary"], days[0]["high_celsius"])
    assert (await client.inspect(call())).facts == told.facts
    assert await client.find(call()) is None
    assert await sandbox.ledger("open_meteo") == []
    assert await assert_contract("open_meteo", CONTRACT, responses=True) == 2


async def test_the_key_of_a_paid_plan_is_sent(sandbox: EmbeddedSandbox, call: Callable[..., Call]) -> None:
    await sandbox.client("open_meteo", api_key="k3y").send(call())
    (sent,) = await sandbox.requests("open_meteo")
    assert "apikey=k3y" in sent["url"]
    with pytest.raises(VendorRejected):
        await sandbox.client("open_meteo", api_key="revoked").send(call())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"mode": "down"}, VendorUnavailable),
        ({"mode": "commit_then_drop"}, VendorUnavailable),
        ({"mode": "throttle"}, VendorThrottled),
    ],
)
async def test_faults_of_a_read_are_never_unknown(
    sandbox: EmbeddedSandbox, call: Callable[..., Call], fault: dict[str, Any], error: type[Exception]
) -> None:
    await sandbox.faults("open_meteo", **fault)
    with pytest.raises(error):
        await sandbox.client("open_meteo").send(call())


@pytest.mark.parametrize(
    "inputs", [{"latitude": 91, "longitude": 0}, {"latitude": 0, "longitude": -181}, {"latitude": 1}, {}]
)
def test_a_place_that_is_none_is_not_asked_for(make_call: Callable[..., Call], inputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        mapping.query(make_call("open_meteo", "weather.forecast", "forecast", inputs), "")


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"daily": {}},
        {"daily": {"time": ["2027-06-17"], **{key: [] for key in mapping.DAILY}}},
        {"daily": {"time": ["2027-06-17"], **{key: [None] for key in mapping.DAILY}}},
    ],
)
def test_an_answer_without_a_forecast_is_asked_for_again(body: Any) -> None:
    with pytest.raises(VendorUnavailable):
        mapping.effect(body)


def test_gaps_and_unknown_codes_in_later_days_are_told() -> None:
    columns = {key: [0, None] for key in mapping.DAILY}
    told = mapping.effect({"daily": {"time": ["2027-06-17", "2027-06-18"], **columns, "weather_code": [42, None]}})
    assert told.facts["summary"] == "weather code 42"
    days = told.facts["days"]
    assert isinstance(days, list)
    assert isinstance(days[1], dict)
    assert (days[1]["summary"], days[1]["high_celsius"]) == ("unknown", None)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(latitude=st.floats(-90, 90), longitude=st.floats(-180, 180))
async def test_every_request_is_valid_by_the_contract(
    sandbox: EmbeddedSandbox,
    call: Callable[..., Call],
    assert_contract: Callable[..., Any],
    latitude: float,
    longitude: float,
) -> None:
    await sandbox.reset()
    await sandbox.client("open_meteo").send(call({"latitude": latitude, "longitude": longitude}))
    assert await assert_contract("open_meteo", CONTRACT, responses=True) == 1
