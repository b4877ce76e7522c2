"""Sends text messages through Vonage's SMS API."""

from __future__ import annotations

from wedsync.domain.errors import InvalidInput
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import needed_fact_of
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.vonage import mapping


class Client:
    """One Vonage account."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Do `send_sms`: done once Vonage took the message; a webhook reports its delivery."""
        if call.operation != "send_sms":
            raise InvalidInput(f"vonage has no operation {call.operation}", field="operation")
        form = mapping.form(
            call,
            api_key=self._account.api_key,
            api_secret=self._account.client_secret,
            sender=self._account.client_id,
            callback=self._account.webhook_url,
        )
        response = await self._http.request("POST", "/sms/json", form=form, headers={"Accept": "application/json"})
        return mapping.effect(response.json())

    async def find(self, call: Call) -> Effect | None:
        """Raise InvalidInput: nothing can be searched at once (the manifest says `unsafe`)."""
        raise InvalidInput("vonage can't be asked for a message", field="operation")

    async def inspect(self, call: Call) -> Effect:
        """Return what is known without asking: a message with an id was accepted; the SMS API has no reading call."""
        message_id = needed_fact_of(call, "message_id")
        return Effect(state="done", external_id=message_id, detail=f"message {message_id} was accepted")
