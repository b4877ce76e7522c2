"""Translates between our question and Open-Meteo's daily forecast. Pure. Source: https://open-meteo.com/en/docs"""

from __future__ import annotations

import math
from typing import Any

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, VendorUnavailable
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import forecast_query_of

#: How many days are asked for; the first is today at the place.
DAYS = 7
DAILY = ("weather_code", "temperature_2m_max", "temperature_2m_min", "precipitation_probability_max")

#: WMO weather interpretation codes (WW), as Open-Meteo uses them.
_SUMMARIES = {
    0: "clear", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "rime fog",
    51: "light drizzle", 53: "drizzle", 55: "dense drizzle", 56: "freezing drizzle", 57: "freezing drizzle",
    61: "light rain", 63: "rain", 65: "heavy rain", 66: "freezing rain", 67: "freezing rain",
    71: "light snow", 73: "snow", 75: "heavy snow", 77: "snow grains",
    80: "rain showers", 81: "rain showers", 82: "violent rain showers", 85: "snow showers", 86: "snow showers",
    95: "thunderstorm", 96: "thunderstorm with hail", 99: "thunderstorm with hail",
}  # fmt: skip


def query(call: Call, api_key: str) -> list[tuple[str, str]]:
    """Build the parameters of `GET /v1/forecast`: daily values in the place's own time zone, Celsius."""
    place = forecast_query_of(call)
    for name, value, limit in (("latitude", place.latitude, 90), ("longitude", place.longitude, 180)):
        if not math.isfinite(value) or abs(value) > limit:
            raise InvalidInput(f"the {name} is out of range", field=name)
    params = [
        ("latitude", f"{place.latitude:.4f}"),
        ("longitude", f"{place.longitude:.4f}"),
        ("daily", ",".join(DAILY)),
        ("timezone", "auto"),
        ("forecast_days", str(DAYS)),
    ]
    return [*params, ("apikey", api_key)] if api_key else params


def effect(body: Any) -> Effect:
    """Return today's summary and high, and the days to come as `days`; raises VendorUnavailable without a forecast."""
    daily = body.get("daily") if isinstance(body, dict) else None
    columns: dict[str, Any] = {name: daily.get(name) for name in ("time", *DAILY)} if isinstance(daily, dict) else {}
    if not columns or not all(isinstance(column, list) and column for column in columns.values()):
        raise VendorUnavailable("open_meteo answered without a forecast", vendor="open_meteo", reason="bad_answer")
    days: list[JsonValue] = [_day(*row) for row in zip(*columns.values(), strict=False)]
    code, high = columns["weather_code"][0], columns["temperature_2m_max"][0]
    if code is None or high is None:
        raise VendorUnavailable("open_meteo has no forecast for today", vendor="open_meteo", reason="no_data")
    summary = _summary(code)
    return Effect(
        state="done",
        facts={"summary": summary, "high_celsius": float(high), "days": days},
        detail=f"{summary}, up to {high} °C",
    )


def _day(day: str, code: int | None, high: float | None, low: float | None, rain: int | None) -> JsonValue:
    return {
        "date": day,
        "summary": _summary(code),
        "high_celsius": high,
        "low_celsius": low,
        "precipitation_percent": rain,
    }


def _summary(code: int | None) -> str:
    return "unknown" if code is None else _SUMMARIES.get(code, f"weather code {code}")


def read_error(status: int, body: Any) -> tuple[str, str]:
    """Read `(code, detail)` of `{"error": true, "reason": "..."}`; the reason repeats the place and is left out."""
    return f"http_{status}", f"answered {status}"
