"""Open-Meteo's forecast: the same place and day have the same weather, made up from their names."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wedsync.kit.standin import FakeContext, StandIn

_CODES = (0, 1, 2, 3, 45, 61, 63, 80, 95)
_UNITS = {
    "time": "iso8601", "weather_code": "wmo code", "temperature_2m_max": "°C", "temperature_2m_min": "°C",
    "precipitation_probability_max": "%", "precipitation_sum": "mm", "wind_speed_10m_max": "km/h",
}  # fmt: skip


def _bad(reason: str) -> JSONResponse:
    return JSONResponse({"error": True, "reason": reason}, 400)


def _weather(name: str, place: str, day: str) -> Any:
    if name == "time":
        return day
    seed = int.from_bytes(hashlib.sha256(f"{place} {day}".encode()).digest()[:4], "big")
    high = 8 + seed % 240 / 10
    return {
        "weather_code": _CODES[seed % len(_CODES)],
        "temperature_2m_max": round(high, 1),
        "temperature_2m_min": round(high - 4 - seed % 70 / 10, 1),
        "precipitation_probability_max": seed % 101,
        "precipitation_sum": seed % 90 / 10,
        "wind_speed_10m_max": seed % 600 / 10,
    }[name]


def build(context: FakeContext) -> StandIn:
    """Build the stand-in of the weather service."""

    async def forecast(request: Request) -> Response:
        query = request.query_params
        try:
            latitude, longitude = float(query["latitude"]), float(query["longitude"])
            days = int(query.get("forecast_days", "7"))
        except (KeyError, ValueError):
            return _bad("Parameter 'latitude' and 'longitude' must have the same number of elements")
        if query.get("apikey", "").startswith("revoked"):
            return _bad("The supplied API key is invalid.")
        for name, value, limit in (("Latitude", latitude, 90), ("Longitude", longitude, 180)):
            if not -limit <= value <= limit:
                return _bad(f"{name} must be in range of -{limit} to {limit}°. Given: {value}.")
        if not 0 <= days <= 16:
            return _bad(f"Forecast days is invalid. Allowed range 0 to 16. Given {days}.")
        wanted = [name for name in query.get("daily", "").split(",") if name]
        if unknown := [name for name in wanted if name not in _UNITS]:
            return _bad(f"Data corrupted at path ''. Cannot initialize from invalid String value {unknown[0]}.")
        answer: dict[str, Any] = {
            "latitude": latitude,
            "longitude": longitude,
            "elevation": 201.0,
            "generationtime_ms": 0.05,
            "utc_offset_seconds": 0,
            "timezone": "GMT" if query.get("timezone") != "auto" else "Etc/GMT",
            "timezone_abbreviation": "GMT",
        }
        if wanted:
            today = context.now().date()
            dates = [(today + timedelta(days=number)).isoformat() for number in range(days)]
            place = f"{latitude:.2f} {longitude:.2f}"
            names = ["time", *wanted]
            answer["daily"] = {name: [_weather(name, place, day) for day in dates] for name in names}
            answer["daily_units"] = {name: _UNITS[name] for name in names}
        return JSONResponse(answer)

    def refuse(operation: str, request: Request) -> Response | None:
        return None

    return StandIn(routes=[Route("/v1/forecast", forecast, methods=["GET"], name="forecast")], refuse=refuse)
