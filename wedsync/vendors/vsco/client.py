"""Books a studio through VSCO Workspace: a job and its session, found again by external mapping.

Source: https://workspace.vsco.co/api (OpenAPI of API v2). The API has no idempotency keys; 429 with Retry-After.
"""

from __future__ import annotations

from typing import Any, Literal

from wedsync.domain.errors import InvalidInput, VendorRejected
from wedsync.domain.vendors.call import Call, Effect
from wedsync.domain.vendors.effects import identified
from wedsync.domain.vendors.read_inputs import booking_of, needed_fact_of
from wedsync.kit.http import VendorHttp
from wedsync.kit.vendor import Account
from wedsync.vendors.vsco import mapping

_GONE_STATUSES = (404, 410)
Kind = Literal["job", "event"]
_KINDS: dict[str, Kind] = {"create_job": "job", "add_event": "event"}


class Client:
    """One studio, known by its API key."""

    def __init__(self, http: VendorHttp, account: Account) -> None:
        http.read_error = mapping.read_error
        self._http = http
        self._account = account

    async def send(self, call: Call) -> Effect:
        """Carry out one of the manifest's operations."""
        match call.operation:
            case "create_job":
                body = await self._json("POST", "/job", mapping.job_body(call, self._account.webhook_url))
                return self._job(body, call)
            case "add_event":
                body = await self._json("POST", "/event", mapping.event_body(call, self._account.webhook_url))
                return self._event(body, call)
            case "update_job":
                fields = mapping.job_fields(booking_of(call))
                return self._job(await self._json("PUT", f"/job/{needed_fact_of(call, 'job_id')}", fields), call)
            case "update_event":
                fields = mapping.event_fields(booking_of(call))
                body = await self._json("PUT", f"/event/{needed_fact_of(call, 'event_id')}", fields)
                return self._event(body, call, changed=True)
            case "delete_job":
                return await self._delete("job", call)
            case "delete_event":
                return await self._delete("event", call)
        raise InvalidInput(f"vsco has no operation {call.operation}", field="operation")

    async def find(self, call: Call) -> Effect | None:
        """Find the job or event with our reference as external mapping, oldest first, closed jobs too."""
        kind = _KINDS.get(call.operation)
        if kind is None:
            raise InvalidInput(f"vsco can't look for {call.operation}", field="operation")
        params = [("externalMappingId", call.reference), ("pageSize", "10"), ("sortBy", "created asc")]
        params.append(("includeClosed", "true") if kind == "job" else ("includeHidden", "true"))
        response = await self._http.request("GET", f"/{kind}", params=params, headers=self._headers())
        body = response.json()
        items = body.get("items") if isinstance(body, dict) else None
        found = next((item for item in items or [] if mapping.carries(item, call.reference)), None)
        if found is None:
            return None
        return self._job(found, call) if kind == "job" else self._event(found, call)

    async def inspect(self, call: Call) -> Effect:
        """Read the job's stage: a lead waits for the studio, a closed one was turned down."""
        job_id = needed_fact_of(call, "job_id")
        try:
            response = await self._http.request("GET", f"/job/{job_id}", headers=self._headers())
        except VendorRejected as error:
            if error.status in _GONE_STATUSES:
                return Effect(state="absent", external_id=job_id, detail="no such job")
            raise
        job = response.json()
        if mapping.is_booked(job):
            return self._job(job, call)
        if isinstance(job, dict) and job.get("closed") is True:
            raise VendorRejected("vsco: the studio closed the job", vendor="vsco", reason="job_closed")
        return self._job(job, call).model_copy(update={"state": "waiting"})

    def _headers(self) -> dict[str, str]:
        return {"X-API-KEY": self._account.api_key, "Accept": "application/json"}

    async def _json(self, method: Literal["POST", "PUT"], path: str, body: Any) -> Any:
        response = await self._http.request(method, path, json_body=body, headers=self._headers())
        return response.json()

    async def _delete(self, kind: Kind, call: Call) -> Effect:
        if kind == "event" and not call.facts.get("event_id"):
            return Effect(state="absent", detail="no event was added")
        known = needed_fact_of(call, f"{kind}_id")
        try:
            await self._http.request("DELETE", f"/{kind}/{known}", headers=self._headers())
        except VendorRejected as error:
            if error.status in _GONE_STATUSES:
                return Effect(state="absent", external_id=known, detail=f"{kind} {known} is gone")
            raise
        return Effect(state="done", external_id=known, detail=f"{kind} {known} deleted")

    @staticmethod
    def _job(body: Any, call: Call) -> Effect:
        job_id = identified(body, "vsco")["id"]
        return Effect(
            state="done",
            external_id=job_id,
            facts={"booking_id": job_id, "reference": call.reference, "job_id": job_id},
            etag=_modified(body),
            detail=f"job {job_id}",
        )

    @staticmethod
    def _event(body: Any, call: Call, *, changed: bool = False) -> Effect:
        event_id = identified(body, "vsco")["id"]
        job_id = body["jobId"] if isinstance(body.get("jobId"), str) else needed_fact_of(call, "job_id")
        later = not changed and booking_of(call).answer == "webhook"
        return Effect(
            state="waiting" if later else "done",
            # The studio will confirm the job.
            external_id=job_id,
            facts={"booking_id": job_id, "reference": call.reference, "job_id": job_id, "event_id": event_id},
            etag=_modified(body),
            detail=f"event {event_id} of job {job_id}",
        )


def _modified(body: Any) -> str | None:
    modified = body.get("modified") if isinstance(body, dict) else None
    return modified if isinstance(modified, str) else None
