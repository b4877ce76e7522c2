"""Keeps events in Google Calendar, each under an id of our choosing.

https://developers.google.com/workspace/calendar/api/v3/reference/events
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, NotAuthorized, OutcomeUnknown, VendorError, VendorRejected
from wedsync.domain.vendors import http_outcome
from wedsync.domain.vendors.calendars import GONE_STATUSES, event_gone
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import calendar_event_of, previous_calendar_event_of
from wedsync.kit.clock import utc_now
from wedsync.kit.http import VendorHttp, VendorResponse
from wedsync.kit.vendor import Account
from wedsync.vendors.google_calendar import mapping


class Client:
    """One Google calendar."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Carry out `insert_event`, `update_event` or `delete_event`; Google invites and informs the attendees."""
        match call.operation:
            case "insert_event":
                return await self._insert(call)
            case "update_event":
                notify = mapping.notify(calendar_event_of(call.inputs), previous_calendar_event_of(call))
                path = self._event(mapping.event_id(call))
                answer = await self._request("PATCH", path, body=mapping.patch_body(call), notify=notify)
                return mapping.effect_of(answer.json(), "moved")
            case "delete_event":
                return await self._delete(mapping.event_id(call))
        raise InvalidInput(f"google_calendar has no operation {call.operation}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find the event under our id, when it carries our reference and was not deleted."""
        found = await self._get(call.reference)
        if found is None or not mapping.is_ours(found, call):
            return None
        return mapping.effect_of(found, "found")

    async def inspect(self, call: Call) -> Effect:
        """Read the event as it is now, with its etag; `absent` when it was deleted."""
        event_id = mapping.event_id(call)
        found = await self._get(event_id)
        if found is None or mapping.is_cancelled(found):
            return event_gone(event_id)
        return mapping.effect_of(found, "found")

    async def _insert(self, call: Call) -> Effect:
        notify = mapping.notify(calendar_event_of(call.inputs))
        try:
            answer = await self._request("POST", self._events(), body=mapping.insert_body(call), notify=notify)
        except VendorRejected as error:
            if error.status != 409:
                raise
            return await self._adopt(call, error)
        return mapping.effect_of(answer.json(), "created")

    async def _adopt(self, call: Call, refusal: VendorRejected) -> Effect:
        """Return the event that holds our id already, if an earlier attempt made it; else raise the refusal."""
        try:
            found = await self.find(call)
        except VendorError as error:
            raise OutcomeUnknown(
                "google_calendar: the id is taken, and by whom could not be read",
                vendor="google_calendar",
                reason="duplicate",
            ) from error
        if found is None:
            raise refusal
        return found

    async def _delete(self, event_id: str) -> Effect:
        try:
            await self._request("DELETE", self._event(event_id), notify="all")
        except VendorRejected as error:
            if error.status in GONE_STATUSES:
                return event_gone(event_id)
            raise
        return Effect(state="done", external_id=event_id, detail=f"event {event_id} deleted")

    async def _get(self, event_id: str) -> Any | None:
        try:
            return (await self._request("GET", self._event(event_id))).json()
        except VendorRejected as error:
            if error.status in GONE_STATUSES:
                return None
            raise

    def _events(self) -> str:
        return f"/calendars/{quote(self._account.account_id or 'primary', safe='')}/events"

    def _event(self, event_id: str) -> str:
        return f"{self._events()}/{quote(event_id, safe='')}"

    async def _request(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        *,
        body: JsonValue | None = None,
        notify: str = "",
    ) -> VendorResponse:
        if not self._account.api_key:
            raise NotAuthorized(
                "google_calendar: there is no access token", vendor="google_calendar", reason="no_token"
            )
        headers = {"Authorization": f"Bearer {self._account.api_key}"}
        params = [("sendUpdates", notify)] if notify else None
        try:
            return await self._http.request(method, path, json_body=body, params=params, headers=headers)
        except VendorRejected as error:
            wait = http_outcome.retry_after_seconds(self._http.last_headers, utc_now())
            meant = mapping.reread(error, wait)
            raise meant from (error if meant is not error else None)
