"""Reads the weather forecast from Open-Meteo."""

from __future__ import annotations

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.open_meteo import mapping


class Client:
    """Client of the free service, or of a paid one by its API key."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Read the `forecast`, which may be repeated."""
        if call.operation != "forecast":
            raise InvalidInput(f"open_meteo has no operation {call.operation}", field="operation")
        return await self._read(call)

    async def find(self, call: Call) -> Effect | None:
        """Find nothing: a read leaves nothing to find."""
        return None

    async def inspect(self, call: Call) -> Effect:
        """Read the forecast as it is now."""
        return await self._read(call)

    async def _read(self, call: Call) -> Effect:
        params = mapping.query(call, self._account.api_key)
        response = await self._http.request("GET", "/v1/forecast", params=params)
        return mapping.effect(response.json())
