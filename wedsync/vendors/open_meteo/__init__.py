"""Open-Meteo: weather forecasts."""
