"""Calls a business that implements `openapi.json`, or whose plan says where its endpoints are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import JsonValue

from wedsync.domain.errors import InvalidInput, VendorRejected, VendorUnavailable
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.read_inputs import booking_of, needed_fact_of
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.generic import mapping

#: Nothing is at this address: no booking, or no such endpoint.
_GONE_STATUSES = (404, 410)
_GONE_CODES = ("already_cancelled", "cancelled")


class Client:
    """One account's client; the business is `Call.account`, or the plan's `api_endpoints.base_url`."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Carry out `request`, `confirm`, `change` or `cancel`, each with an `Idempotency-Key`."""
        match call.operation:
            case "request":
                body = await self._call("request", call, mapping.request_body(call))
                return self._accepted(body, call, unanswered="done")
            case "confirm":
                body = await self._call("confirm", call, {"reference": call.reference})
                return self._accepted(body, call, unanswered="waiting")
            case "change":
                body = await self._call("change", call, mapping.details(booking_of(call)))
                return self._accepted(body, call, unanswered="done")
            case "cancel":
                return await self._cancel(call)
        raise InvalidInput(f"generic has no operation {call.operation}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find the booking that carries our reference, unless it was declined or cancelled."""
        for body in await self._by_reference(call):
            if mapping.status_of(body) not in ("declined", "cancelled"):
                return mapping.effect(body, call, "done")
        return None

    async def inspect(self, call: Call) -> Effect:
        """Read the booking as the business has it now: `held` and `pending` wait for the business to confirm."""
        body = await self._present(call)
        if body is None or mapping.status_of(body) == "cancelled":
            return Effect(state="absent", external_id=needed_fact_of(call, "booking_id"), detail="no such booking")
        return self._accepted(body, call, unanswered="waiting")

    async def _present(self, call: Call) -> Any | None:
        # The plan can say where bookings are found, not where one is read: it then has its own layout.
        if mapping.endpoints_of(call).find is not None:
            found = await self._by_reference(call)
            wanted = needed_fact_of(call, "booking_id")
            return next((body for body in found if body.get("id") == wanted), None)
        try:
            return await self._call("look", call, None)
        except VendorRejected as error:
            if error.status in _GONE_STATUSES:
                return None
            raise

    async def _by_reference(self, call: Call) -> list[Any]:
        try:
            body = await self._call("find", call, None)
        except VendorRejected as error:
            if error.status not in _GONE_STATUSES:
                raise
            if mapping.endpoints_of(call).find is not None:
                return []
            # By our contract a search that finds nothing answers with an empty list: it is not there just now.
            detail = f"generic: there is no search at its address ({error.status})"
            raise VendorUnavailable(detail, vendor="generic", reason="no_search", status=error.status) from error
        bookings = body.get("data") if isinstance(body, dict) else body
        if not isinstance(bookings, list):
            raise VendorUnavailable("generic: the search's answer is not a list", vendor="generic", reason="bad_answer")
        return [b for b in bookings if isinstance(b, dict) and b.get("reference") == call.reference]

    async def _cancel(self, call: Call) -> Effect:
        try:
            body = await self._call("cancel", call, {"reference": call.reference})
        except VendorRejected as error:
            is_gone = error.status in _GONE_STATUSES
            if not is_gone and error.reason not in _GONE_CODES:
                raise
            # The address may be wrong, which says nothing about the booking.
            if is_gone and await self.find(call) is not None:
                detail = "generic: there is no cancellation at its address, and the booking stands"
                raise VendorRejected(detail, vendor="generic", reason="not_cancelled", status=error.status) from error
            return Effect(
                state="absent", external_id=needed_fact_of(call, "booking_id"), detail="nothing left to cancel"
            )
        booking_id = needed_fact_of(call, "booking_id")
        if isinstance(body, dict) and body.get("status") not in (None, "cancelled"):
            raise VendorRejected("generic: the booking is still standing", vendor="generic", reason="not_cancelled")
        return Effect(state="done", external_id=booking_id, detail=f"booking {booking_id} cancelled")

    @staticmethod
    def _accepted(body: Any, call: Call, *, unanswered: Literal["done", "waiting"]) -> Effect:
        status = mapping.status_of(body)
        if status in ("declined", "cancelled"):
            raise VendorRejected(f"generic: the booking is {status}", vendor="generic", reason=status)
        return mapping.effect(body, call, "done" if status == "confirmed" else unanswered)

    async def _call(self, name: str, call: Call, body: JsonValue | None) -> Any:
        endpoints = mapping.endpoints_of(call)
        values = {"reference": call.reference}
        if name not in ("request", "find"):
            values["booking_id"] = needed_fact_of(call, "booking_id")
        method, path = mapping.endpoint(name, endpoints, values)
        base = mapping.base_url(endpoints.base_url, self._account.base_url, call.account)
        write = name not in ("find", "look")
        headers = {"Idempotency-Key": call.idempotency_key} if write else {}
        if self._account.api_version and self._account.api_version_header:
            headers[self._account.api_version_header] = self._account.api_version
        # Our key is for the account's own host; an address out of a plan must not learn it.
        if self._account.api_key and endpoints.base_url is None:
            headers["Authorization"] = f"Bearer {self._account.api_key}"
        sent = body if write and method not in ("GET", "DELETE") else None
        response = await self._http.request(method, base + path, write=write, json_body=sent, headers=headers)
        if name == "cancel" and not response.body:
            return None
        return response.json()
