"""Keeps events in an Outlook calendar through Microsoft Graph v1.0.

Sources: https://learn.microsoft.com/en-us/graph/api/resources/event (transactionId) and
https://learn.microsoft.com/en-us/graph/api/singlevaluelegacyextendedproperty-get (finding by our own property).
"""

from __future__ import annotations

from urllib.parse import quote

from wedsync.domain.errors import InvalidInput, OutcomeUnknown, VendorRejected
from wedsync.domain.vendors.calendars import GONE_STATUSES, event_gone
from wedsync.domain.vendors.call import Call, Effect
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.microsoft_graph import mapping


class Client:
    """One mailbox: `account_id`, or the token's own."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Carry out `create_event`, `update_event` or `delete_event`."""
        match call.operation:
            case "create_event":
                return await self._create(call)
            case "update_event":
                body = mapping.change_body(call)
                response = await self._http.request("PATCH", self._one(call), json_body=body, headers=self._headers())
                return mapping.effect(response.json())
            case "delete_event":
                return await self._delete(call)
        raise InvalidInput(f"microsoft_graph has no operation {call.operation}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find the event that carries our reference as extended property, unless it is cancelled."""
        params = [("$filter", mapping.reference_filter(call.reference)), ("$top", "10")]
        response = await self._http.request("GET", self._events(), params=params, headers=self._headers())
        body = response.json()
        for event in (body.get("value") if isinstance(body, dict) else None) or []:
            found = mapping.effect(event)
            if found.state == "done":
                return found
        return None

    async def inspect(self, call: Call) -> Effect:
        """Read the event as it is on the calendar now."""
        try:
            response = await self._http.request("GET", self._one(call), headers=self._headers())
        except VendorRejected as error:
            if error.status in GONE_STATUSES:
                return event_gone(mapping.event_id(call))
            raise
        return mapping.effect(response.json())

    async def _create(self, call: Call) -> Effect:
        body = mapping.create_body(call)
        try:
            response = await self._http.request("POST", self._events(), json_body=body, headers=self._headers())
        except VendorRejected as error:
            # An earlier attempt of ours made the event: it is found, not refused.
            if error.status == 409:
                raise OutcomeUnknown(error.detail, vendor=error.vendor, reason=error.reason, status=409) from error
            raise
        return mapping.effect(response.json())

    async def _delete(self, call: Call) -> Effect:
        known = mapping.event_id(call)
        try:
            await self._http.request("DELETE", self._one(call), headers=self._headers())
        except VendorRejected as error:
            if error.status in GONE_STATUSES:
                return event_gone(known)
            raise
        return Effect(state="done", external_id=known, detail="event deleted")

    def _events(self) -> str:
        user = self._account.account_id
        return f"/users/{quote(user, safe='@')}/events" if user else "/me/events"

    def _one(self, call: Call) -> str:
        return f"{self._events()}/{quote(mapping.event_id(call), safe='')}"

    def _headers(self) -> dict[str, str]:
        # With immutable ids an event keeps its id when somebody moves it to another calendar of the mailbox.
        return {"Authorization": f"Bearer {self._account.api_key}", "Prefer": 'IdType="ImmutableId"'}
